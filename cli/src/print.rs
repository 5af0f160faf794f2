//! Shared ways of reading secrets from files and of printing replies.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use claviger_protocol::Secret;
use claviger_protocol::control::RecipientInfo;
use claviger_protocol::failure::ExitCode;
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::Failed;
use crate::args::Output;

/// `println!` for a reader who may leave, as `head` does, or a disk that may be full: neither is a reason
/// to panic.
macro_rules! outln {
    ($($text:tt)*) => {
        $crate::print::line(format_args!($($text)*))
    };
}
pub(crate) use outln;

/// Writes a line to standard output; ends the process if nobody takes it any more.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            std::process::exit(ExitCode::Internal as i32);
        }
        Err(error) => {
            eprintln!("claviger: standard output: {error}");
            std::process::exit(ExitCode::Internal as i32);
        }
    }
}

/// A file with a secret is one line; anything longer is the wrong file.
const SECRET_MAX: u64 = 4096;

/// Reads the first line of `path`, `-` being standard input.
///
/// # Errors
/// [`Failed`] if it cannot be read, is empty or too long.
pub fn read_secret(path: &Path) -> Result<Secret, Failed> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX as usize + 1));
    let source: &mut dyn Read = if path == Path::new("-") {
        &mut io::stdin()
    } else {
        &mut File::open(path).map_err(|error| Failed::file(path, &error))?
    };
    source
        .take(SECRET_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failed::file(path, &error))?;
    let line = bytes
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    if line.is_empty() {
        return Err(Failed::usage(format!(
            "{} has an empty first line",
            path.display()
        )));
    }
    if line.len() as u64 > SECRET_MAX {
        return Err(Failed::usage(format!(
            "the first line of {} is too long",
            path.display()
        )));
    }
    Ok(Secret::new(line.to_vec()))
}

/// Prints a reply as JSON.
///
/// # Errors
/// [`Failed`] only if a reply cannot be JSON, which would be a fault of ours.
pub fn json(reply: &impl Serialize) -> Result<(), Failed> {
    let text = serde_json::to_string_pretty(reply)
        .map_err(|error| Failed::new(ExitCode::Internal, error.to_string()))?;
    outln!("{text}");
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
                    outln!("  {}", plain_line(&row.to_string()));
                }
            }
            Value::String(text) => outln!("{name}: {}", plain_line(text)),
            other => outln!("{name}: {other}"),
        }
    }
    Ok(())
}

/// `text` with escapes for what could steer a terminal or turn its writing around: names and labels
/// in it are chosen by others. Lines stay lines.
pub fn plain(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(plain_line).collect();
    lines.join("\n")
}

/// The same for what is to stay on its line.
pub fn plain_line(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Marks, embeddings, overrides and isolates of right-to-left text.
            '\u{61c}'
            | '\u{200e}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                plain.extend(c.escape_unicode());
            }
            c if c.is_control() => plain.extend(c.escape_default()),
            c => plain.push(c),
        }
    }
    plain
}

/// A line a recipient.
pub fn recipients(recipients: &[RecipientInfo]) {
    for recipient in recipients {
        outln!(
            "  {:<10} {:<9} {}  {}",
            recipient.kind,
            recipient.key_type,
            short(&recipient.key_id),
            plain_line(&recipient.label)
        );
    }
}

/// Enough of a key id to tell keys apart, and to name one on the command line.
pub fn short(key_id: &str) -> &str {
    key_id.get(..16).unwrap_or(key_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_of_others_steer_no_terminal() {
        let text = "wrong:\n \u{1b}]0;title\u{7}\r\u{9b}31m\u{202e}gpj.exe größe 鍵";
        assert_eq!(
            plain(text),
            "wrong:\n \\u{1b}]0;title\\u{7}\\r\\u{9b}31m\\u{202e}gpj.exe größe 鍵"
        );
        assert_eq!(plain_line("a\nall is well"), "a\\nall is well");
    }
}
