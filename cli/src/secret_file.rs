//! Secrets that people keep in files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use claviger_protocol::Secret;
use zeroize::Zeroizing;

use crate::Failed;

/// A file with a secret is one line; anything longer is the wrong file.
const SECRET_MAX: u64 = 4096;

/// Reads the first line of `path`, `-` being standard input.
///
/// # Errors
/// [`Failed`] if it cannot be read, is empty or too long.
pub fn read(path: &Path) -> Result<Secret, Failed> {
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
