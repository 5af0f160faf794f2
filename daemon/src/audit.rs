//! The audit log: a line for each unlock, unwrap and lock, in `STATE/claviger/audit.log`.
//!
//! One JSON object a line, appended in one write(2), mode 0600. It tells who asked, for what, by which
//! key, and how it ended; never a secret, and names only as they are in the lower folder.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use claviger_protocol::{Failure, log_file};
use nix::unistd::Uid;
use serde::Serialize;

use crate::errand::Errand;

/// A log of this size is moved to `audit.log.1`, replacing what was there.
const FULL: u64 = 16 << 20;

/// The audit log of this daemon.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    file: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    size: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A volume was unlocked.
    Unlock,
    /// A volume was locked.
    Lock,
    /// The FEKs of a file were unwrapped.
    Unwrap,
    /// Recipients were added or removed.
    Recipients,
    /// A volume was made.
    Init,
    /// A stream was sealed.
    Seal,
    /// The key of a sealed stream was unwrapped.
    Unseal,
}

/// The key that was used, or tried last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsedKey {
    /// Key id, hexadecimal.
    pub key_id: Option<String>,
    /// The module that used it; `epoch-key` if no token was needed.
    pub module: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: Event,
    uid: u32,
    pid: u32,
    program: Option<&'a str>,
    /// The pid, and so the program, are what the requester says.
    program_verified: bool,
    volume: Option<String>,
    lower_path: Option<&'a str>,
    key: Option<&'a str>,
    module: Option<&'a str>,
    result: String,
    duration_ms: u128,
}

impl Audit {
    /// Opens or makes the log in `dir`, which exists.
    ///
    /// # Errors
    /// If it cannot be appended to.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("audit.log");
        let log = Mutex::new(Log::open(&path)?);
        Ok(Self { path, file: log })
    }

    /// Adds a line. A line that cannot be written is reported to the daemon's log instead.
    pub fn record<T>(
        &self,
        event: Event,
        errand: &Errand,
        key: &UsedKey,
        result: &Result<T, Failure>,
        took: Duration,
    ) {
        let line = Line {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            event,
            uid: Uid::current().as_raw(),
            pid: errand.program.pid,
            program: errand.program.name.as_deref(),
            program_verified: false,
            volume: errand.volume.as_ref().map(|volume| volume.id.to_string()),
            lower_path: errand.lower_path.as_deref(),
            key: key.key_id.as_deref(),
            module: key.module.as_deref(),
            result: match result {
                Ok(_) => "ok".into(),
                Err(failure) => failure.to_string(),
            },
            duration_ms: took.as_millis(),
        };
        if let Err(error) = self.append(&line) {
            tracing::error!(%error, path = %self.path.display(), "audit line lost");
        }
    }

    fn append(&self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut log = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if log.size > FULL {
            match self.begin_anew() {
                Ok(new) => *log = new,
                // It goes on where it is: a line in a log that is too long is better than none.
                Err(error) => {
                    tracing::warn!(%error, path = %self.path.display(), "full audit log not put aside");
                }
            }
        }
        log.file.write_all(&text)?;
        log.size += text.len() as u64;
        Ok(())
    }

    fn begin_anew(&self) -> io::Result<Log> {
        match log_file::put_aside(&self.path) {
            // Somebody else has moved it, or we did and could not open the next one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
        Log::open(&self.path)
    }
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let file = log_file::append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::errand::Program;

    fn errand() -> Errand {
        Errand {
            volume: None,
            lower_path: Some("a\"\nb".into()),
            program: Program { pid: 3, name: None },
        }
    }

    #[test]
    fn an_entry_is_one_line_of_json_whatever_the_names_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let result: Result<(), _> = Err(Failure::Locked);
        let took = Duration::from_millis(12);
        audit.record(Event::Unwrap, &errand(), &UsedKey::default(), &result, took);
        let text = fs::read_to_string(dir.path().join("audit.log")).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["event"], "unwrap");
        assert_eq!(line["lower_path"], "a\"\nb");
        assert_eq!(line["result"], "volume is locked");
        assert_eq!(line["duration_ms"], 12);
        assert_eq!(line["program_verified"], false);
    }

    #[test]
    fn the_log_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        Audit::open(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join("audit.log"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_full_log_is_put_aside_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        File::create(&path).unwrap().set_len(FULL + 1).unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let took = Duration::ZERO;
        audit.record(Event::Lock, &errand(), &UsedKey::default(), &Ok(()), took);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(
            fs::metadata(dir.path().join("audit.log.1")).unwrap().len(),
            FULL + 1
        );
    }

    #[test]
    fn a_full_log_that_somebody_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        File::create(&path).unwrap().set_len(FULL + 1).unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        fs::remove_file(&path).unwrap();
        let took = Duration::ZERO;
        audit.record(Event::Lock, &errand(), &UsedKey::default(), &Ok(()), took);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn no_line_is_lost_where_a_full_log_cannot_be_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        File::create(&path).unwrap().set_len(FULL + 1).unwrap();
        fs::create_dir(dir.path().join("audit.log.1")).unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let took = Duration::ZERO;
        audit.record(Event::Lock, &errand(), &UsedKey::default(), &Ok(()), took);
        assert!(fs::metadata(&path).unwrap().len() > FULL + 1);
    }
}
