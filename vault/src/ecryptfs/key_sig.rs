//! Key sigs: 8 bytes by which eCryptfs names keys. They identify; they sign nothing.

use core::fmt;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::HEXLOWER;

/// Identifies a key. 64 bits: no protection against one who looks for two keys with the same.
///
/// As text, and as the description of a key in the kernel's keyring, 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeySig(pub [u8; 8]);

impl KeySig {
    /// The sig of an RSA public key; both numbers big-endian, without leading zeros.
    ///
    /// The first 8 bytes of its OpenPGP fingerprint (RFC 2440 section 11.2) for a key made at time 0
    /// for encryption only. OpenPGP key ids are the last 8, so no OpenPGP tool shows this one.
    pub fn of_rsa(modulus: &[u8], exponent: &[u8]) -> Self {
        let body_len = (10 + modulus.len() + exponent.len()) as u16;
        let mut key = vec![0x99];
        key.extend(body_len.to_be_bytes());
        key.extend([VERSION_4, 0, 0, 0, 0, RSA_ENCRYPT_ONLY]);
        for number in [modulus, exponent] {
            key.extend(bits(number).to_be_bytes());
            key.extend(number);
        }
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &key);
        let sig = hash.as_ref().first_chunk().expect("SHA-1 gives 20 bytes");
        Self(*sig)
    }

    /// As in structures that hold the text.
    pub(super) fn to_hex(self) -> [u8; HEX_LEN] {
        let mut hex = [0; HEX_LEN];
        HEXLOWER.encode_mut(&self.0, &mut hex);
        hex
    }

    /// Reads the text: 16 lower-case hexadecimal digits.
    pub fn from_hex(hex: &[u8; HEX_LEN]) -> Option<Self> {
        let mut sig = [0; 8];
        HEXLOWER.decode_mut(hex, &mut sig).ok()?;
        Some(Self(sig))
    }
}

/// Digits of a sig as text.
pub const HEX_LEN: usize = 16;

const VERSION_4: u8 = 4;
const RSA_ENCRYPT_ONLY: u8 = 2;

fn bits(number: &[u8]) -> u16 {
    let unused = number.first().map_or(0, |byte| byte.leading_zeros());
    (number.len() * 8) as u16 - unused as u16
}

impl fmt::Display for KeySig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeySig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
