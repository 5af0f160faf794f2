//! Identifiers that a volume stores: none of them is secret.

use core::fmt;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Declares a random 16-byte identifier, shown and stored in text as 32 hexadecimal digits.
macro_rules! id_16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Draws a fresh one from getrandom(2).
            pub fn random() -> Self {
                Self(crate::secret::random_array())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl core::str::FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| BadId)?;
                Ok(Self(bytes.try_into().map_err(|_| BadId)?))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

id_16! {
    /// Names one volume, for ever: drawn at `init`, never re-used.
    VolumeId
}

id_16! {
    /// Names one native file within its volume; bound into its keys, so a header fits no other file.
    FileId
}

id_16! {
    /// Names one directory within its volume; the associated data of every name in it.
    DirId
}

impl DirId {
    /// The root directory's own id is zero: its parent is outside the volume.
    pub const ROOT: Self = Self([0; 16]);
}

/// An identifier is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier of 32 hexadecimal digits")]
pub struct BadId;

/// Number of an epoch: the time between two revocations. The first is 1; 0 is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch that `init` makes.
    pub const FIRST: Self = Self(1);

    /// The epoch that the next revocation starts.
    ///
    /// # Panics
    /// Never in practice: 2^32 revocations of one volume.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("fewer than 2^32 revocations"))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a token operation opens: a volume for a session, or one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One token operation unlocks the epoch keys, which open every header.
    Volume,
    /// Every open of a file costs one token operation of its own.
    File,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_reads_back_as_it_was_shown() {
        let id = VolumeId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("12".parse::<VolumeId>(), Err(BadId));
        assert_eq!("zz".repeat(16).parse::<VolumeId>(), Err(BadId));
    }
}
