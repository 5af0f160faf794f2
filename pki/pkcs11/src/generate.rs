//! New key pairs, made in the token so that they cannot leave it.

use claviger_pki::key::KeyType;
use claviger_pki::module::ModuleError;
use cryptoki::error::Error;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;

use crate::key::{P256, P384};

/// Handles of a new pair, over the session that made it.
pub(crate) struct NewPair {
    public: ObjectHandle,
    private: ObjectHandle,
}

/// Makes a pair that can only be used to open what is wrapped to it.
pub(crate) fn generate(
    session: &Session,
    key_type: KeyType,
    id: &[u8],
    label: &str,
) -> Result<NewPair, Error> {
    let (mechanism, in_public, in_private) = match key_type {
        KeyType::EcP256 => ec(P256),
        KeyType::EcP384 => ec(P384),
        KeyType::Rsa2048 => rsa(2048),
        KeyType::Rsa3072 => rsa(3072),
        KeyType::Rsa4096 => rsa(4096),
    };
    let both = [
        Attribute::Token(true),
        Attribute::Id(id.to_vec()),
        Attribute::Label(label.into()),
    ];
    let public_template = [
        &both[..],
        &[Attribute::Private(false), Attribute::Verify(false)],
        &in_public,
    ]
    .concat();
    let stays = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        // A key that signs as well could be made to sign what somebody took for a wrapped secret.
        Attribute::Sign(false),
    ];
    let private_template = [&both[..], &stays, &in_private].concat();
    let (public, private) =
        session.generate_key_pair(&mechanism, &public_template, &private_template)?;
    Ok(NewPair { public, private })
}

/// The kind to make where none was asked for: P-256 is what tokens do quickest.
pub(crate) fn first_choice(mechanisms: &[MechanismType]) -> Result<KeyType, ModuleError> {
    let has = |wanted| mechanisms.contains(&wanted);
    if has(MechanismType::ECC_KEY_PAIR_GEN) && has(MechanismType::ECDH1_DERIVE) {
        return Ok(KeyType::EcP256);
    }
    if has(MechanismType::RSA_PKCS_KEY_PAIR_GEN) && has(MechanismType::RSA_PKCS_OAEP) {
        return Ok(KeyType::Rsa2048);
    }
    Err(ModuleError::Unsupported(
        "the token makes no key pairs of a usable kind".into(),
    ))
}

impl NewPair {
    /// Takes it back out of the token.
    pub(crate) fn destroy(&self, session: &Session) -> Result<(), Error> {
        let private = session.destroy_object(self.private);
        session.destroy_object(self.public).and(private)
    }
}

type Templates = (Mechanism<'static>, Vec<Attribute>, Vec<Attribute>);

fn ec(curve: &[u8]) -> Templates {
    let public = vec![Attribute::EcParams(curve.to_vec())];
    (
        Mechanism::EccKeyPairGen,
        public,
        vec![Attribute::Derive(true)],
    )
}

fn rsa(bits: u64) -> Templates {
    let public = vec![
        Attribute::ModulusBits(Ulong::new(bits)),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Encrypt(true),
    ];
    (
        Mechanism::RsaPkcsKeyPairGen,
        public,
        vec![Attribute::Decrypt(true), Attribute::Unwrap(false)],
    )
}
