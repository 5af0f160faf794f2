//! How an operation on the lower folder can fail, by what the caller does about it.

use std::io;

use crate::dir::DirError;
use crate::ecryptfs::EcryptfsError;
use crate::names::{EpochRefused, NameError};
use crate::native::{FileError, Unsupported};
use crate::symlink::TargetError;

/// Why an operation on a file or directory failed. Texts name no plaintext.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The lower filesystem refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No name or target can be that long.
    #[error("name too long")]
    NameTooLong,
    /// Not a name that a file can have.
    #[error("not a name that a file can have")]
    InvalidName,
    /// Beyond the largest size a file can have.
    #[error("larger than a file can be")]
    TooLarge,
    /// Opened for reading only.
    #[error("opened for reading only")]
    ReadOnly,
    /// Of a later version, or by a cipher that is not known here.
    #[error("{0}")]
    Unsupported(String),
    /// What the lower folder holds does not verify, or is not as the format has it.
    #[error("{0}")]
    Damaged(String),
}

impl From<nix::Error> for FormatError {
    fn from(errno: nix::Error) -> Self {
        Self::Io(errno.into())
    }
}

impl From<FileError> for FormatError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io(error) => Self::Io(error),
            FileError::TooLarge => Self::TooLarge,
            FileError::ReadOnly => Self::ReadOnly,
            FileError::Unsupported(what) => what.into(),
            FileError::NeverReachedDisk
            | FileError::Integrity(_)
            | FileError::Misplaced
            | FileError::NoNamesKey(_)
            | FileError::Poisoned => Self::Damaged(error.to_string()),
        }
    }
}

impl From<Unsupported> for FormatError {
    fn from(what: Unsupported) -> Self {
        match what {
            // Not ours at all, or no longer.
            Unsupported::Magic | Unsupported::Layout => Self::Damaged(what.to_string()),
            Unsupported::Version(_) | Unsupported::Suite(_) | Unsupported::CriticalFlags(_) => {
                Self::Unsupported(what.to_string())
            }
        }
    }
}

impl From<DirError> for FormatError {
    fn from(error: DirError) -> Self {
        match error {
            DirError::Io(error) => Self::Io(error),
            DirError::Version(_) => Self::Unsupported(error.to_string()),
            DirError::NeverReachedDisk
            | DirError::NotAuthentic
            | DirError::Misplaced
            | DirError::Epoch(_) => Self::Damaged(error.to_string()),
        }
    }
}

impl From<NameError> for FormatError {
    fn from(error: NameError) -> Self {
        match error {
            NameError::TooLong => Self::NameTooLong,
            NameError::Invalid => Self::InvalidName,
            NameError::Foreign => Self::Damaged(error.to_string()),
        }
    }
}

impl From<TargetError> for FormatError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::TooLong => Self::NameTooLong,
            TargetError::Foreign => Self::Damaged(error.to_string()),
        }
    }
}

impl From<EpochRefused> for FormatError {
    fn from(error: EpochRefused) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<EcryptfsError> for FormatError {
    fn from(error: EcryptfsError) -> Self {
        match error {
            EcryptfsError::Io(error) => Self::Io(error),
            EcryptfsError::NameTooLong => Self::NameTooLong,
            EcryptfsError::TooLarge => Self::TooLarge,
            EcryptfsError::ReadOnly => Self::ReadOnly,
            EcryptfsError::Version(_) | EcryptfsError::Cipher(_) => {
                Self::Unsupported(error.to_string())
            }
            EcryptfsError::NotEcryptfs
            | EcryptfsError::NeverWritten
            | EcryptfsError::NotEncrypted
            | EcryptfsError::Malformed(_)
            | EcryptfsError::NoKey(_)
            | EcryptfsError::WrongPassphrase(_)
            | EcryptfsError::PassphraseLen(_)
            | EcryptfsError::CutShort(_)
            | EcryptfsError::TooManyRecipients => Self::Damaged(error.to_string()),
        }
    }
}
