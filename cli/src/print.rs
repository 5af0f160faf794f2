//! Printing for people, and for programs.

use std::fmt;
use std::io::{self, Write};

use claviger_protocol::control::RecipientInfo;
use claviger_protocol::failure::ExitCode;
pub use claviger_protocol::plain::{plain, plain_line, steers};
use serde::Serialize;
use serde_json::Value;

use crate::Failed;
use crate::args::Output;

/// `println!`, of one line in which nothing steers the terminal: names and labels in it are chosen by
/// others. For a reader who may leave, as `head` does, or a disk that may be full: neither is a reason to panic.
macro_rules! outln {
    ($($text:tt)*) => {
        $crate::print::line(format_args!($($text)*))
    };
}
pub(crate) use outln;

/// The same on standard error; if nobody takes it, nobody is told.
macro_rules! errln {
    ($($text:tt)*) => {
        $crate::print::error_line(format_args!($($text)*))
    };
}
pub(crate) use errln;

/// Writes a line to standard output; ends the process if nobody takes it any more.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    as_it_is(&plain_line(&text.to_string()));
}

/// Writes a line to standard error.
pub(crate) fn error_line(text: fmt::Arguments<'_>) {
    let line = plain_line(&text.to_string()) + "\n";
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Writes a text that has lines of its own to standard error.
pub fn error_lines(text: &str) {
    text.split('\n').for_each(|line| errln!("{line}"));
}

fn as_it_is(text: &str) {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            std::process::exit(ExitCode::Internal as i32);
        }
        Err(error) => {
            errln!("claviger: standard output: {error}");
            std::process::exit(ExitCode::Internal as i32);
        }
    }
}

/// Prints a reply as JSON.
///
/// # Errors
/// [`Failed`] only if a reply cannot be JSON, which would be a fault of ours.
pub fn json(reply: &impl Serialize) -> Result<(), Failed> {
    let text = serde_json::to_string_pretty(reply)
        .map_err(|error| Failed::new(ExitCode::Internal, error.to_string()))?;
    // Escapes are JSON's own.
    as_it_is(&text);
    Ok(())
}

/// Prints an object: a line a field, or as JSON.
///
/// # Errors
/// As [`json`].
pub fn facts(facts: &Value, output: &Output) -> Result<(), Failed> {
    if output.json {
        return json(facts);
    }
    for (name, value) in facts.as_object().into_iter().flatten() {
        match value {
            Value::Array(rows) => {
                outln!("{name}:");
                for row in rows {
                    outln!("  {row}");
                }
            }
            Value::String(text) => outln!("{name}: {text}"),
            other => outln!("{name}: {other}"),
        }
    }
    Ok(())
}

/// A line a recipient.
pub fn recipients(recipients: &[RecipientInfo]) {
    for recipient in recipients {
        outln!(
            "  {:<10} {:<9} {}  {}",
            recipient.kind,
            recipient.key_type,
            short(&recipient.key_id),
            recipient.label
        );
    }
}

/// Enough of a key id to tell keys apart, and to name one on the command line.
pub fn short(key_id: &str) -> &str {
    key_id.get(..16).unwrap_or(key_id)
}
