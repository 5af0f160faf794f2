//! Wrapping keys to public keys, and opening what was wrapped.
//!
//! A KEM gives a fresh secret and an *encapsulation* of it that only the private key opens. The
//! payload is sealed under a key derived from that secret, so that the token sees neither payload
//! nor context:
//!
//! ```text
//! body    := encapsulation | AES-256-GCM(key, nonce 0, payload), tag 16 at its end
//! key     := HKDF-SHA256(salt none, secret, info), 32 bytes
//! info    := "claviger wrap 0" | algorithm 1 | context 38 | key id 32 | encapsulation
//! context := volume 16 | epoch 4 little endian | purpose 1 | 1 and file id 16, or 17 zeros
//! secret  := RSA: 32 random bytes, as OAEP carries them
//!            EC: the DHKEM shared secret of RFC 9180 section 4.1, 32 or 48 bytes
//! ```
//!
//! The encapsulation is a point (65 or 97 bytes) or an RSA ciphertext (256, 384 or 512). A secret, and
//! with it the key, serves one wrap only: hence the constant nonce.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm};
use zeroize::Zeroizing;

use crate::dhkem::{Dhkem, Length};
use crate::key::{Kem, KeyId, PublicKey, check_point};
use crate::module::{Decapsulate, Locator, ModuleError};
use crate::oaep;

/// What a wrapped key is for. Opening it under any other context fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The volume's id; zeros for what belongs to none.
    pub volume: [u8; 16],
    /// The epoch, 0 for what belongs to none.
    pub epoch: u32,
    /// What is wrapped.
    pub purpose: Purpose,
    /// The file it belongs to, if it belongs to one.
    pub file: Option<[u8; 16]>,
}

/// What is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// The key of an epoch, in a manifest.
    EpochKey = 1,
    /// The file key of a file in file scope.
    FileKey = 2,
    /// The key of a stream that `claviger seal` wrote.
    Seal = 3,
}

impl Context {
    /// The one encoding of it.
    fn canonical(&self) -> [u8; 38] {
        let mut bytes = [0; 38];
        let (volume, rest) = bytes.split_at_mut(16);
        volume.copy_from_slice(&self.volume);
        let (epoch, rest) = rest.split_at_mut(4);
        epoch.copy_from_slice(&self.epoch.to_le_bytes());
        let (purpose, file) = rest.split_at_mut(1);
        purpose.copy_from_slice(&[self.purpose as u8]);
        if let Some(id) = &self.file {
            let (present, file) = file.split_at_mut(1);
            present.copy_from_slice(&[1]);
            file.copy_from_slice(id);
        }
        bytes
    }
}

/// A payload sealed to one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// How the secret is carried.
    pub kem: Kem,
    /// What carries it.
    pub encapsulation: Vec<u8>,
    /// The payload under a key derived from it.
    pub sealed: Vec<u8>,
}

impl Wrapped {
    /// Parses a body that is wrapped to `key`.
    ///
    /// # Errors
    /// [`UnwrapError::Algorithm`] for a number that no KEM has; [`UnwrapError::NotDecryptable`] if it
    /// does not go with the key, or the body is too short.
    pub fn parse(algorithm: u8, body: &[u8], key: &PublicKey) -> Result<Self, UnwrapError> {
        let kem = Kem::from_number(algorithm).ok_or(UnwrapError::Algorithm(algorithm))?;
        if !key.key_type().kems().contains(&kem) {
            return Err(UnwrapError::NotDecryptable);
        }
        let (encapsulation, sealed) = body
            .split_at_checked(key.key_type().encapsulation_len())
            .ok_or(UnwrapError::NotDecryptable)?;
        if sealed.len() < AES_256_GCM.tag_len() {
            return Err(UnwrapError::NotDecryptable);
        }
        Ok(Self {
            kem,
            encapsulation: encapsulation.to_vec(),
            sealed: sealed.to_vec(),
        })
    }

    /// Its algorithm number.
    pub fn algorithm(&self) -> u8 {
        self.kem.number()
    }

    /// Its body.
    pub fn write(&self) -> Vec<u8> {
        [&self.encapsulation[..], &self.sealed].concat()
    }

