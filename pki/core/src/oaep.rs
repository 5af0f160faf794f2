//! RSA-OAEP to a public key.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OaepAlgorithm, OaepPublicEncryptingKey, PublicEncryptingKey,
};

use crate::key::PublicKey;

/// Encrypts `message` as eCryptfs' openssl key module did: SHA-1, MGF1-SHA-1, empty label. It binds no
/// context and authenticates nothing: for formats that leave no choice.
///
/// `None` for a key that is not RSA, and a message that does not fit (214 bytes with 2048 bits).
pub fn encrypt_sha1(key: &PublicKey, message: &[u8]) -> Option<Vec<u8>> {
    encrypt(key, &OAEP_SHA1_MGF1SHA1, message)
}

pub(crate) fn encrypt(
    key: &PublicKey,
    algorithm: &'static OaepAlgorithm,
    message: &[u8],
) -> Option<Vec<u8>> {
    let public = PublicEncryptingKey::from_der(key.spki()).ok()?;
    let public = OaepPublicEncryptingKey::new(public).ok()?;
    let mut ciphertext = vec![0; public.ciphertext_size()];
    public
        .encrypt(algorithm, message, &mut ciphertext, None)
        .ok()?;
    Some(ciphertext)
}
