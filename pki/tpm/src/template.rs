//! Public areas: of the SRK, and of the keys made under it.

use claviger_pki::key::{KeyType, PublicKey};
use claviger_pki::module::ModuleError;
use tss_esapi::Error;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    EccPoint, EccScheme, KeyDerivationFunctionScheme, Public, PublicBuilder,
    PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder, RsaExponent, RsaScheme,
    SymmetricDefinitionObject,
};

/// The exponent that a zero in a public area stands for (TPM 2.0 part 2, TPMS_RSA_PARMS).
const DEFAULT_EXPONENT: [u8; 3] = [1, 0, 1];

/// The P-256 storage primary that `TSS2 PRIVATE KEY` files mean by a parent of TPM_RH_OWNER.
pub(crate) fn srk() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
        SymmetricDefinitionObject::AES_128_CFB,
        EccCurve::NistP256,
    )
    .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// Whether a new key has an auth value that people type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// None: whoever runs this TPM uses the key.
    Empty,
    /// A PIN, guarded by the TPM's dictionary-attack protection.
    Pin,
}

/// An unrestricted decryption key that cannot leave this TPM.
///
/// # Errors
/// [`ModuleError::Unsupported`] for sizes that TPMs do not have in common.
pub(crate) fn key(key_type: KeyType, auth: Auth) -> Result<Public, ModuleError> {
    let built = match key_type {
        KeyType::EcP256 => ecc(EccCurve::NistP256, auth),
        KeyType::EcP384 => ecc(EccCurve::NistP384, auth),
        KeyType::Rsa2048 => rsa(auth),
        KeyType::Rsa3072 | KeyType::Rsa4096 => {
            return Err(ModuleError::Unsupported(format!(
                "{key_type} in a TPM: use rsa2048 or ec-p256"
            )));
        }
    };
    built.map_err(|error| crate::error::backend("template", error))
}

fn ecc(curve: EccCurve, auth: Auth) -> Result<Public, Error> {
    let parameters = PublicEccParametersBuilder::new()
        .with_curve(curve)
        .with_ecc_scheme(EccScheme::Null)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_is_signing_key(false)
        .with_is_decryption_key(true)
        .with_restricted(false)
        .build()?;
    decryption_key(auth)?
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

fn rsa(auth: Auth) -> Result<Public, Error> {
    let parameters = PublicRsaParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_scheme(RsaScheme::Null)
        .with_key_bits(RsaKeyBits::Rsa2048)
        .with_exponent(RsaExponent::default())
        .with_is_signing_key(false)
        .with_is_decryption_key(true)
        .with_restricted(false)
        .build()?;
    decryption_key(auth)?
        .with_public_algorithm(PublicAlgorithm::Rsa)
        .with_rsa_parameters(parameters)
        .with_rsa_unique_identifier(PublicKeyRsa::default())
        .build()
}

fn decryption_key(auth: Auth) -> Result<PublicBuilder, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_decrypt(true)
        // A key without an auth value cannot be guessed at, so a lockout that somebody else caused must not
        // keep its owner out.
        .with_no_da(auth == Auth::Empty)
        .build()?;
    Ok(PublicBuilder::new()
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes))
}

/// The public key in a public area.
///
/// # Errors
/// [`ModuleError::Unsupported`] for key types that Claviger does not use.
pub(crate) fn public_key(public: &Public) -> Result<PublicKey, ModuleError> {
    let unsupported = |what: String| ModuleError::Unsupported(format!("TPM key: {what}"));
    let key = match public {
        Public::Ecc {
            parameters, unique, ..
        } => {
            let (key_type, length) = match parameters.ecc_curve() {
                EccCurve::NistP256 => (KeyType::EcP256, 32),
                EccCurve::NistP384 => (KeyType::EcP384, 48),
                other => return Err(unsupported(format!("curve {other:?}"))),
            };
            let mut point = vec![4];
            for coordinate in [unique.x().value(), unique.y().value()] {
                // TPMs may drop leading zeros.
                point.resize(point.len() + length - coordinate.len().min(length), 0);
                point.extend_from_slice(coordinate);
            }
            PublicKey::from_ec_point(key_type, &point)
        }
        Public::Rsa {
            parameters, unique, ..
        } => {
            let exponent = parameters.exponent().value().to_be_bytes();
            let exponent: &[u8] = if exponent == [0; 4] {
                &DEFAULT_EXPONENT
            } else {
                &exponent
            };
            PublicKey::from_rsa(unique.value(), exponent)
        }
        Public::KeyedHash { .. } | Public::SymCipher { .. } => {
            return Err(unsupported("not an asymmetric key".into()));
        }
    };
    key.map_err(|error| unsupported(error.to_string()))
}
