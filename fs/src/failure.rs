//! What a file operation fails with, and the one table of errnos.

use claviger_protocol::Failure;
use claviger_vault::dir::DirError;
use claviger_vault::names::{EpochRefused, NameError};
use claviger_vault::native::{FileError, Unsupported};
use claviger_vault::symlink::TargetError;
use nix::errno::Errno;

/// Why a file operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpError {
    /// The lower filesystem, or a rule of POSIX, refuses it.
    #[error("{0}")]
    Errno(#[from] Errno),
    /// No key, and why.
    #[error("{0}")]
    Key(#[from] Failure),
    /// What the lower folder holds does not verify; the text says what, and names no plaintext.
    #[error("{0}")]
    Damaged(String),
}

impl OpError {
    /// The volume is locked, or this handle's keys are gone.
    pub(crate) const LOCKED: Self = Self::Key(Failure::Locked);

    /// What the application gets. No `_` arm: a new variant must choose its errno.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Errno(errno) => *errno as i32,
            Self::Key(failure) => failure.errno(),
            Self::Damaged(_) => libc::EIO,
        }
    }
}

impl From<FileError> for OpError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io(error) => io_errno(error).into(),
            FileError::TooLarge => Errno::EFBIG.into(),
            FileError::ReadOnly => Errno::EBADF.into(),
            FileError::Unsupported(what) => what.into(),
            FileError::NeverReachedDisk
            | FileError::Integrity(_)
            | FileError::Misplaced
            | FileError::NoNamesKey(_)
            | FileError::Poisoned => Self::Damaged(error.to_string()),
        }
    }
}

impl From<Unsupported> for OpError {
    fn from(what: Unsupported) -> Self {
        match what {
            // Not ours at all, or no longer.
            Unsupported::Magic | Unsupported::Layout => Self::Damaged(what.to_string()),
            Unsupported::Version(_) | Unsupported::Suite(_) | Unsupported::CriticalFlags(_) => {
                Failure::Unsupported(what.to_string()).into()
            }
        }
    }
}

impl From<DirError> for OpError {
    fn from(error: DirError) -> Self {
        match error {
            DirError::Io(error) => io_errno(error).into(),
            DirError::Version(_) => Failure::Unsupported(error.to_string()).into(),
            DirError::NeverReachedDisk
            | DirError::NotAuthentic
            | DirError::Misplaced
            | DirError::Epoch(_) => Self::Damaged(error.to_string()),
        }
    }
}

impl From<NameError> for OpError {
    fn from(error: NameError) -> Self {
        match error {
            NameError::TooLong => Errno::ENAMETOOLONG.into(),
            NameError::Invalid => Errno::EINVAL.into(),
            NameError::Foreign => Self::Damaged(error.to_string()),
        }
    }
}

impl From<TargetError> for OpError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::TooLong => Errno::ENAMETOOLONG.into(),
            TargetError::Foreign => Self::Damaged(error.to_string()),
        }
    }
}

impl From<EpochRefused> for OpError {
    fn from(error: EpochRefused) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// The errno of an I/O error; one without was never the kernel's.
pub(crate) fn io_errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
