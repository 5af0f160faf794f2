//! Which failure each error of the crates below is: one table an enum, without a catch-all.

use std::io;
use std::path::Path;

use claviger_pki::auth_tok::AuthTokError;
use claviger_pki::auth_tok::enrolled::EnrolledError;
use claviger_pki::module::{ModuleError, PinState};
use claviger_pki::wrap::UnwrapError;
use claviger_protocol::Failure;
use claviger_vault::ecryptfs::EcryptfsError;
use claviger_vault::manifest::ManifestError;
use claviger_vault::pin::{PinError, Verdict};

/// What a module's error is to whoever asked for the key.
pub fn of_module(module: &str, error: ModuleError) -> Failure {
    match error {
        ModuleError::Absent(token) => Failure::TokenAbsent { token },
        ModuleError::NoSuchKey(what) => Failure::NotARecipient(what),
        ModuleError::PinNeeded { token, .. } => Failure::NobodyToAsk {
            what: format!("PIN of {token}"),
        },
        ModuleError::PinWrong { token, state } => Failure::PinWrong {
            token,
            tries_left: tries_left(state),
        },
        ModuleError::PinBlocked { token } => Failure::PinBlocked { token },
        ModuleError::Lockout(what) => Failure::TpmLockout(what),
        // Wrapped to this key, says the header, and it does not open: somebody changed it.
        ModuleError::NotDecryptable => does_not_open(),
        ModuleError::Unsupported(what) => Failure::Unsupported(what),
        ModuleError::BadRequest(what) => Failure::Usage(what),
        ModuleError::TimedOut => Failure::TimedOut {
            what: format!("module {module}"),
        },
        ModuleError::Cancelled => Failure::Cancelled,
        ModuleError::Backend { call, detail } => Failure::Module {
            module: module.into(),
            what: format!("{call} failed: {detail}"),
        },
        ModuleError::Process(what) => Failure::Module {
            module: module.into(),
            what,
        },
    }
}

/// What it means that something wrapped does not open; `module` is whose part it was.
pub fn of_unwrap(module: &str, error: UnwrapError) -> Failure {
    match error {
        UnwrapError::NotDecryptable => does_not_open(),
        UnwrapError::Algorithm(_) => Failure::Unsupported(error.to_string()),
        UnwrapError::Module(error) => of_module(module, error),
    }
}

/// What is wrong with a manifest.
pub fn of_manifest(error: ManifestError) -> Failure {
    Failure::of_manifest(error.to_string(), &error)
}

/// The same for the manifest of the volume in `dir`, which a person has named.
pub fn of_manifest_in(dir: &Path, error: ManifestError) -> Failure {
    Failure::of_manifest(format!("{}: {error}", dir.display()), &error)
}

/// What is wrong with something of eCryptfs.
pub fn of_ecryptfs(error: &EcryptfsError) -> Failure {
    let text = error.to_string();
    match error {
        EcryptfsError::NotEcryptfs
        | EcryptfsError::NeverWritten
        | EcryptfsError::NotEncrypted
        | EcryptfsError::Malformed(_)
        | EcryptfsError::CutShort(_) => Failure::Integrity(text),
        EcryptfsError::Version(_) | EcryptfsError::Cipher(_) => Failure::Unsupported(text),
        EcryptfsError::NoKey(_) | EcryptfsError::WrongPassphrase(_) => Failure::NotARecipient(text),
        EcryptfsError::PassphraseLen(_)
        | EcryptfsError::TooManyRecipients
        | EcryptfsError::NameTooLong
        | EcryptfsError::TooLarge
        | EcryptfsError::ReadOnly => Failure::Usage(text),
        EcryptfsError::Io(_) => Failure::Internal(text),
    }
}

