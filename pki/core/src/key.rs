//! Public keys, their ids, and the KEMs that wrap to them.

mod pem;

use core::fmt;
use core::str::FromStr;

use aws_lc_rs::agreement::{ECDH_P256, ECDH_P384, ParsedPublicKey, UnparsedPublicKey};
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::der;
use crate::text::{UnknownName, as_text, named};

/// Identifies a key: SHA-256 of its DER SubjectPublicKeyInfo (RFC 5280 section 4.1).
///
/// As text, 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

impl KeyId {
    /// The first 8 bytes: what a Tag 1 packet carries.
    pub fn key_sig(&self) -> [u8; 8] {
        let (sig, _) = self
            .0
            .split_first_chunk()
            .expect("32 bytes are more than 8");
        *sig
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl FromStr for KeyId {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        data_encoding::HEXLOWER
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| Some(Self(bytes.try_into().ok()?)))
            .ok_or_else(|| UnknownName(text.into()))
    }
}

/// Kinds of key that Claviger can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// ECDH on P-256.
    EcP256,
    /// ECDH on P-384.
    EcP384,
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 3072 bits.
    Rsa3072,
    /// RSA, 4096 bits.
    Rsa4096,
}

impl KeyType {
    /// All of them, with the names that commands, configuration and key files use.
    pub const NAMES: &'static [(Self, &'static str)] = &[
        (Self::EcP256, "ec-p256"),
        (Self::EcP384, "ec-p384"),
        (Self::Rsa2048, "rsa2048"),
        (Self::Rsa3072, "rsa3072"),
        (Self::Rsa4096, "rsa4096"),
    ];

    /// KEMs that wrap to such a key, best first. Its token may have fewer.
    pub fn kems(self) -> &'static [Kem] {
        match self {
            Self::EcP256 => &[Kem::DhkemP256],
            Self::EcP384 => &[Kem::DhkemP384],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => {
                &[Kem::RsaOaepSha256, Kem::RsaOaepSha1]
            }
        }
    }

    /// Length of an encapsulation: of the uncompressed point, or of the RSA modulus.
    pub fn encapsulation_len(self) -> usize {
        match self {
            Self::EcP256 => 65,
            Self::EcP384 => 97,
            Self::Rsa2048 => 256,
            Self::Rsa3072 => 384,
            Self::Rsa4096 => 512,
        }
    }

    /// Everything of an EC key's SubjectPublicKeyInfo before the point.
    fn ec_prefix(self) -> Option<&'static [u8]> {
        match self {
            Self::EcP256 => Some(&P256_PREFIX),
            Self::EcP384 => Some(&P384_PREFIX),
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => None,
        }
    }
}

/// How a secret is carried to a public key. The numbers are the private algorithm numbers of Tag 1
/// packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kem {
    /// RSA-OAEP with SHA-256 and MGF1-SHA-256, empty label, of 32 random bytes.
    RsaOaepSha256 = 100,
    /// RSA-OAEP with SHA-1 and MGF1-SHA-1, for tokens that have no other (SoftHSM 2.6).
    RsaOaepSha1 = 101,
    /// DHKEM(P-256, HKDF-SHA256), RFC 9180 section 4.1.
    DhkemP256 = 102,
    /// DHKEM(P-384, HKDF-SHA384), RFC 9180 section 4.1.
    DhkemP384 = 103,
}

impl Kem {
    /// All of them, with the names that key files and the module protocol use.
    pub const NAMES: &'static [(Self, &'static str)] = &[
        (Self::RsaOaepSha256, "rsa-oaep-sha256"),
        (Self::RsaOaepSha1, "rsa-oaep-sha1"),
        (Self::DhkemP256, "dhkem-p256"),
        (Self::DhkemP384, "dhkem-p384"),
    ];

    /// Its algorithm number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The KEM of an algorithm number.
    pub fn from_number(number: u8) -> Option<Self> {
        let mut all = Self::NAMES.iter().map(|(kem, _)| *kem);
        all.find(|kem| kem.number() == number)
    }
}

named!(KeyType);
named!(Kem);
as_text!(KeyId);

/// A public key of a usable kind, as its DER SubjectPublicKeyInfo.
///
/// Only the canonical encoding is accepted, since the key's id is a hash of it. In messages it is
/// that DER, as a byte string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct PublicKey {
    spki: Vec<u8>,
    key_type: KeyType,
}

impl PublicKey {
    /// Parses a DER SubjectPublicKeyInfo; EC points must be on their curve.
    ///
    /// # Errors
    /// [`BadKey`] for other key types and malformed input.
    pub fn from_spki(der: &[u8]) -> Result<Self, BadKey> {
        for key_type in [KeyType::EcP256, KeyType::EcP384] {
            let prefix = key_type.ec_prefix().expect("an EC key type");
            if let Some(point) = der.strip_prefix(prefix) {
                return Self::from_ec_point(key_type, point);
            }
        }
        let (modulus, exponent) = rsa_parts(der)?;
        let key = Self::from_rsa(modulus, exponent)?;
        if key.spki != der {
            return Err(BadKey::Malformed);
        }
        Ok(key)
    }

