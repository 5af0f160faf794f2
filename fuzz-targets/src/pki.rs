//! Keys, wraps, auth toks, and what modules and hosts send each other.

use claviger_pki::key::PublicKey;
use claviger_pki::module::Locator;
use claviger_pki::p11_uri::Uri;
use claviger_pki::seed::{PassphraseKdf, RecoveryKey};
use claviger_pki::wire::{FromModule, ToModule, receive};
use claviger_pki::wrap::Wrapped;
use claviger_pki::{fuzzing, wrap};
use zeroize::Zeroizing;

use crate::Reached;

/// A P-256 key, that of the corpus's PEM files.
pub const SPKI: &[u8] = include_bytes!("p256.spki");

/// A DER SubjectPublicKeyInfo.
pub fn spki(data: &[u8]) -> Reached {
    let key = PublicKey::from_spki(data);
    if let Ok(key) = &key {
        let again = PublicKey::from_spki(key.spki()).expect("it is in its one form");
        assert_eq!(&again, key);
    }
    key.is_ok().into()
}

/// A public key in PEM.
pub fn pem(data: &[u8]) -> Reached {
    let key = text(data).and_then(|text| PublicKey::from_pem(text).ok());
    if let Some(key) = &key {
        assert_eq!(PublicKey::from_pem(&key.to_pem()).as_ref(), Ok(key));
    }
    key.is_some().into()
}

/// An algorithm number and the body of a wrap, to a P-256 key; with a shared secret of zeros.
pub fn wrapped(data: &[u8]) -> Reached {
    let key = &PublicKey::from_spki(SPKI).expect("it is one");
    let Some((algorithm, body)) = data.split_first() else {
        return Reached::Refused;
    };
    let Ok(wrapped) = Wrapped::parse(*algorithm, body, key) else {
        return Reached::Refused;
    };
    if wrapped.step(key, Locator("anywhere".into())).is_err() {
        return Reached::Refused;
    }
    let context = wrap::Context {
        volume: [0; 16],
        epoch: 1,
        purpose: wrap::Purpose::EpochKey,
        file: None,
    };
    let opened = wrap::open(&wrapped, key, &context, &[0; 32]);
    assert!(opened.is_err(), "the secret was another");
    Reached::Success
}

/// The text of a recovery key.
pub fn recovery_key(data: &[u8]) -> Reached {
    text(data)
        .is_some_and(|text| RecoveryKey::parse(text).is_ok())
        .into()
}

/// How a passphrase becomes a seed.
pub fn passphrase(data: &[u8]) -> Reached {
    text(data)
        .is_some_and(|text| text.parse::<PassphraseKdf>().is_ok())
        .into()
}

/// The payload of an auth tok.
pub fn auth_tok(data: &[u8]) -> Reached {
    fuzzing::auth_tok(data).into()
}

/// A line with the name of an enrolled key's file, then the file.
pub fn key_file(data: &[u8]) -> Reached {
    text(data)
        .and_then(|text| text.split_once('\n'))
        .is_some_and(|(name, text)| fuzzing::key_file(name, text))
        .into()
}

/// What a host sends a module.
pub fn to_module(data: &[u8]) -> Reached {
    receive::<ToModule>(data).is_ok().into()
}

/// What a module sends its host.
pub fn from_module(data: &[u8]) -> Reached {
    receive::<FromModule>(data).is_ok().into()
}

/// A PKCS#11 URI.
pub fn uri(data: &[u8]) -> Reached {
    let uri = text(data).and_then(|text| Uri::parse(text).ok());
    if let Some(uri) = &uri {
        assert_eq!(Uri::parse(&uri.to_string()).as_ref(), Ok(uri));
    }
    uri.is_some().into()
}

/// A `*.module` file of p11-kit.
pub fn module_file(data: &[u8]) -> Reached {
    text(data).is_some_and(fuzzing::p11_module_file).into()
}

/// A certificate that a token keeps of its key.
pub fn certificate(data: &[u8]) -> Reached {
    claviger_pki_pkcs11::subject_public_key_info(data)
        .is_some_and(|spki| PublicKey::from_spki(spki).is_ok())
        .into()
}

/// A `TSS2 PRIVATE KEY` file.
pub fn tpm_key_file(data: &[u8]) -> Reached {
    claviger_pki_tpm::fuzzing::key_file(data).into()
}

/// Where a TPM key is.
pub fn tpm_locator(data: &[u8]) -> Reached {
    text(data)
        .is_some_and(claviger_pki_tpm::fuzzing::locator)
        .into()
}

/// A PEM file with a private key, which no passphrase opens.
pub fn pem_key_file(data: &[u8]) -> Reached {
    claviger_pki_openssl::fuzzing::key_file(&Zeroizing::new(data.to_vec())).into()
}

fn text(data: &[u8]) -> Option<&str> {
    str::from_utf8(data).ok()
}
