//! Unlocking a folder of eCryptfs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::KeyRef;
use crate::Secret;
use crate::keys::SigBytes;

/// An eCryptfs folder to unlock. What is unlocked already keeps the keys that it has.
#[derive(Debug, Serialize, Deserialize)]
pub struct UnlockEcryptfs {
    /// The lower folder.
    pub dir: PathBuf,
    /// Keys from passphrases.
    pub passwords: Vec<PasswordKey>,
    /// RSA keys. Each is tried out, and enrolled if need be.
    pub keys: Vec<KeyRef>,
    /// Whom files of the folder are wrapped to, `ecryptfs_sig`. If it is empty, to all of the above but
    /// the one for names.
    pub sigs: Vec<SigBytes>,
    /// What encrypts names: `ecryptfs_fnek_sig`.
    pub fnek: Option<SigBytes>,
    /// How many of `sigs` must be here: named above, enrolled, or in the user keyring.
    pub needed: Needed,
    /// Whether files that are wrapped to others open too, if the user keyring has those.
    pub others: OtherKeys,
}

/// What a passphrase was hashed to.
#[derive(Debug, Serialize, Deserialize)]
pub struct PasswordKey {
    /// With which salt: files say it.
    pub salt: [u8; 8],
    /// 64 bytes; its sig follows from it.
    pub key: Secret,
}

/// How many of the keys of an eCryptfs folder must be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Needed {
    /// All: files are going to be made, and are wrapped to each.
    All,
    /// One: files are going to be read.
    One,
}

/// Whether an eCryptfs folder may be read by keys that nobody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtherKeys {
    /// Any that the user keyring has for the kernel, as the kernel does it.
    InKeyring,
    /// No: `ecryptfs_mount_auth_tok_only`.
    Refused,
}