    /// Makes one of an uncompressed point (`04 ‖ x ‖ y`); it must be on the curve.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn from_ec_point(key_type: KeyType, point: &[u8]) -> Result<Self, BadKey> {
        let prefix = key_type
            .ec_prefix()
            .ok_or_else(|| BadKey::Unsupported(format!("a point for {key_type}")))?;
        check_point(key_type, point)?;
        Ok(Self {
            spki: [prefix, point].concat(),
            key_type,
        })
    }

    /// Makes one of a modulus and a public exponent, both big-endian.
    ///
    /// # Errors
    /// [`BadKey`] unless the modulus has 2048, 3072 or 4096 bits, and the exponent is odd and from 3 to
    /// 2³² − 1.
    pub fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, BadKey> {
        let modulus = der::strip_zeros(modulus);
        let exponent = der::strip_zeros(exponent);
        let key_type = match (modulus.len(), modulus.first()) {
            (256, Some(0x80..)) => KeyType::Rsa2048,
            (384, Some(0x80..)) => KeyType::Rsa3072,
            (512, Some(0x80..)) => KeyType::Rsa4096,
            (bytes, _) => {
                return Err(BadKey::Unsupported(format!(
                    "RSA of about {} bits",
                    bytes * 8
                )));
            }
        };
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        if !odd(modulus) || !odd(exponent) || exponent == [1] || exponent.len() > 4 {
            return Err(BadKey::Malformed);
        }
        let numbers = [der::write_positive(modulus), der::write_positive(exponent)].concat();
        let key = [&[0][..], &der::write(der::SEQUENCE, &numbers)].concat();
        let info = [&RSA_ALGORITHM[..], &der::write(der::BIT_STRING, &key)].concat();
        Ok(Self {
            spki: der::write(der::SEQUENCE, &info),
            key_type,
        })
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Its id.
    pub fn key_id(&self) -> KeyId {
        let hash = digest(&SHA256, &self.spki);
        KeyId(hash.as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }

    /// Its kind.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The uncompressed point of an EC key.
    pub fn ec_point(&self) -> Option<&[u8]> {
        self.spki.strip_prefix(self.key_type.ec_prefix()?)
    }

    /// Modulus and public exponent of an RSA key, big-endian, without leading zeros.
    pub fn rsa(&self) -> Option<(&[u8], &[u8])> {
        let (modulus, exponent) = rsa_parts(&self.spki).ok()?;
        Some((der::strip_zeros(modulus), der::strip_zeros(exponent)))
    }
}

impl TryFrom<Vec<u8>> for PublicKey {
    type Error = BadKey;

    fn try_from(spki: Vec<u8>) -> Result<Self, Self::Error> {
        Self::from_spki(&spki)
    }
}

impl From<PublicKey> for Vec<u8> {
    fn from(key: PublicKey) -> Self {
        key.spki
    }
}

/// Not a public key that Claviger can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Not DER, or cut short.
    #[error("malformed public key")]
    Malformed,
    /// Another algorithm, curve or size.
    #[error("unsupported public key: {0}")]
    Unsupported(String),
    /// The point is not on its curve.
    #[error("public point is not on its curve")]
    NotOnCurve,
}

/// Checks that `point` is uncompressed, of the right length, on the curve and not at infinity.
///
/// # Errors
/// [`BadKey`].
pub(crate) fn check_point(key_type: KeyType, point: &[u8]) -> Result<(), BadKey> {
    let algorithm = match key_type {
        KeyType::EcP256 => &ECDH_P256,
        KeyType::EcP384 => &ECDH_P384,
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => return Err(BadKey::Malformed),
    };
    if point.len() != key_type.encapsulation_len() || point.first() != Some(&UNCOMPRESSED) {
        return Err(BadKey::Malformed);
    }
    // AWS-LC checks the curve equation here (EC_POINT_oct2point, EC_KEY_check_key).
    ParsedPublicKey::try_from(UnparsedPublicKey::new(algorithm, point))
        .map_err(|_| BadKey::NotOnCurve)?;
    Ok(())
}

/// Modulus and exponent of an RSA SubjectPublicKeyInfo, perhaps with leading zeros, perhaps from an
/// encoding that is not canonical.
fn rsa_parts(spki: &[u8]) -> Result<(&[u8], &[u8]), BadKey> {
    let (info, _) = der::take(der::SEQUENCE, spki).ok_or(BadKey::Malformed)?;
    let Some(key) = info.strip_prefix(&RSA_ALGORITHM) else {
        let algorithm = der::take(der::SEQUENCE, info)
            .and_then(|(algorithm, _)| der::take(der::OBJECT_IDENTIFIER, algorithm));
        return Err(match algorithm {
            Some((EC_PUBLIC_KEY, _)) => {
                BadKey::Unsupported("curve or form of an EC key (not P-256, P-384)".into())
            }
            Some((oid, _)) => BadKey::Unsupported(format!("algorithm {}", der::dotted(oid))),
            None => BadKey::Malformed,
        });
    };
    let parts = || {
        let (bits, _) = der::take(der::BIT_STRING, key)?;
        let (numbers, _) = der::take(der::SEQUENCE, bits.strip_prefix(&[0])?)?;
        let (modulus, rest) = der::take(der::INTEGER, numbers)?;
        let (exponent, _) = der::take(der::INTEGER, rest)?;
        Some((modulus, exponent))
    };
    parts().ok_or(BadKey::Malformed)
}

const UNCOMPRESSED: u8 = 4;

/// `SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING (66 bytes, 0 unused bits) }`, RFC
/// 5480 section 2.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The same for secp384r1 and 98 bytes.
const P384_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

/// `id-ecPublicKey`, RFC 5480 section 2.1.1.
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// `SEQUENCE { rsaEncryption, NULL }`, RFC 3279 section 2.3.1.
const RSA_ALGORITHM: [u8; 15] = [
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

#[cfg(test)]
mod tests;