    /// The KEM step that opens it, for the module that holds the private half of `key` at `locator`.
    ///
    /// # Errors
    /// As [`check_encapsulation`].
    pub fn step(&self, key: &PublicKey, locator: Locator) -> Result<Decapsulate, UnwrapError> {
        check_encapsulation(self, key)?;
        Ok(Decapsulate {
            locator,
            public_key: key.clone(),
            kem: self.kem,
            encapsulation: self.encapsulation.clone(),
        })
    }
}

/// A public key. Wraps keys; needs no token.
pub trait Recipient: Send + Sync {
    /// Which key.
    fn key_id(&self) -> KeyId;

    /// How it wraps.
    fn kem(&self) -> Kem;

    /// Wraps `payload`, to be opened under the same `context` only.
    ///
    /// # Errors
    /// [`WrapError`].
    fn wrap(&self, context: &Context, payload: &[u8]) -> Result<Wrapped, WrapError>;
}

/// A private key that is usable now: its token is present and logged in.
pub trait Identity: Send + Sync {
    /// Its public half.
    fn public_key(&self) -> &PublicKey;

    /// Opens what was wrapped to it under `context`.
    ///
    /// # Errors
    /// [`UnwrapError`].
    fn unwrap(
        &self,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Zeroizing<Vec<u8>>, UnwrapError>;
}

/// Nothing could be wrapped to a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// The KEM is not for keys of this kind.
    #[error("{kem} does not wrap to key {key_id}")]
    WrongKem {
        /// The KEM asked for.
        kem: Kem,
        /// The key.
        key_id: KeyId,
    },
    /// The cryptographic library refused the key.
    #[error("key {0} is refused by the cryptographic library")]
    Refused(KeyId),
}

/// Something wrapped does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// Wrong key, wrong context or damage: one variant, so that nobody can tell them apart.
    #[error("does not decrypt")]
    NotDecryptable,
    /// Wrapped by an algorithm of a newer version.
    #[error("unsupported algorithm {0} of a wrapped key")]
    Algorithm(u8),
    /// The module could not do its part, for a reason that does not depend on the ciphertext.
    #[error(transparent)]
    Module(ModuleError),
}

impl From<ModuleError> for UnwrapError {
    fn from(error: ModuleError) -> Self {
        match error {
            ModuleError::NotDecryptable => Self::NotDecryptable,
            other => Self::Module(other),
        }
    }
}

/// The recipient of any public key.
#[derive(Clone, Debug)]
pub struct PublicKeyRecipient {
    key: PublicKey,
    kem: Kem,
}

impl PublicKeyRecipient {
    /// Wraps to `key` by way of `kem`, one that its token has.
    ///
    /// # Errors
    /// [`WrapError::WrongKem`] for a KEM of another kind of key.
    pub fn new(key: PublicKey, kem: Kem) -> Result<Self, WrapError> {
        if !key.key_type().kems().contains(&kem) {
            let key_id = key.key_id();
            return Err(WrapError::WrongKem { kem, key_id });
        }
        Ok(Self { key, kem })
    }

    /// The key.
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }
}

impl Recipient for PublicKeyRecipient {
    fn key_id(&self) -> KeyId {
        self.key.key_id()
    }

    fn kem(&self) -> Kem {
        self.kem
    }

    fn wrap(&self, context: &Context, payload: &[u8]) -> Result<Wrapped, WrapError> {
        let refused = || WrapError::Refused(self.key.key_id());
        let (secret, encapsulation) = match Scheme::of(self.kem) {
            Scheme::Rsa(algorithm) => rsa_encapsulate(&self.key, algorithm).ok_or_else(refused)?,
            Scheme::Ec(dhkem) => {
                let point = self.key.ec_point().ok_or_else(refused)?;
                dhkem.encapsulate(point).map_err(|_| refused())?
            }
        };
        let cipher = wrap_cipher(&secret, self.kem, context, &self.key, &encapsulation);
        let mut sealed = payload.to_vec();
        cipher
            .seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed)
            .expect("AES-GCM seals anything below 64 GiB");
        Ok(Wrapped {
            kem: self.kem,
            encapsulation,
            sealed,
        })
    }
}

