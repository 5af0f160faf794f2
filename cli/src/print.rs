//! Shared ways of reading secrets from files and of printing replies.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use claviger_protocol::Secret;
use claviger_protocol::control::RecipientInfo;
use claviger_protocol::failure::ExitCode;
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::Failed;
use crate::args::Output;

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
    println!("{text}");
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
                println!("{name}:");
                rows.iter().for_each(|row| println!("  {row}"));
            }
            Value::String(text) => println!("{name}: {text}"),
            other => println!("{name}: {other}"),
        }
    }
    Ok(())
}

/// A line a recipient.
pub fn recipients(recipients: &[RecipientInfo]) {
    for recipient in recipients {
        println!(
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
