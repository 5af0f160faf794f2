//! Names: AES-SIV under the names key of the directory's epoch, bound to the directory.
//!
//! ```text
//! sealed     := AES-256-SIV(name; associated data = directory id) = SIV 16 B | ciphertext
//! lower name := base64url(sealed), no padding                    names of 1 to 175 bytes
//!             | base64url(SHA-256(sealed)) ".long"               names of 176 to 255 bytes
//! sidecar    := base64url(SHA-256(sealed)) ".name", whose content is sealed
//! ```
//!
//! The same name in the same directory always gives the same lower name, so a lookup is one
//! lower lookup; the same name elsewhere gives another. base64url has no dot, so whatever has one is
//! not a short name. What is not hidden: the length of a name, and that two states of one directory
//! hold the same name.

use core::fmt;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;

use crate::ids::{DirId, Epoch};

mod keys;
mod siv;

pub(crate) use keys::EpochNames;
pub use keys::{EpochRefused, NamesKeys};
use siv::NotGenuine;
pub(crate) use siv::SIV_LEN;

/// Longest upper name, bytes.
pub const NAME_MAX: usize = 255;

/// Longest upper name whose lower name holds all of it: ⌈(16 + 175) × 4 / 3⌉ = 255.
pub const SHORT_MAX: usize = 175;

/// Folder in the lower root that holds the manifest and the lock.
pub const RESERVED: &str = ".claviger";

/// The record in every lower directory, see [`crate::dir`].
pub const RECORD: &str = ".claviger.dir";

const LONG_SUFFIX: &str = ".long";
const SIDECAR_SUFFIX: &str = ".name";
/// base64url of a SHA-256.
const HASH_TEXT_LEN: usize = 43;
/// base64url of the shortest sealed name, 17 bytes.
const SHORT_TEXT_MIN: usize = 23;

/// Encrypts and decrypts the names of one directory. Cheap to clone and to share.
#[derive(Clone)]
pub struct DirNames {
    keys: Arc<EpochNames>,
    epoch: Epoch,
    dir: DirId,
}

/// What a name is called in the lower directory: at most 255 bytes, and in the native format all ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LowerName {
    /// Holds all of the upper name.
    Short(Vec<u8>),
    /// A hash; a sidecar file beside it holds the upper name. Written before what it names appears,
    /// removed after what it names is gone.
    Long {
        /// The lower name.
        name: String,
        /// Name of the sidecar in the same lower directory.
        sidecar: String,
        /// What the sidecar holds.
        content: Vec<u8>,
    },
}

impl LowerName {
    /// Longest content of a sidecar, bytes.
    pub const SIDECAR_MAX: u64 = (SIV_LEN + NAME_MAX) as u64;

    /// The lower name itself.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(name) => name,
            Self::Long { name, .. } => name.as_bytes(),
        }
    }

    /// The lower name itself, to be joined to a path.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(self.as_bytes())
    }
}

/// What a name in a lower directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lower {
    /// Perhaps an entry with a short name: [`DirNames::decrypt`] tells.
    Entry,
    /// An entry with a long name, which its sidecar holds: [`sidecar_of`].
    Long,
    /// A sidecar. Not an entry.
    Sidecar,
    /// The directory's own record. Not an entry.
    Record,
    /// `.claviger`. Not an entry.
    Reserved,
    /// `.` or `..`.
    Dot,
    /// Nothing that Claviger makes.
    Foreign,
}

impl From<NotGenuine> for NameError {
    fn from(_: NotGenuine) -> Self {
        Self::Foreign
    }
}

/// A name that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An upper name of more than 255 bytes.
    #[error("name longer than {NAME_MAX} bytes")]
    TooLong,
    /// An upper name that is empty, `.`, `..`, or has a slash or a NUL.
    #[error("not a name that a file can have")]
    Invalid,
    /// A lower name or sidecar that was not made by this volume for this directory.
    #[error("name was not made by this volume for this directory")]
    Foreign,
}

impl fmt::Debug for DirNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirNames({:?}, epoch {})", self.dir, self.epoch)
    }
}

impl DirNames {
    fn new(keys: Arc<EpochNames>, epoch: Epoch, dir: DirId) -> Self {
        Self { keys, epoch, dir }
    }

    /// The directory.
    pub fn dir(&self) -> DirId {
        self.dir
    }

