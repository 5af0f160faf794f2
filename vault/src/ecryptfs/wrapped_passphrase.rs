//! Wrapped-passphrase files: a mount passphrase, encrypted under the login passphrase.
//!
//! `~/.ecryptfs/wrapped-passphrase` of an encrypted home. Nothing in them is authenticated; whether a
//! login passphrase is the right one shows by its key's sig only.
//!
//! ```text
//! version 1   sig, hexadecimal 16 B | passphrase, zero-filled, AES-128 in ECB mode
//! version 2   3a 02 | salt 8 B | sig, hexadecimal 16 B | passphrase, as above
//! ```

use core::fmt;

use zeroize::Zeroizing;

use super::cipher::{BLOCK, KeyLen};
use super::error::{EcryptfsError, Part};
use super::key_sig::KeySig;
use super::passphrase::{PassphraseKey, Salt};
use crate::native::octets::Octets;
use crate::secret::random_array;

/// A wrapped mount passphrase.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedPassphrase {
    version: WrapVersion,
    sig: KeySig,
    wrapped: Vec<u8>,
}

/// Which ecryptfs-utils wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrapVersion {
    /// Up to 104: with one salt for everybody.
    One,
    /// From 105 on: with a salt of its own.
    Two(Salt),
}

impl WrappedPassphrase {
    /// Wraps `passphrase` under `login`, with a fresh salt: version 2.
    ///
    /// # Errors
    /// [`EcryptfsError::PassphraseLen`] unless each has 1 to 64 bytes.
    pub fn wrap(passphrase: &[u8], login: &[u8]) -> Result<Self, EcryptfsError> {
        if !(1..=MAX_LEN).contains(&passphrase.len()) {
            return Err(EcryptfsError::PassphraseLen(passphrase.len()));
        }
        let salt = Salt(random_array());
        let key = PassphraseKey::derive(login, salt)?;
        let mut wrapped = passphrase.to_vec();
        wrapped.resize(passphrase.len().next_multiple_of(BLOCK), 0);
        key.cipher(KeyLen::Aes128).encrypt_ecb(&mut wrapped);
        Ok(Self {
            version: WrapVersion::Two(salt),
            sig: key.sig(),
            wrapped,
        })
    }

    /// Parses a file of either version.
    ///
    /// # Errors
    /// [`EcryptfsError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EcryptfsError> {
        let parsed = match bytes.strip_prefix(&VERSION_2) {
            Some(rest) => {
                let mut rest = Octets(rest);
                let salt = rest.array().map(|salt| WrapVersion::Two(Salt(*salt)));
                salt.and_then(|version| Self::parse_rest(version, rest))
            }
            None => Self::parse_rest(WrapVersion::One, Octets(bytes)),
        };
        parsed.ok_or(EcryptfsError::Malformed(Part::WrappedPassphrase))
    }

    fn parse_rest(version: WrapVersion, mut rest: Octets<'_>) -> Option<Self> {
        let sig = KeySig::from_hex(rest.array()?)?;
        let len = rest.0.len();
        let whole = len.is_multiple_of(BLOCK) && (1..=MAX_LEN).contains(&len);
        whole.then(|| Self {
            version,
            sig,
            wrapped: rest.0.to_vec(),
        })
    }

    /// Its bytes.
    pub fn write(&self) -> Vec<u8> {
        let head = match self.version {
            WrapVersion::One => Vec::new(),
            WrapVersion::Two(salt) => [&VERSION_2[..], &salt.0].concat(),
        };
        [&head[..], &self.sig.to_hex(), &self.wrapped].concat()
    }

    /// Which version it is.
    pub fn version(&self) -> WrapVersion {
        self.version
    }

    /// Sig of the key that wraps it.
    pub fn sig(&self) -> KeySig {
        self.sig
    }

    /// The mount passphrase. `salt` is the user's, if the file is of version 1.
    ///
    /// # Errors
    /// [`EcryptfsError::WrongPassphrase`] if `login` is not the one that wraps;
    /// [`EcryptfsError::PassphraseLen`]; [`EcryptfsError::Malformed`].
    pub fn unwrap(&self, login: &[u8], salt: Salt) -> Result<Zeroizing<Vec<u8>>, EcryptfsError> {
        let salt = match self.version {
            WrapVersion::One => salt,
            WrapVersion::Two(own) => own,
        };
        let key = PassphraseKey::derive(login, salt)?;
        if key.sig() != self.sig {
            return Err(EcryptfsError::WrongPassphrase(self.sig));
        }
        let mut passphrase = Zeroizing::new(self.wrapped.clone());
        key.cipher(KeyLen::Aes128).decrypt_ecb(&mut passphrase);
        if let Some(end) = passphrase.iter().position(|&byte| byte == 0) {
            passphrase.truncate(end);
        }
        match passphrase.is_empty() {
            true => Err(EcryptfsError::Malformed(Part::WrappedPassphrase)),
            false => Ok(passphrase),
        }
    }
}

/// The longest passphrase of eCryptfs.
const MAX_LEN: usize = 64;

const VERSION_2: [u8; 2] = [0x3a, 0x02];

impl fmt::Debug for WrappedPassphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedPassphrase(by {})", self.sig)
    }
}
