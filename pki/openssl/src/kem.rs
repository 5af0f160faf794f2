//! The KEM step with a private key in memory.

use claviger_pki::key::Kem;
use claviger_pki::module::ModuleError;
use openssl::bn::BigNumContext;
use openssl::derive::Deriver;
use openssl::ec::{EcKey, EcPoint};
use openssl::encrypt::Decrypter;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::rsa::Padding;
use zeroize::Zeroizing;

use crate::file::PrivateKey;

/// Gives the secret of an encapsulation. What fails because of the encapsulation is one error.
pub(crate) fn decapsulate(
    key: &PrivateKey,
    kem: Kem,
    encapsulation: &[u8],
) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
    let key_type = key.public_key.key_type();
    if !key_type.kems().contains(&kem) {
        let what = format!("{kem} with a key of type {key_type}");
        return Err(ModuleError::Unsupported(what));
    }
    if encapsulation.len() != key_type.encapsulation_len() {
        return Err(ModuleError::NotDecryptable);
    }
    let secret = match kem {
        Kem::RsaOaepSha256 => oaep(&key.key, MessageDigest::sha256(), encapsulation),
        Kem::RsaOaepSha1 => oaep(&key.key, MessageDigest::sha1(), encapsulation),
        Kem::DhkemP256 | Kem::DhkemP384 => ecdh(&key.key, encapsulation),
    };
    secret.map_err(|_| ModuleError::NotDecryptable)
}

/// OpenSSL removes OAEP padding in constant time and tells one error for all that can be wrong.
fn oaep(
    key: &PKeyRef<Private>,
    hash: MessageDigest,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, ErrorStack> {
    let mut decrypter = Decrypter::new(key)?;
    decrypter.set_rsa_padding(Padding::PKCS1_OAEP)?;
    decrypter.set_rsa_oaep_md(hash)?;
    decrypter.set_rsa_mgf1_md(hash)?;
    let mut secret = Zeroizing::new(vec![0; decrypter.decrypt_len(ciphertext)?]);
    let len = decrypter.decrypt(ciphertext, &mut secret)?;
    secret.truncate(len);
    Ok(secret)
}

/// The raw x-coordinate. `from_bytes` refuses a point that is not on the curve.
fn ecdh(key: &PKeyRef<Private>, point: &[u8]) -> Result<Zeroizing<Vec<u8>>, ErrorStack> {
    let ours = key.ec_key()?;
    let mut context = BigNumContext::new()?;
    let point = EcPoint::from_bytes(ours.group(), point, &mut context)?;
    let peer = PKey::from_ec_key(EcKey::from_public_key(ours.group(), &point)?)?;
    let mut deriver = Deriver::new(key)?;
    deriver.set_peer(&peer)?;
    let mut secret = Zeroizing::new(vec![0; deriver.len()?]);
    let len = deriver.derive(&mut secret)?;
    secret.truncate(len);
    Ok(secret)
}
