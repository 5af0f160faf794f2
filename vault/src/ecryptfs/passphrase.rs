//! Keys from passphrases.

use core::fmt;
use core::str::FromStr;

use aws_lc_rs::digest::{SHA512, digest};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::{Zeroize, Zeroizing};

use super::cipher::{Aes, KeyLen};
use super::error::EcryptfsError;
use super::key_sig::KeySig;

/// What a passphrase is hashed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; 8]);

impl Salt {
    /// What ecryptfs-utils uses for data, and for wrapped-passphrase files of version 1, unless
    /// `~/.ecryptfsrc` has a `salt=`.
    pub const DEFAULT: Self = Self([0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]);

    /// What it uses for names. Meant were the bytes 99 88 77 66 55 44 33 22; passed is that text, of
    /// which the first 8 characters count.
    pub const NAMES: Self = Self(*b"99887766");
}

impl FromStr for Salt {
    type Err = BadSalt;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes());
        let salt = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        salt.map(Self).ok_or(BadSalt)
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not a salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a salt has 16 hexadecimal digits")]
pub struct BadSalt;

/// The 64 bytes that a passphrase gives: a FEKEK, which wraps FEKs, or a FNEK, which encrypts names.
///
/// Wiped on drop. No `Clone`, no `PartialEq`, no `Serialize`; `Debug` prints its sig only.
pub struct PassphraseKey {
    key: Box<Zeroizing<[u8; KEY_LEN]>>,
    sig: KeySig,
    salt: Salt,
}

/// Bytes of a key; ciphers use the first ones.
pub(super) const KEY_LEN: usize = 64;

const MAX_PASSPHRASE_LEN: usize = 64;
const HASHES: usize = 65536;

impl PassphraseKey {
    /// SHA-512 of salt and passphrase, 65536 times over; some 10 ms.
    ///
    /// # Errors
    /// [`EcryptfsError::PassphraseLen`] unless the passphrase has 1 to 64 bytes.
    pub fn derive(passphrase: &[u8], salt: Salt) -> Result<Self, EcryptfsError> {
        if passphrase.is_empty() || passphrase.len() > MAX_PASSPHRASE_LEN {
            return Err(EcryptfsError::PassphraseLen(passphrase.len()));
        }
        let salted = Zeroizing::new([&salt.0, passphrase].concat());
        let mut key = Box::new(Zeroizing::new([0; KEY_LEN]));
        key.copy_from_slice(digest(&SHA512, &salted).as_ref());
        for _ in 1..HASHES {
            let hash = digest(&SHA512, key.as_slice());
            key.copy_from_slice(hash.as_ref());
        }
        let sig = sig_of(&key);
        Ok(Self { key, sig, salt })
    }

    /// From what [`PassphraseKey::expose`] gave, which has its sig in it; `bytes` are wiped.
    pub fn handed_on(bytes: &mut [u8; KEY_LEN], salt: Salt) -> Self {
        let sig = sig_of(bytes);
        Self::kept(bytes, sig, salt)
    }

    /// From a place where it was kept; `bytes` are wiped.
    pub(super) fn kept(bytes: &mut [u8; KEY_LEN], sig: KeySig, salt: Salt) -> Self {
        let mut key = Box::new(Zeroizing::new([0; KEY_LEN]));
        key.copy_from_slice(bytes);
        bytes.zeroize();
        Self { key, sig, salt }
    }

    /// What names it.
    pub fn sig(&self) -> KeySig {
        self.sig
    }

    /// What the passphrase was hashed with.
    pub fn salt(&self) -> Salt {
        self.salt
    }

    /// The key itself.
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.key
    }

    pub(super) fn cipher(&self, len: KeyLen) -> Aes {
        Aes::new(self.key.as_slice(), len)
    }
}

fn sig_of(key: &[u8; KEY_LEN]) -> KeySig {
    let hash = digest(&SHA512, key);
    let sig = hash.as_ref().first_chunk();
    KeySig(*sig.expect("SHA-512 gives 64 bytes"))
}

impl fmt::Debug for PassphraseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PassphraseKey({})", self.sig)
    }
}
