//! The closed set of failures, and the tables that give each its errno and its exit code.

use std::io;

use claviger_vault::manifest::ManifestError;
use serde::{Deserialize, Serialize};

/// Why a request to `clavigerd` failed.
///
/// A variant exists because a caller acts on it or a user must be told something different. What
/// depends on a secret (a wrapped key that does not open) is one variant: [`Failure::Integrity`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// A fault of ours, or of the system under us; the text is for the log.
    #[error("internal error: {0}")]
    Internal(String),
    /// The request made no sense: a bad option, a bad key reference.
    #[error("{0}")]
    Usage(String),
    /// There is no volume, file, key or token by that name.
    #[error("{0}")]
    NotFound(String),
    /// No key of this user opens the volume or file.
    #[error("not a recipient here: {0}")]
    NotARecipient(String),
    /// A key of this user would open it, and its token is not here.
    #[error("token not present: {token}")]
    TokenAbsent {
        /// How the token is named to people.
        token: String,
    },
    /// The token refused the PIN; it has been forgotten and will not be sent again.
    #[error("{token} refused the PIN{}", tries_left_text(*.tries_left))]
    PinWrong {
        /// How the token is named to people.
        token: String,
        /// Where the token tells.
        tries_left: Option<u32>,
    },
    /// The PIN is blocked, or this would be its final try and nobody agreed to that.
    #[error("PIN of {token} is blocked, or has one try left that is not spent unasked")]
    PinBlocked {
        /// How the token is named to people.
        token: String,
    },
    /// A PIN or a touch is needed and there is nobody to ask.
    #[error("{what} needed, and no terminal or display to ask on: run 'claviger unlock'")]
    NobodyToAsk {
        /// `PIN of TOKEN`, or `passphrase`.
        what: String,
    },
    /// The person asked said no.
    #[error("declined")]
    Declined,
    /// The deadline passed: a token, a module or a person did not answer in time.
    #[error("timed out waiting for {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
    },
    /// The requester called it back.
    #[error("cancelled")]
    Cancelled,
    /// The volume is locked.
    #[error("volume is locked")]
    Locked,
    /// The daemon of this user is not running or did not register.
    #[error("no clavigerd answers for uid {uid}")]
    NoDaemon {
        /// Whose daemon.
        uid: u32,
    },
    /// The mount point cannot be used.
    #[error("{0}")]
    BadMountpoint(String),
    /// The system denied access to something.
    #[error("{0}")]
    Permission(String),
    /// What the lower folder holds does not verify.
    #[error("integrity: {0}")]
    Integrity(String),
    /// The volume is not the one that was known, or is an older state of it.
    #[error("volume identity: {0}")]
    Identity(String),
    /// Policy forbids it.
    #[error("forbidden by policy: {0}")]
    Policy(String),
    /// The TPM is in dictionary-attack lockout.
    #[error("the TPM is in lockout: {0}")]
    TpmLockout(String),
    /// An algorithm, format version or critical flag that this program does not know.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// Too much is asked at once, or somebody else holds it.
    #[error("busy: {0}")]
    Busy(String),
    /// A token module crashed, hung or could not be started.
    #[error("module {module}: {what}")]
    Module {
        /// The module's name, as in an auth tok.
        module: String,
        /// What happened to it.
        what: String,
    },
}

impl Failure {
    /// What it means that a volume's manifest cannot be used, told as `text`.
    pub fn of_manifest(text: String, error: &ManifestError) -> Self {
        match error {
            ManifestError::Missing => Self::NotFound(text),
            ManifestError::Malformed { .. }
            | ManifestError::CutShort
            | ManifestError::UnknownKey { .. }
            | ManifestError::TooLarge
            | ManifestError::NotAuthentic
            | ManifestError::Chain(_) => Self::Integrity(text),
            ManifestError::NewerFormat(_) | ManifestError::UnknownSuite(_) => {
                Self::Unsupported(text)
            }
            ManifestError::Conflict | ManifestError::Occupied => Self::Busy(text),
            ManifestError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Self::Permission(text)
            }
            ManifestError::Memory(_) | ManifestError::Io(_) => Self::Internal(text),
        }
    }

    /// What open(2) and its like report. No `_` arm: a new variant must choose its errno.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Internal(_) | Self::Integrity(_) | Self::Identity(_) => libc::EIO,
            Self::Usage(_) => libc::EINVAL,
            Self::NotFound(_) => libc::ENOENT,
            Self::NotARecipient(_) | Self::Locked | Self::NoDaemon { .. } => libc::ENOKEY,
            Self::TokenAbsent { .. } => libc::ENOMEDIUM,
            Self::PinWrong { .. } => libc::EKEYREJECTED,
            Self::PinBlocked { .. } | Self::TpmLockout(_) => libc::EKEYREVOKED,
            Self::NobodyToAsk { .. } => libc::ENOKEY,
            Self::Declined => libc::ECANCELED,
            Self::TimedOut { .. } => libc::ETIMEDOUT,
            Self::Cancelled => libc::EINTR,
            Self::BadMountpoint(_) => libc::ENOTDIR,
            Self::Permission(_) => libc::EACCES,
            Self::Policy(_) => libc::EPERM,
            Self::Unsupported(_) => libc::EOPNOTSUPP,
            Self::Busy(_) => libc::EAGAIN,
            Self::Module { .. } => libc::EREMOTEIO,
        }
    }

    /// What `claviger` exits with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Internal(_) | Self::Module { .. } | Self::NoDaemon { .. } => ExitCode::Internal,
            Self::Usage(_) => ExitCode::Usage,
            Self::NotFound(_) => ExitCode::NotFound,
            Self::NotARecipient(_) => ExitCode::NotARecipient,
            Self::TokenAbsent { .. } => ExitCode::TokenAbsent,
            Self::PinWrong { .. } => ExitCode::PinWrong,
            Self::PinBlocked { .. } => ExitCode::PinBlocked,
            Self::NobodyToAsk { .. } | Self::Declined | Self::TimedOut { .. } | Self::Cancelled => {
                ExitCode::Declined
            }
            Self::Locked => ExitCode::Locked,
            Self::BadMountpoint(_) => ExitCode::BadMountpoint,
            Self::Permission(_) => ExitCode::Permission,
            Self::Integrity(_) => ExitCode::Integrity,
            Self::Identity(_) => ExitCode::Identity,
            Self::Policy(_) => ExitCode::Policy,
            Self::TpmLockout(_) => ExitCode::TpmLockout,
            Self::Unsupported(_) => ExitCode::Unsupported,
            Self::Busy(_) => ExitCode::Busy,
        }
    }
}

