//! Logs that programs append to: for their owner only, and put aside when they are full.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The log of a program in the background is begun anew above this size.
const FULL: u64 = 4 << 20;

/// Opens or makes the log of a program that is about to go to the background; a full one is put aside.
///
/// # Errors
/// If it can be neither opened nor made.
pub fn begin(path: &Path) -> io::Result<File> {
    let log = append(path)?;
    if log.metadata()?.len() <= FULL {
        return Ok(log);
    }
    put_aside(path)?;
    append(path)
}

/// Opens or makes the log at `path`, mode 0600.
///
/// # Errors
/// If it can be neither opened nor made.
pub fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

/// Moves the log to `PATH.1`, replacing what was there. Who has it open goes on there.
///
/// # Errors
/// As rename(2).
pub fn put_aside(path: &Path) -> io::Result<()> {
    let mut aside = OsString::from(path);
    aside.push(".1");
    fs::rename(path, aside)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_full_log_is_put_aside_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("fs.log"), dir.path().join("fs.log.1"));
        let log = begin(&path).unwrap();
        assert_eq!(log.metadata().unwrap().mode() & 0o777, 0o600);
        log.set_len(FULL).unwrap();
        assert_eq!(begin(&path).unwrap().metadata().unwrap().len(), FULL);
        assert!(!aside.exists());

        log.set_len(FULL + 1).unwrap();
        assert_eq!(begin(&path).unwrap().metadata().unwrap().len(), 0);
        assert_eq!(fs::metadata(&aside).unwrap().len(), FULL + 1);
    }
}
