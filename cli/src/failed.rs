//! Why a command failed, as the person who typed it is told.

use core::fmt;
use std::io;
use std::path::Path;

use claviger_protocol::Failure;
use claviger_protocol::failure::ExitCode;
use nix::errno::Errno;

use crate::print;

/// A command failed: what happened, what to do about it, and the exit code.
#[derive(Debug)]
pub struct Failed {
    code: ExitCode,
    what: String,
    advice: Option<String>,
}

impl Failed {
    /// With a code of its own.
    pub fn new(code: ExitCode, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            advice: None,
        }
    }

    /// A wrong command line, or input that cannot be meant.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, what)
    }

    /// Something the system refused, to a file.
    pub fn file(path: &Path, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => ExitCode::NotFound,
            io::ErrorKind::PermissionDenied => ExitCode::Permission,
            _ => ExitCode::Internal,
        };
        Self::new(code, format!("{}: {}", path.display(), plain(error)))
    }

    /// Something of a volume that does not verify.
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::new(ExitCode::Integrity, what).advise(DAMAGED)
    }

    /// Adds what to do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Says it on standard error.
    pub fn tell(&self) {
        print::error_lines(&self.to_string());
    }

    /// What the process exits with.
    pub fn code(&self) -> ExitCode {
        self.code
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claviger: {}", self.what)?;
        match &self.advice {
            Some(advice) => write!(f, "\n  {advice}"),
            None => Ok(()),
        }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        let advice = advice(&failure);
        Self {
            code: failure.exit_code(),
            what: failure.to_string(),
            advice: advice.map(Into::into),
        }
    }
}

/// What happened, without the number that Rust appends.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => Errno::from_raw(errno).desc().into(),
        None => error.to_string(),
    }
}

const DAMAGED: &str =
    "Do not write to it; 'claviger verify DIR' lists what is damaged: restore that from a backup";

/// What to do about a failure, where there is one thing to do.
fn advice(failure: &Failure) -> Option<&'static str> {
    match failure {
        Failure::TokenAbsent { .. } => Some(
            "Insert it and try again; 'claviger recipient list' shows what else opens a volume",
        ),
        Failure::NotARecipient(_) => Some(
            "See who opens it with 'claviger recipient list', and your keys with 'claviger key list'",
        ),
        Failure::PinBlocked { .. }
        | Failure::PinWrong {
            tries_left: Some(0),
            ..
        } => Some("Unblock it with the token's own tool, or open with another recipient"),
        Failure::PinWrong { .. } => {
            Some("It was sent once and is forgotten; try again with the right one")
        }
        Failure::Locked => Some("Open it with 'claviger unlock'"),
        Failure::NoDaemon { .. } => {
            Some("Start one by any claviger command of that user, such as 'claviger status'")
        }
        Failure::Identity(_) => Some("Do not enter a PIN or write to it unless you know why"),
        Failure::Integrity(_) => Some(DAMAGED),
        Failure::Busy(_) => Some("Somebody else is at it: try again in a moment"),
        Failure::TpmLockout(_) => Some("Wait as said, or open with another recipient"),
        Failure::Module { .. } => {
            Some("The next request starts the module anew; see the daemon's log")
        }
        Failure::NobodyToAsk { .. }
        | Failure::Internal(_)
        | Failure::Usage(_)
        | Failure::NotFound(_)
        | Failure::Declined
        | Failure::TimedOut { .. }
        | Failure::Cancelled
        | Failure::BadMountpoint(_)
        | Failure::Permission(_)
        | Failure::Policy(_)
        | Failure::Unsupported(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_try_a_pin_again_that_has_no_tries_left() {
        let advice_with = |tries_left| {
            let token = "card".into();
            advice(&Failure::PinWrong { token, tries_left }).unwrap()
        };
        for left in [None, Some(1), Some(2)] {
            assert!(advice_with(left).contains("try again"), "{left:?}");
        }
        let blocked = advice_with(Some(0));
        assert!(!blocked.contains("try again"), "{blocked}");
        assert!(blocked.contains("Unblock it"), "{blocked}");
    }
}
