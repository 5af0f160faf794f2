//! What is done with a private key, and the proof that a token can do it.

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey,
    PublicEncryptingKey,
};
use claviger_pki::key::{Kem, PublicKey};
use cryptoki::error::Error;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType as P11KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use crate::sys::{ContextLogin, Functions, Padding};

/// Opens `encapsulation` in the token.
///
/// # Errors
/// Those of the library; the session is not to be used again after one.
pub(crate) fn open(
    functions: &Functions,
    session: &Session,
    key: ObjectHandle,
    steps: Steps,
    encapsulation: &[u8],
    login: ContextLogin<'_>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    match steps {
        Steps::Decrypt(padding) => functions.decrypt(session, key, padding, encapsulation, login),
        Steps::Derive { field } => derive(functions, session, key, field, encapsulation),
    }
}

/// What is done in a token.
#[derive(Clone, Copy)]
pub(crate) enum Steps {
    Decrypt(Padding),
    /// `field` is the length of the shared x-coordinate.
    Derive {
        field: usize,
    },
}

/// How `kem` is done in a token.
pub(crate) fn steps(kem: Kem) -> Steps {
    match kem {
        Kem::RsaOaepSha256 => Steps::Decrypt(Padding::OaepSha256),
        Kem::RsaOaepSha1 => Steps::Decrypt(Padding::OaepSha1),
        Kem::DhkemP256 => Steps::Derive { field: 32 },
        Kem::DhkemP384 => Steps::Derive { field: 48 },
    }
}

/// The mechanism that a token must list for `kem`.
pub(crate) fn mechanism(kem: Kem) -> MechanismType {
    match steps(kem) {
        Steps::Decrypt(_) => MechanismType::RSA_PKCS_OAEP,
        Steps::Derive { .. } => MechanismType::ECDH1_DERIVE,
    }
}

/// ECDH without a KDF in the token (ours is done by the daemon): SoftHSM and ykcs11 refuse every
/// other, and OpenSC takes one and ignores it, returning the bare x-coordinate all the same.
fn derive(
    functions: &Functions,
    session: &Session,
    key: ObjectHandle,
    field: usize,
    point: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point));
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(P11KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::ValueLen(cryptoki::types::Ulong::new(u64::try_from(field)?)),
    ];
    let object = session.derive_key(&mechanism, key, &template)?;
    let mut secret = Zeroizing::new(vec![0; field]);
    let read = functions.read_value(session, object, &mut secret);
    // If this fails, the caller closes the session, and the object goes with it.
    session.destroy_object(object)?;
    let length = read?;
    // Some libraries leave out leading zeros.
    let missing = field.checked_sub(length).ok_or(Error::InvalidValue)?;
    secret.rotate_right(missing);
    Ok(secret)
}

/// What a self-test found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The token opened what was wrapped to the key.
    Right,
    /// It answered with something else: another key, or a KDF that nobody asked for.
    Wrong,
}

/// Has the token open a secret that is made up here and wrapped to `public_key`.
///
/// # Errors
/// Those of the library.
pub(crate) fn self_test(
    functions: &Functions,
    session: &Session,
    key: ObjectHandle,
    public_key: &PublicKey,
    kem: Kem,
) -> Result<Verdict, Error> {
    // Cannot fail for a key that was parsed; if it does, that is no word about the token.
    let (encapsulation, secret) = specimen(public_key, kem).map_err(|_| Error::InvalidValue)?;
    let opened = open(
        functions,
        session,
        key,
        steps(kem),
        &encapsulation,
        ContextLogin::NotNeeded,
    )?;
    Ok(match verify_slices_are_equal(&opened, &secret) {
        Ok(()) => Verdict::Right,
        Err(Unspecified) => Verdict::Wrong,
    })
}

/// An encapsulation and what it opens to.
fn specimen(
    public_key: &PublicKey,
    kem: Kem,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Unspecified> {
    match kem {
        Kem::RsaOaepSha256 => encrypt(public_key, &OAEP_SHA256_MGF1SHA256),
        Kem::RsaOaepSha1 => encrypt(public_key, &OAEP_SHA1_MGF1SHA1),
        Kem::DhkemP256 => agree(public_key, &agreement::ECDH_P256),
        Kem::DhkemP384 => agree(public_key, &agreement::ECDH_P384),
    }
}

fn encrypt(
    public_key: &PublicKey,
    algorithm: &'static OaepAlgorithm,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Unspecified> {
    let mut secret = Zeroizing::new(vec![0; 32]);
    SystemRandom::new().fill(&mut secret)?;
    let key = PublicEncryptingKey::from_der(public_key.spki()).map_err(|_| Unspecified)?;
    let key = OaepPublicEncryptingKey::new(key)?;
    let mut ciphertext = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, &secret, &mut ciphertext, None)?;
    Ok((ciphertext, secret))
}

fn agree(
    public_key: &PublicKey,
    algorithm: &'static agreement::Algorithm,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Unspecified> {
    let ephemeral = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new())?;
    let encapsulation = ephemeral.compute_public_key()?.as_ref().to_vec();
    let point = public_key.ec_point().ok_or(Unspecified)?;
    let peer = UnparsedPublicKey::new(algorithm, point);
    let secret = agree_ephemeral(ephemeral, peer, Unspecified, |secret| {
        Ok(Zeroizing::new(secret.to_vec()))
    })?;
    Ok((encapsulation, secret))
}