    /// The epoch whose names key encrypts the names in it.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn keys(&self) -> &EpochNames {
        &self.keys
    }

    /// The lower name of `name`.
    ///
    /// # Errors
    /// [`NameError::TooLong`] or [`NameError::Invalid`].
    pub fn encrypt(&self, name: &[u8]) -> Result<LowerName, NameError> {
        check_upper(name)?;
        let mut buffer = [0; SIV_LEN + NAME_MAX];
        let (sealed, _) = buffer
            .split_at_mut_checked(SIV_LEN + name.len())
            .ok_or(NameError::TooLong)?;
        self.keys.file_names.seal(&self.dir.0, name, sealed);
        if name.len() <= SHORT_MAX {
            return Ok(LowerName::Short(
                BASE64URL_NOPAD.encode(sealed).into_bytes(),
            ));
        }
        let hash = BASE64URL_NOPAD.encode(digest(&SHA256, sealed).as_ref());
        Ok(LowerName::Long {
            sidecar: format!("{hash}{SIDECAR_SUFFIX}"),
            name: hash + LONG_SUFFIX,
            content: sealed.to_vec(),
        })
    }

    /// The upper name of the short lower name `lower`.
    ///
    /// # Errors
    /// [`NameError::Foreign`] for everything else.
    pub fn decrypt(&self, lower: &[u8]) -> Result<Vec<u8>, NameError> {
        let mut buffer = [0; SIV_LEN + SHORT_MAX];
        let len = BASE64URL_NOPAD.decode_len(lower.len());
        let (sealed, _) = len
            .ok()
            .and_then(|len| buffer.split_at_mut_checked(len))
            .ok_or(NameError::Foreign)?;
        // Refuses non-zero trailing bits: a lower name has one spelling.
        BASE64URL_NOPAD
            .decode_mut(lower, sealed)
            .map_err(|_| NameError::Foreign)?;
        self.open(sealed)
    }

    /// The upper name of the long lower name `lower`, from what its sidecar holds.
    ///
    /// # Errors
    /// [`NameError::Foreign`] if either was not made by this volume for this directory, or they do
    /// not belong together.
    pub fn decrypt_long(&self, lower: &[u8], sidecar: &[u8]) -> Result<Vec<u8>, NameError> {
        let hash = lower
            .strip_suffix(LONG_SUFFIX.as_bytes())
            .ok_or(NameError::Foreign)?;
        let expected = BASE64URL_NOPAD.encode(digest(&SHA256, sidecar).as_ref());
        if hash != expected.as_bytes() {
            return Err(NameError::Foreign);
        }
        let name = self.open(&mut sidecar.to_vec())?;
        // A name that fits must have its short lower name, or it would have two.
        if name.len() <= SHORT_MAX {
            return Err(NameError::Foreign);
        }
        Ok(name)
    }

    fn open(&self, sealed: &mut [u8]) -> Result<Vec<u8>, NameError> {
        let name = self.keys.file_names.open(&self.dir.0, sealed)?;
        check_upper(name).map_err(|_| NameError::Foreign)?;
        Ok(name.to_vec())
    }
}

/// The sidecar's name of the long lower name `lower`.
pub fn sidecar_of(lower: &[u8]) -> Option<String> {
    let hash = lower.strip_suffix(LONG_SUFFIX.as_bytes())?;
    let hash = std::str::from_utf8(hash)
        .ok()
        .filter(|hash| is_hash(hash.as_bytes()))?;
    Some(format!("{hash}{SIDECAR_SUFFIX}"))
}

/// What a name in a lower directory stands for, by its form alone.
pub fn classify(lower: &[u8]) -> Lower {
    if lower == b"." || lower == b".." {
        return Lower::Dot;
    }
    if lower == RECORD.as_bytes() {
        return Lower::Record;
    }
    if lower == RESERVED.as_bytes() {
        return Lower::Reserved;
    }
    if lower
        .strip_suffix(LONG_SUFFIX.as_bytes())
        .is_some_and(is_hash)
    {
        return Lower::Long;
    }
    if lower
        .strip_suffix(SIDECAR_SUFFIX.as_bytes())
        .is_some_and(is_hash)
    {
        return Lower::Sidecar;
    }
    if (SHORT_TEXT_MIN..=NAME_MAX).contains(&lower.len()) && is_base64url(lower) {
        return Lower::Entry;
    }
    Lower::Foreign
}

fn is_hash(text: &[u8]) -> bool {
    text.len() == HASH_TEXT_LEN && is_base64url(text)
}

fn is_base64url(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Refuses what no file can be called.
pub(crate) fn check_upper(name: &[u8]) -> Result<(), NameError> {
    if name.len() > NAME_MAX {
        return Err(NameError::TooLong);
    }
    let invalid = matches!(name, b"" | b"." | b"..") || name.iter().any(|b| matches!(b, 0 | b'/'));
    if invalid {
        Err(NameError::Invalid)
    } else {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
