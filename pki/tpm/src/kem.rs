//! What the TPM does with a loaded key: the KEM step, and the proof that it takes a PIN.

use claviger_pki::key::Kem;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{
    Data, EccParameter, EccPoint, HashScheme, Public, PublicKeyRsa, RsaDecryptionScheme,
};
use tss_esapi::{Context, Error, handles::KeyHandle};
use zeroize::{Zeroize, Zeroizing};

/// The KEM step in the TPM.
pub(crate) fn open(
    context: &mut Context,
    key: KeyHandle,
    kem: Kem,
    encapsulation: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    match kem {
        Kem::RsaOaepSha256 => oaep(context, key, HashingAlgorithm::Sha256, encapsulation),
        Kem::RsaOaepSha1 => oaep(context, key, HashingAlgorithm::Sha1, encapsulation),
        Kem::DhkemP256 => ecdh(context, key, 32, encapsulation),
        Kem::DhkemP384 => ecdh(context, key, 48, encapsulation),
    }
}

fn oaep(
    context: &mut Context,
    key: KeyHandle,
    hash: HashingAlgorithm,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let scheme = RsaDecryptionScheme::Oaep(HashScheme::new(hash));
    let ciphertext = PublicKeyRsa::try_from(ciphertext.to_vec())?;
    let plain = context.rsa_decrypt(key, ciphertext, scheme, Data::default())?;
    Ok(Zeroizing::new(plain.value().to_vec()))
}

fn ecdh(
    context: &mut Context,
    key: KeyHandle,
    length: usize,
    point: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    // Checked by the caller to be an uncompressed point on the curve.
    let (x, y) = point
        .get(1..)
        .unwrap_or_default()
        .split_at_checked(length)
        .unwrap_or_default();
    let point = EccPoint::new(
        EccParameter::try_from(x.to_vec())?,
        EccParameter::try_from(y.to_vec())?,
    );
    let shared = context.ecdh_z_gen(key, point)?;
    let mut secret = Zeroizing::new(vec![0; length]);
    let x = shared.x().value();
    if let Some(end) = length
        .checked_sub(x.len())
        .and_then(|start| secret.get_mut(start..))
    {
        end.copy_from_slice(x);
    }
    Ok(secret)
}

/// Something that needs the key's auth value and tells nothing else: proves the PIN.
pub(crate) fn prove_use(
    context: &mut Context,
    key: KeyHandle,
    public: &Public,
) -> Result<(), Error> {
    match public {
        Public::Ecc { unique, .. } => {
            let mut shared = context
                .ecdh_z_gen(key, unique.clone())?
                .x()
                .value()
                .to_vec();
            shared.zeroize();
            Ok(())
        }
        _ => {
            let scheme = RsaDecryptionScheme::Oaep(HashScheme::new(HashingAlgorithm::Sha256));
            let message = PublicKeyRsa::try_from(vec![1; 16])?;
            let ciphertext = context.execute_without_session(|context| {
                context.rsa_encrypt(key, message, scheme, Data::default())
            })?;
            context
                .rsa_decrypt(key, ciphertext, scheme, Data::default())
                .map(drop)
        }
    }
}
