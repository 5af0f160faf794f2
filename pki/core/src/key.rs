//! Public keys, their ids, and the KEMs that wrap to them.

use core::fmt;

/// Identifies a key: SHA-256 of its DER SubjectPublicKeyInfo (RFC 5280 section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

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

/// A public key of a usable kind, as its DER SubjectPublicKeyInfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    spki: Vec<u8>,
    key_type: KeyType,
}

impl PublicKey {
    /// Parses a DER SubjectPublicKeyInfo; EC points must be on their curve.
    ///
    /// # Errors
    /// [`BadKey`] for other key types and malformed input.
    pub fn from_spki(_der: &[u8]) -> Result<Self, BadKey> {
        todo!()
    }

    /// Makes one of an uncompressed point (`04 ‖ x ‖ y`); it must be on the curve.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn from_ec_point(_key_type: KeyType, _point: &[u8]) -> Result<Self, BadKey> {
        todo!()
    }

    /// Makes one of a modulus and a public exponent, both big-endian.
    ///
    /// # Errors
    /// [`BadKey`] unless the modulus has 2048, 3072 or 4096 bits.
    pub fn from_rsa(_modulus: &[u8], _exponent: &[u8]) -> Result<Self, BadKey> {
        todo!()
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Its id.
    pub fn key_id(&self) -> KeyId {
        todo!()
    }

    /// Its kind.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The uncompressed point of an EC key.
    pub fn ec_point(&self) -> Option<&[u8]> {
        todo!()
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
