//! Encrypted names, and the targets of symlinks, which are encrypted as names are.
//!
//! ```text
//! lower name = "ECRYPTFS_FNEK_ENCRYPTED." ‖ 4 characters for each 3 bytes of the packet
//! packet     = 46 | length 1-2 B | sig of the FNEK 8 B | cipher 1 B | block, in ECB mode
//! block      = prefix, 16 bytes or as many more as fill it | 00 | name
//! prefix     = MD5(FNEK) ‖ MD5(MD5(FNEK)) ‖ …, with 'B' for each 00
//! ```
//!
//! The same name is the same lower name in every folder. No salt, no folder and no authentication is
//! in it: equal names show, and lower names can be swapped and moved.

use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::cipher::{BLOCK, CipherCode, KeyLen};
use super::error::{EcryptfsError, Part};
use super::key_sig::KeySig;
use super::packet::{framed, take};
use super::passphrase::PassphraseKey;
use crate::native::octets::Octets;

/// What encrypted lower names and targets begin with.
pub const PREFIX: &str = "ECRYPTFS_FNEK_ENCRYPTED.";

/// The longest name that can be encrypted, in bytes.
pub const MAX_LEN: usize = 143;

/// An encrypted name or symlink target: a Tag 70 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedName {
    key_sig: KeySig,
    cipher: CipherCode,
    encrypted: Vec<u8>,
}

/// The lower name of `name`.
///
/// `len` is the mount option `ecryptfs_fn_key_bytes`, by default `ecryptfs_key_bytes`.
///
/// # Errors
/// [`EcryptfsError::NameTooLong`] beyond [`MAX_LEN`]; [`EcryptfsError::Malformed`] if it is empty.
pub fn encrypt(name: &[u8], fnek: &PassphraseKey, len: KeyLen) -> Result<String, EcryptfsError> {
    match name.len() {
        0 => Err(EcryptfsError::Malformed(Part::Name)),
        1..=MAX_LEN => Ok(encode(name, fnek, len)),
        _ => Err(EcryptfsError::NameTooLong),
    }
}

/// The lower target of a symlink to `target`: all of it as one name, slashes included.
///
/// # Errors
/// [`EcryptfsError::NameTooLong`] where the lower target would be longer than one can be;
/// [`EcryptfsError::Malformed`] if it is empty.
pub fn encrypt_target(
    target: &[u8],
    fnek: &PassphraseKey,
    len: KeyLen,
) -> Result<String, EcryptfsError> {
    if target.is_empty() {
        return Err(EcryptfsError::Malformed(Part::Name));
    }
    if target.len() > MAX_LOWER_TARGET {
        return Err(EcryptfsError::NameTooLong);
    }
    let lower = encode(target, fnek, len);
    match lower.len() {
        ..=MAX_LOWER_TARGET => Ok(lower),
        _ => Err(EcryptfsError::NameTooLong),
    }
}

impl EncryptedName {
    /// Parses a lower name or lower target; `None` if it is not encrypted, for lack of the prefix.
    ///
    /// # Errors
    /// [`EcryptfsError::Malformed`] if there is no packet after the prefix.
    pub fn parse(lower: &[u8]) -> Option<Result<Self, EcryptfsError>> {
        let encoded = lower.strip_prefix(PREFIX.as_bytes())?;
        let packet = ALPHABET.decode(encoded).ok();
        let parsed = packet.and_then(|packet| Self::parse_packet(&packet));
        Some(parsed.ok_or(EcryptfsError::Malformed(Part::Name)))
    }

    fn parse_packet(packet: &[u8]) -> Option<Self> {
        let mut body = Octets(take(&mut Octets(packet), TAG_70)?);
        let key_sig = KeySig(*body.array()?);
        let cipher = CipherCode(body.u8()?);
        Some(Self {
            key_sig,
            cipher,
            encrypted: body.0.to_vec(),
        })
    }

    /// Which FNEK encrypts it.
    pub fn key_sig(&self) -> KeySig {
        self.key_sig
    }

    /// By which cipher.
    pub fn cipher(&self) -> CipherCode {
        self.cipher
    }

    /// Decrypts a name.
    ///
    /// # Errors
    /// [`EcryptfsError::WrongPassphrase`] if it is encrypted by another FNEK;
    /// [`EcryptfsError::Cipher`]; [`EcryptfsError::Malformed`] also for what no name can be, such as
    /// `..` and anything with a slash, since whoever holds the lower folder could have made it.
    pub fn decrypt(&self, fnek: &PassphraseKey) -> Result<Vec<u8>, EcryptfsError> {
        let name = self.decrypt_any(fnek)?;
        match name.as_slice() {
            b"." | b".." => Err(EcryptfsError::Malformed(Part::Name)),
            name if name.contains(&b'/') => Err(EcryptfsError::Malformed(Part::Name)),
            _ => Ok(name),
        }
    }

    /// Decrypts the target of a symlink.
    ///
    /// # Errors
    /// As [`EncryptedName::decrypt`]; a target may hold slashes.
    pub fn decrypt_target(&self, fnek: &PassphraseKey) -> Result<Vec<u8>, EcryptfsError> {
        self.decrypt_any(fnek)
    }

    fn decrypt_any(&self, fnek: &PassphraseKey) -> Result<Vec<u8>, EcryptfsError> {
        if self.key_sig != fnek.sig() {
            return Err(EcryptfsError::WrongPassphrase(self.key_sig));
        }
        // The kernel takes the length from its mount options. The packet says the same.
        let len = KeyLen::from_code(self.cipher)?;
        let malformed = EcryptfsError::Malformed(Part::Name);
        if !self.encrypted.len().is_multiple_of(BLOCK) {
            return Err(malformed);
        }
        let mut block = self.encrypted.clone();
        fnek.cipher(len).decrypt_ecb(&mut block);
        let mut parts = block.splitn(2, |&byte| byte == 0);
        match (parts.next(), parts.next()) {
            (Some(_prefix), Some(name)) if !name.is_empty() && !name.contains(&0) => {
                Ok(name.to_vec())
            }
            _ => Err(malformed),
        }
    }
}

const TAG_70: u8 = 0x46;

/// PATH_MAX, without the terminating zero.
const MAX_LOWER_TARGET: usize = 4095;

/// 6 bits a character, most significant first.
static ALPHABET: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    specification.encoding().expect("64 different characters")
});

fn encode(name: &[u8], fnek: &PassphraseKey, len: KeyLen) -> String {
    let whole = (BLOCK + 1 + name.len()).next_multiple_of(BLOCK);
    let mut block = prefix(fnek, whole - 1 - name.len());
    block.push(0);
    block.extend(name);
    fnek.cipher(len).encrypt_ecb(&mut block);
    let mut body = fnek.sig().0.to_vec();
    body.push(len.code().0);
    body.extend(block);
    let mut packet = framed(TAG_70, &body);
    // A short last group has 4 characters too; the packet's length says what counts.
    packet.resize(packet.len().next_multiple_of(3), 0);
    [PREFIX, &ALPHABET.encode(&packet)].concat()
}

/// `len` bytes without a zero among them, the same for every name.
fn prefix(fnek: &PassphraseKey, len: usize) -> Vec<u8> {
    let mut hash = Zeroizing::new(<[u8; 16]>::from(Md5::digest(fnek.expose())));
    let mut prefix = Vec::with_capacity(len);
    while prefix.len() < len {
        prefix.extend(hash.iter().map(|&byte| match byte {
            0 => b'B',
            byte => byte,
        }));
        *hash = Md5::digest(*hash).into();
    }
    prefix.truncate(len);
    prefix
}
