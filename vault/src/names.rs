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
use std::collections::BTreeMap;
use std::sync::Arc;

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use crate::ids::{DirId, Epoch};
use crate::kdf::derive;
use crate::sealed::SealingKey;
use crate::secret::NamesKey;

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
/// How much longer a sealed name is.
pub(crate) const SIV_LEN: usize = 16;
/// base64url of a SHA-256.
const HASH_TEXT_LEN: usize = 43;
/// base64url of the shortest sealed name, 17 bytes.
const SHORT_TEXT_MIN: usize = 23;

/// The names keys of an unlocked volume: all that a filesystem holds of its epochs.
///
/// Keys are wiped on drop; a [`DirNames`] made before keeps the one it needs.
pub struct NamesKeys {
    current: Epoch,
    minimum: Epoch,
    epochs: BTreeMap<Epoch, Arc<EpochNames>>,
}

/// What derives from one names key, kept because every lookup wants it.
pub(crate) struct EpochNames {
    names_key: NamesKey,
    file_names: SivKey,
    attribute_names: SivKey,
    pub(crate) attribute_values: SealingKey,
    pub(crate) symlinks: SealingKey,
}

/// An epoch that nothing may be opened under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochRefused {
    /// A removed recipient may have made it: all that is genuine was moved to a later epoch.
    #[error("epoch {0} is over: the volume accepts nothing older than epoch {1}")]
    BelowMinimum(Epoch, Epoch),
    /// Newer than the keys that are here, or never begun.
    #[error("no key of epoch {0} is here")]
    NoKey(Epoch),
}

impl NamesKeys {
    /// Takes the keys that the daemon handed over; those below `minimum` are dropped.
    ///
    /// # Errors
    /// [`EpochRefused::NoKey`] if the one of the current epoch is not among them.
    pub fn new(
        current: Epoch,
        minimum: Epoch,
        keys: impl IntoIterator<Item = (Epoch, NamesKey)>,
    ) -> Result<Self, EpochRefused> {
        let epochs: BTreeMap<_, _> = keys
            .into_iter()
            .filter(|(epoch, _)| *epoch >= minimum)
            .map(|(epoch, key)| (epoch, Arc::new(EpochNames::new(key))))
            .collect();
        if !epochs.contains_key(&current) {
            return Err(EpochRefused::NoKey(current));
        }
        Ok(Self {
            current,
            minimum,
            epochs,
        })
    }

    /// The epoch that new directories and place records use.
    pub fn current(&self) -> Epoch {
        self.current
    }

    /// The oldest epoch that is accepted.
    pub fn minimum(&self) -> Epoch {
        self.minimum
    }

    /// The names key of one epoch, for place records.
    ///
    /// # Errors
    /// [`EpochRefused`].
    pub fn names_key(&self, epoch: Epoch) -> Result<&NamesKey, EpochRefused> {
        Ok(&self.epoch(epoch)?.names_key)
    }

    /// The names of one directory, whose record says which epoch they are of.
    ///
    /// # Errors
    /// [`EpochRefused`].
    pub fn directory(&self, epoch: Epoch, dir: DirId) -> Result<DirNames, EpochRefused> {
        Ok(DirNames {
            keys: Arc::clone(self.epoch(epoch)?),
            epoch,
            dir,
        })
    }

    /// Epochs that things may be of, newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = Epoch> {
        self.epochs.keys().rev().copied()
    }

    pub(crate) fn epoch(&self, epoch: Epoch) -> Result<&Arc<EpochNames>, EpochRefused> {
        if epoch < self.minimum {
            return Err(EpochRefused::BelowMinimum(epoch, self.minimum));
        }
        self.epochs.get(&epoch).ok_or(EpochRefused::NoKey(epoch))
    }
}

impl EpochNames {
    fn new(names_key: NamesKey) -> Self {
        let key = names_key.expose();
        Self {
            file_names: SivKey(derive(key, "file names", &[])),
            attribute_names: SivKey(derive(key, "attribute names", &[])),
            attribute_values: SealingKey::new(&derive(key, "attribute values", &[])),
            symlinks: SealingKey::new(&derive(key, "symlinks", &[])),
            names_key,
        }
    }

    pub(crate) fn attribute_names(&self) -> &SivKey {
        &self.attribute_names
    }
}

/// An AES-256-SIV key (RFC 5297): the first half authenticates, the second encrypts.
///
/// The cipher is set up anew for every name: that takes two AES key schedules, and no lock or key
/// schedule then outlives the call.
pub(crate) struct SivKey(Zeroizing<[u8; 64]>);

impl SivKey {
    /// Writes SIV and ciphertext of `plain` to `out`, which is 16 bytes longer.
    pub(crate) fn seal(&self, associated_data: &[u8], plain: &[u8], out: &mut [u8]) {
        let (siv, body) = out.split_at_mut(SIV_LEN);
        body.copy_from_slice(plain);
        let tag = self
            .cipher()
            .encrypt_inout_detached([associated_data], body.into())
            .expect("one associated datum is within RFC 5297's 126");
        siv.copy_from_slice(&tag);
    }

    /// Decrypts `sealed` in place and returns the plaintext in it.
    pub(crate) fn open<'a>(
        &self,
        associated_data: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], NameError> {
        let (siv, body) = sealed
            .split_first_chunk_mut::<SIV_LEN>()
            .ok_or(NameError::Foreign)?;
        self.cipher()
            .decrypt_inout_detached([associated_data], (&mut *body).into(), &(*siv).into())
            .map_err(|_| NameError::Foreign)?;
        Ok(body)
    }

    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new((&*self.0).into())
    }
}

/// Encrypts and decrypts the names of one directory. Cheap to clone and to share.
#[derive(Clone)]
pub struct DirNames {
    keys: Arc<EpochNames>,
    epoch: Epoch,
    dir: DirId,
}

/// What a name is called in the lower directory. All ASCII, at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LowerName {
    /// Holds all of the upper name.
    Short(String),
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
    pub fn as_str(&self) -> &str {
        match self {
            Self::Short(name) | Self::Long { name, .. } => name,
        }
    }

    /// The lower name itself.
    pub fn as_bytes(&self) -> &[u8] {
        self.as_str().as_bytes()
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
            return Ok(LowerName::Short(BASE64URL_NOPAD.encode(sealed)));
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

fn check_upper(name: &[u8]) -> Result<(), NameError> {
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