/// The exit codes of `claviger`: documented, stable, one table. Those not listed are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// It worked.
    Ok = 0,
    /// A fault of ours or of the system.
    Internal = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// No such volume or file.
    NotFound = 3,
    /// No key here opens it.
    NotARecipient = 4,
    /// The token is not present.
    TokenAbsent = 5,
    /// The token refused the PIN.
    PinWrong = 6,
    /// The PIN is blocked, or its final try was refused.
    PinBlocked = 7,
    /// The user declined, or nobody answered in time.
    Declined = 8,
    /// The volume is locked.
    Locked = 9,
    /// The mount point cannot be used.
    BadMountpoint = 10,
    /// Permission denied.
    Permission = 11,
    /// Something in the lower folder does not verify.
    Integrity = 12,
    /// The volume's identity changed, or it was rolled back.
    Identity = 13,
    /// Policy forbids it.
    Policy = 14,
    /// The TPM is in lockout.
    TpmLockout = 16,
    /// Unsupported algorithm or format.
    Unsupported = 17,
    /// Busy.
    Busy = 18,
    /// `claviger verify` found damage, or `claviger ecryptfs migrate` a difference.
    Damage = 26,
    /// `claviger ecryptfs migrate` could not copy everything.
    Incomplete = 27,
    /// `claviger doctor` found what keeps something from working.
    Unfit = 28,
}

impl ExitCode {
    /// Every code with the meaning that the man page prints.
    pub const TABLE: &'static [(Self, &'static str)] = &[
        (Self::Ok, "ok"),
        (Self::Internal, "internal error"),
        (Self::Usage, "usage or configuration error"),
        (Self::NotFound, "no such volume or file"),
        (Self::NotARecipient, "not a recipient: no key here opens it"),
        (Self::TokenAbsent, "token absent"),
        (Self::PinWrong, "PIN wrong"),
        (Self::PinBlocked, "PIN blocked, or its final try refused"),
        (Self::Declined, "declined, cancelled or timed out"),
        (Self::Locked, "locked"),
        (Self::BadMountpoint, "bad mountpoint"),
        (Self::Permission, "permission denied"),
        (Self::Integrity, "integrity failure"),
        (Self::Identity, "volume identity changed or rolled back"),
        (Self::Policy, "policy forbids"),
        (Self::TpmLockout, "TPM lockout"),
        (Self::Unsupported, "unsupported algorithm or format"),
        (Self::Busy, "busy"),
        (Self::Damage, "verify found damage, or migrate a difference"),
        (Self::Incomplete, "migrate could not copy everything"),
        (Self::Unfit, "doctor found something bad"),
    ];
}

fn tries_left_text(tries_left: Option<u32>) -> String {
    match tries_left {
        Some(1) => ", 1 try left".into(),
        Some(n) => format!(", {n} tries left"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_pin_says_how_many_tries_are_left() {
        let failure = Failure::PinWrong {
            token: "card".into(),
            tries_left: Some(2),
        };
        assert_eq!(failure.to_string(), "card refused the PIN, 2 tries left");
        assert_eq!(failure.exit_code() as u8, 6);
    }

    #[test]
    fn the_exit_code_table_is_in_order_and_names_each_code_once() {
        let codes: Vec<u8> = ExitCode::TABLE
            .iter()
            .map(|(code, _)| *code as u8)
            .collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
    }
}