/// The second half of opening: with what [`Module::decapsulate`](crate::module::Module) gave.
///
/// # Errors
/// [`UnwrapError::NotDecryptable`], whatever is wrong.
pub fn open(
    wrapped: &Wrapped,
    key: &PublicKey,
    context: &Context,
    secret: &[u8],
) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
    let encapsulation = &wrapped.encapsulation;
    let secret = match Scheme::of(wrapped.kem) {
        Scheme::Rsa(_) if secret.len() == RSA_SECRET_LEN => Zeroizing::new(secret.to_vec()),
        Scheme::Rsa(_) => return Err(UnwrapError::NotDecryptable),
        Scheme::Ec(dhkem) => key
            .ec_point()
            .and_then(|point| dhkem.shared_secret(secret, encapsulation, point))
            .ok_or(UnwrapError::NotDecryptable)?,
    };
    let cipher = wrap_cipher(&secret, wrapped.kem, context, key, encapsulation);
    let mut payload = Zeroizing::new(wrapped.sealed.clone());
    let len = cipher
        .open_in_place(nonce(), Aad::empty(), &mut payload)
        .map_err(|_| UnwrapError::NotDecryptable)?
        .len();
    payload.truncate(len);
    Ok(payload)
}

/// Checks all that can be checked before a token sees it: the KEM goes with the key, the length is
/// right, a point is on its curve (an invalid one could draw out the private key bit by bit).
///
/// # Errors
/// [`UnwrapError::NotDecryptable`].
pub fn check_encapsulation(wrapped: &Wrapped, key: &PublicKey) -> Result<(), UnwrapError> {
    if !fits(wrapped.kem, &wrapped.encapsulation, key) {
        return Err(UnwrapError::NotDecryptable);
    }
    Ok(())
}

/// Whether `encapsulation` may be shown to a token that holds the private half of `key`.
pub(crate) fn fits(kem: Kem, encapsulation: &[u8], key: &PublicKey) -> bool {
    let key_type = key.key_type();
    key_type.kems().contains(&kem)
        && encapsulation.len() == key_type.encapsulation_len()
        && match Scheme::of(kem) {
            Scheme::Rsa(_) => true,
            Scheme::Ec(dhkem) => check_point(dhkem.key_type(), encapsulation).is_ok(),
        }
}

/// What a KEM does.
enum Scheme {
    Rsa(&'static OaepAlgorithm),
    Ec(Dhkem),
}

impl Scheme {
    fn of(kem: Kem) -> Self {
        match kem {
            Kem::RsaOaepSha256 => Self::Rsa(&OAEP_SHA256_MGF1SHA256),
            Kem::RsaOaepSha1 => Self::Rsa(&OAEP_SHA1_MGF1SHA1),
            Kem::DhkemP256 => Self::Ec(Dhkem::P256),
            Kem::DhkemP384 => Self::Ec(Dhkem::P384),
        }
    }
}

fn rsa_encapsulate(
    key: &PublicKey,
    algorithm: &'static OaepAlgorithm,
) -> Option<(Zeroizing<Vec<u8>>, Vec<u8>)> {
    let mut secret = Zeroizing::new(vec![0; RSA_SECRET_LEN]);
    rand::fill(&mut secret).expect("the system gives random bytes");
    let encapsulation = oaep::encrypt(key, algorithm, &secret)?;
    Some((secret, encapsulation))
}

fn wrap_cipher(
    secret: &[u8],
    kem: Kem,
    context: &Context,
    key: &PublicKey,
    encapsulation: &[u8],
) -> LessSafeKey {
    let algorithm = [kem.number()];
    let context = context.canonical();
    let key_id = key.key_id().0;
    let info = [LABEL, &algorithm, &context, &key_id, encapsulation];
    let mut bytes = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &[])
        .extract(secret)
        .expand(&info, Length(bytes.len()))
        .and_then(|okm| okm.fill(&mut *bytes))
        .expect("32 bytes are one block of HKDF output");
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*bytes).expect("32 bytes are an AES-256 key"))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

const LABEL: &[u8] = b"claviger wrap 0";
const RSA_SECRET_LEN: usize = 32;

#[cfg(test)]
mod tests;
