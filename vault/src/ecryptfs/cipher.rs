//! Ciphers by number, and AES in the two modes that the format uses.

use core::fmt;

use aes::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit,
    KeyInit,
};
use aes::{Aes128, Aes192, Aes256, Block};

use super::error::EcryptfsError;

/// Bytes of an AES block.
pub(super) const BLOCK: usize = 16;

/// How long an AES key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyLen {
    /// 16 bytes.
    Aes128,
    /// 24 bytes.
    Aes192,
    /// 32 bytes.
    Aes256,
}

impl KeyLen {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Aes128, Self::Aes192, Self::Aes256];

    /// In bytes: the mount option `ecryptfs_key_bytes`.
    pub fn bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }

    /// Its number in packets (RFC 2440 section 9.2).
    pub fn code(self) -> CipherCode {
        CipherCode(match self {
            Self::Aes128 => 7,
            Self::Aes192 => 8,
            Self::Aes256 => 9,
        })
    }

    /// The AES that a number means.
    ///
    /// # Errors
    /// [`EcryptfsError::Cipher`] for all other ciphers.
    pub fn from_code(code: CipherCode) -> Result<Self, EcryptfsError> {
        let mut all = Self::ALL.into_iter();
        all.find(|len| len.code() == code)
            .ok_or(EcryptfsError::Cipher(code))
    }
}

/// A cipher by its number in packets: AES or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherCode(pub u8);

impl fmt::Display for CipherCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            2 => "des3_ede",
            3 => "cast5",
            4 => "blowfish",
            7 => "aes-128",
            8 => "aes-192",
            9 => "aes-256",
            // Not in RFC 2440 with this meaning; eCryptfs' own.
            0x0a => "twofish",
            0x0b => "cast6",
            other => return write!(f, "number {other}"),
        })
    }
}

/// AES with its key schedule; wiped on drop.
pub(super) enum Aes {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

/// Runs `$body` with the cipher inside `$aes`, whichever it is.
macro_rules! with {
    ($aes:expr, $cipher:ident => $body:expr) => {
        match $aes {
            Aes::Aes128($cipher) => $body,
            Aes::Aes192($cipher) => $body,
            Aes::Aes256($cipher) => $body,
        }
    };
}

impl Aes {
    /// Takes the first `len` bytes of `key`.
    ///
    /// # Panics
    /// If `key` is shorter, which callers' types rule out.
    pub(super) fn new(key: &[u8], len: KeyLen) -> Self {
        let (key, _) = key.split_at(len.bytes());
        let made = match len {
            KeyLen::Aes128 => Aes128::new_from_slice(key).map(Self::Aes128),
            KeyLen::Aes192 => Aes192::new_from_slice(key).map(Self::Aes192),
            KeyLen::Aes256 => Aes256::new_from_slice(key).map(Self::Aes256),
        };
        made.expect("the key has the length of its variant")
    }

    /// Encrypts each block for itself; bytes after the last whole block stay as they are.
    pub(super) fn encrypt_ecb(&self, data: &mut [u8]) {
        let (blocks, _) = Block::slice_as_chunks_mut(data);
        with!(self, aes => aes.encrypt_blocks(blocks));
    }

    /// Undoes [`Aes::encrypt_ecb`].
    pub(super) fn decrypt_ecb(&self, data: &mut [u8]) {
        let (blocks, _) = Block::slice_as_chunks_mut(data);
        with!(self, aes => aes.decrypt_blocks(blocks));
    }

    /// Encrypts whole blocks in CBC mode; bytes after the last stay as they are.
    pub(super) fn encrypt_cbc(&self, iv: &[u8; BLOCK], data: &mut [u8]) {
        let (blocks, _) = Block::slice_as_chunks_mut(data);
        with!(self, aes => cbc::Encryptor::inner_iv_init(aes, iv.into()).encrypt_blocks(blocks));
    }

    /// Undoes [`Aes::encrypt_cbc`].
    pub(super) fn decrypt_cbc(&self, iv: &[u8; BLOCK], data: &mut [u8]) {
        let (blocks, _) = Block::slice_as_chunks_mut(data);
        with!(self, aes => cbc::Decryptor::inner_iv_init(aes, iv.into()).decrypt_blocks(blocks));
    }
}