/// Why a volume is not taken for the one that was known.
pub fn of_verdict(verdict: &Verdict) -> Failure {
    match verdict {
        Verdict::RolledBack { seen, found } => Failure::Identity(format!(
            "rolled back: epoch {} generation {} was seen here before, and the folder has epoch {} \
             generation {}",
            seen.0, seen.1, found.0, found.1
        )),
        Verdict::OtherVolume { known } => Failure::Identity(format!(
            "this folder held volume {known}; if it was replaced on purpose, take its line out of \
             known_volumes"
        )),
        Verdict::OtherKey => Failure::Identity(
            "it has the id of a volume that is known here, and not its key".into(),
        ),
        Verdict::Unknown | Verdict::Same | Verdict::Advanced(_) => {
            Failure::Internal("a volume was refused without a reason".into())
        }
    }
}

/// Why what was seen of volumes cannot be read or kept.
pub fn of_pin(error: PinError) -> Failure {
    match error {
        PinError::Malformed { .. } => Failure::Usage(error.to_string()),
        PinError::Overtaken(_) => Failure::Busy(error.to_string()),
        PinError::Io { ref source, .. } => of_file(source, error.to_string()),
    }
}

/// Why an auth tok cannot be read or put.
pub fn of_auth_tok(error: AuthTokError) -> Failure {
    match error {
        AuthTokError::Quota | AuthTokError::Kernel(_) => Failure::Internal(error.to_string()),
        AuthTokError::LocatorTooLong(_) | AuthTokError::Malformed(_) => {
            Failure::Usage(error.to_string())
        }
    }
}

/// Why the file of an enrolled key cannot be read or written.
pub fn of_enrolled(error: EnrolledError) -> Failure {
    match error {
        EnrolledError::Malformed { .. } => Failure::Usage(error.to_string()),
        EnrolledError::Io { ref source, .. } => of_file(source, error.to_string()),
    }
}

/// What the system refused to do with a file of this user's, told as `text`: a full or failing disk is
/// nobody's permission.
fn of_file(error: &io::Error, text: String) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Failure::Permission(text)
        }
        _ => Failure::Internal(text),
    }
}

/// Wrapped to this key, it says, and it does not open: somebody changed it. One failure for all such.
fn does_not_open() -> Failure {
    Failure::Integrity("a wrapped key does not open".into())
}

/// How many tries a PIN has left, where the token tells.
pub fn tries_left(state: PinState) -> Option<u32> {
    match state {
        PinState::NotNeeded | PinState::Ok => None,
        PinState::TriesLeft(tries) => Some(tries),
        PinState::FinalTry => Some(1),
        PinState::Blocked => Some(0),
    }
}

/// A PIN's state, as `token list` shows it.
pub fn pin_state_text(state: PinState) -> String {
    match state {
        PinState::NotNeeded => "not needed".into(),
        PinState::Ok => "ok".into(),
        PinState::TriesLeft(1) | PinState::FinalTry => "final try".into(),
        PinState::TriesLeft(tries) => format!("{tries} tries left"),
        PinState::Blocked => "blocked".into(),
    }
}

#[cfg(test)]
mod tests {
    use claviger_protocol::failure::ExitCode;

    use super::*;

    #[test]
    fn a_full_disk_is_no_lack_of_permission() {
        let table = [
            (libc::EACCES, ExitCode::Permission),
            (libc::EROFS, ExitCode::Permission),
            (libc::ENOSPC, ExitCode::Internal),
            (libc::EIO, ExitCode::Internal),
        ];
        for (errno, code) in table {
            let source = || io::Error::from_raw_os_error(errno);
            let path = || "/state/known_volumes".into();
            let of_pin = of_pin(PinError::Io {
                path: path(),
                source: source(),
            });
            let of_enrolled = of_enrolled(EnrolledError::Io {
                path: path(),
                source: source(),
            });
            assert_eq!(of_pin.exit_code(), code, "{of_pin}");
            assert_eq!(of_enrolled.exit_code(), code, "{of_enrolled}");
        }
    }
}
