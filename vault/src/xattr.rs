//! Extended attributes: names like file names, values sealed, both bound to what carries them.
//!
//! ```text
//! lower name  := "user.claviger." epoch "." base64url(AES-256-SIV(name; owner))
//! lower value := nonce 12 B | ciphertext | tag 16 B          AES-256-GCM(value; owner | name)
//! owner       := 1 | file id 16 B                            or  2 | directory id 16 B
//! ```
//!
//! The epoch, decimal, is the one whose names key is used: that of the writer, as an attribute of a
//! file belongs to no directory. So an attribute may be found under several lower names after a
//! revocation; one that is set anew takes the newest, and the others go. Not covered: removing an
//! attribute, and putting an earlier value of the same attribute back.

use data_encoding::BASE64URL_NOPAD;

use crate::format::{self, Attribute, AttributeError};
use crate::ids::{DirId, Epoch, FileId};
use crate::names::{EpochRefused, NamesKeys, SIV_LEN};
use crate::sealed::OVERHEAD;

/// Longest upper name, bytes, its namespace included: lower names have at most 255.
pub const NAME_MAX: usize = 156;

/// Longest upper value, bytes: Linux takes 65536 below. The lower filesystem may take far less (ext4:
/// what is left of one block for all attributes of a file).
pub const VALUE_MAX: usize = (1 << 16) - OVERHEAD;

const PREFIX: &str = "user.claviger.";

/// What carries an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A native file.
    File(FileId),
    /// A directory.
    Directory(DirId),
}

/// The attributes of one file or directory.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    keys: &'a NamesKeys,
    owner: Owner,
}

impl Owner {
    fn bytes(self) -> [u8; 17] {
        let (kind, id) = match self {
            Self::File(id) => (1, id.0),
            Self::Directory(id) => (2, id.0),
        };
        let mut bytes = [kind; 17];
        let (_, place) = bytes.split_at_mut(1);
        place.copy_from_slice(&id);
        bytes
    }
}

impl<'a> Attributes<'a> {
    /// Those of `owner`.
    pub fn new(keys: &'a NamesKeys, owner: Owner) -> Self {
        Self { keys, owner }
    }

    /// What the attribute `name` may be called below, newest epoch first. A reader takes the first
    /// that exists; a writer sets the first and removes the others.
    ///
    /// # Errors
    /// [`AttributeError::Name`].
    pub fn candidates(&self, name: &[u8]) -> Result<Vec<Attribute>, AttributeError> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) {
            return Err(AttributeError::Name);
        }
        let candidate = |(epoch, lower): (Epoch, String)| Attribute {
            name: name.into(),
            lower: lower.into_bytes(),
            epoch,
        };
        let epochs = self.keys.newest_first();
        let lowers = epochs.map(|epoch| Ok((epoch, self.lower_name(epoch, name)?)));
        lowers.map(|lower| lower.map(candidate)).collect()
    }

    /// The attribute whose lower name is `lower`; `None` if that is not one of Claviger's at all.
    ///
    /// # Errors
    /// [`AttributeError::Foreign`] or [`AttributeError::Epoch`].
    pub fn parse(&self, lower: &[u8]) -> Result<Option<Attribute>, AttributeError> {
        let Some(rest) = lower.strip_prefix(PREFIX.as_bytes()) else {
            return Ok(None);
        };
        let rest = str::from_utf8(rest).map_err(|_| AttributeError::Foreign)?;
        let (number, text) = rest.split_once('.').ok_or(AttributeError::Foreign)?;
        let epoch = Epoch(number.parse().map_err(|_| AttributeError::Foreign)?);
        // One spelling a number: no sign, no leading zeros.
        if epoch.to_string() != number {
            return Err(AttributeError::Foreign);
        }
        let sealed = BASE64URL_NOPAD.decode(text.as_bytes());
        let mut sealed = sealed.map_err(|_| AttributeError::Foreign)?;
        let key = &self.keys.epoch(epoch)?.attribute_names;
        let name = key
            .open(&self.owner.bytes(), &mut sealed)
            .map_err(|_| AttributeError::Foreign)?;
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) {
            return Err(AttributeError::Foreign);
        }
        Ok(Some(Attribute {
            name: name.to_vec(),
            lower: lower.into(),
            epoch,
        }))
    }

    /// The lower value of `attribute`.
    ///
    /// # Errors
    /// [`AttributeError::ValueTooLong`].
    pub fn seal(&self, attribute: &Attribute, value: &[u8]) -> Result<Vec<u8>, AttributeError> {
        if value.len() > VALUE_MAX {
            return Err(AttributeError::ValueTooLong);
        }
        let key = &self.keys.epoch(attribute.epoch)?.attribute_values;
        Ok(key.seal(&self.associated_data(attribute), value))
    }

    /// The upper value of `attribute`, whose lower value is `sealed`.
    ///
    /// # Errors
    /// [`AttributeError::Foreign`].
    pub fn open(&self, attribute: &Attribute, sealed: &[u8]) -> Result<Vec<u8>, AttributeError> {
        let key = &self.keys.epoch(attribute.epoch)?.attribute_values;
        let value = key.open(&self.associated_data(attribute), sealed);
        Ok(value.map_err(|_| AttributeError::Foreign)?.to_vec())
    }

    fn lower_name(&self, epoch: Epoch, name: &[u8]) -> Result<String, EpochRefused> {
        let mut sealed = vec![0; SIV_LEN + name.len()];
        let key = &self.keys.epoch(epoch)?.attribute_names;
        key.seal(&self.owner.bytes(), name, &mut sealed);
        Ok(format!(
            "{PREFIX}{epoch}.{}",
            BASE64URL_NOPAD.encode(&sealed)
        ))
    }

    fn associated_data(&self, attribute: &Attribute) -> Vec<u8> {
        [&self.owner.bytes()[..], &attribute.name].concat()
    }
}

impl format::Attributes for Attributes<'_> {
    fn candidates(&self, name: &[u8]) -> Result<Vec<Attribute>, AttributeError> {
        self.candidates(name)
    }

    fn parse(&self, lower: &[u8]) -> Result<Option<Attribute>, AttributeError> {
        self.parse(lower)
    }

    fn seal(&self, attribute: &Attribute, value: &[u8]) -> Result<Vec<u8>, AttributeError> {
        self.seal(attribute, value)
    }

    fn open(&self, attribute: &Attribute, sealed: &[u8]) -> Result<Vec<u8>, AttributeError> {
        self.open(attribute, sealed)
    }
}

/// Length of the upper value, by the length of the lower one.
pub fn value_len(lower_len: usize) -> usize {
    lower_len.saturating_sub(OVERHEAD)
}

#[cfg(test)]
mod tests;
