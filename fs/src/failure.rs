//! What a file operation fails with, and the one table of errnos.

use claviger_protocol::Failure;
use claviger_vault::dir::DirError;
use claviger_vault::format::FormatError;
use claviger_vault::names::EpochRefused;
use claviger_vault::native::FileError;
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

impl From<FormatError> for OpError {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Io(error) => io_errno(error).into(),
            FormatError::NameTooLong => Errno::ENAMETOOLONG.into(),
            FormatError::InvalidName => Errno::EINVAL.into(),
            FormatError::TooLarge => Errno::EFBIG.into(),
            FormatError::ReadOnly => Errno::EBADF.into(),
            FormatError::Unsupported(text) => Failure::Unsupported(text).into(),
            FormatError::Damaged(text) => Self::Damaged(text),
        }
    }
}

impl From<FileError> for OpError {
    fn from(error: FileError) -> Self {
        FormatError::from(error).into()
    }
}

impl From<DirError> for OpError {
    fn from(error: DirError) -> Self {
        FormatError::from(error).into()
    }
}

impl From<EpochRefused> for OpError {
    fn from(error: EpochRefused) -> Self {
        FormatError::from(error).into()
    }
}

/// The errno of an I/O error; one without was never the kernel's.
pub(crate) fn io_errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
