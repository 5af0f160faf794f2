//! Folders of eCryptfs: read without mounting them, and what a mount needs.

mod folder;
mod keys;
mod mounting;
mod options;
mod pem;
mod rsa;
mod survey;

use std::path::Path;

use claviger_protocol::control::RecipientInfo;
use claviger_protocol::failure::ExitCode;
use claviger_vault::ecryptfs::EcryptfsError;

use crate::Failed;
use crate::print::errln;

pub(crate) use folder::LowerFolder;
pub(crate) use keys::Keys;
pub(crate) use mounting::{Mounting, Purpose, advise_format};
pub(crate) use options::Options;

/// Said once by each command that shows content.
pub(crate) const WARNING: &str = "eCryptfs authenticates nothing: who can write to the lower folder may have forged what you read";

/// Says by what the daemon opened the folder in `dir`; nothing if it was open.
pub(crate) fn tell_unlocked(dir: &Path, by: &[RecipientInfo]) {
    for by in by {
        let dir = dir.display();
        errln!("Unlocked {dir} with {} '{}'", by.kind, by.label);
    }
}

/// What a file that cannot be read is reported as.
pub(crate) fn failed(path: &Path, error: &EcryptfsError) -> Failed {
    let what = format!("{}: {error}", path.display());
    match error {
        EcryptfsError::Io(error) => Failed::file(path, error),
        EcryptfsError::Cipher(_) => Failed::new(ExitCode::Unsupported, what).advise(
            "Only AES is read here: mount it with the kernel's eCryptfs, and copy the files out of it",
        ),
        EcryptfsError::NoKey(_) => Failed::new(ExitCode::NotARecipient, what).advise(
            "Give the passphrase or RSA key of that sig; for an old home, --wrapped-passphrase",
        ),
        EcryptfsError::WrongPassphrase(_) => Failed::new(ExitCode::NotARecipient, what)
            .advise("Give the login passphrase of the time; with another salt, --salt"),
        EcryptfsError::Version(_) => Failed::new(ExitCode::Unsupported, what),
        EcryptfsError::PassphraseLen(_) => Failed::usage(what),
        EcryptfsError::NameTooLong => Failed::new(ExitCode::NotFound, what),
        EcryptfsError::NotEcryptfs
        | EcryptfsError::NeverWritten
        | EcryptfsError::NotEncrypted
        | EcryptfsError::Malformed(_)
        | EcryptfsError::CutShort(_) => Failed::new(ExitCode::Integrity, what),
        EcryptfsError::TooManyRecipients | EcryptfsError::TooLarge | EcryptfsError::ReadOnly => {
            Failed::new(ExitCode::Internal, what)
        }
    }
}
