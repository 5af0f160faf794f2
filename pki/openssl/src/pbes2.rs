//! Encrypted PKCS#8 (RFC 5958 section 3) with a passphrase: PBES2 of RFC 8018, PBKDF2-HMAC-SHA256 and
//! AES-256-CBC.
//!
//! OpenSSL writes the same, with 2,048 iterations that cannot be changed through its Rust crate.
//! OWASP asks for 600,000. Reading is left to OpenSSL, which goes by what the file says.

use openssl::base64;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkcs5::pbkdf2_hmac;
use openssl::rand::rand_bytes;
use openssl::symm::{Cipher, encrypt as encrypt_cbc};
use zeroize::Zeroizing;

const ITERATIONS: u32 = 600_000;

/// Encrypts a DER PrivateKeyInfo and gives the PEM.
pub(crate) fn encrypt(key_info: &[u8], passphrase: &[u8]) -> Result<String, ErrorStack> {
    let mut salt = [0; 16];
    let mut iv = [0; 16];
    rand_bytes(&mut salt)?;
    rand_bytes(&mut iv)?;
    let mut key = Zeroizing::new([0; 32]);
    let hash = MessageDigest::sha256();
    pbkdf2_hmac(passphrase, &salt, ITERATIONS as usize, hash, &mut *key)?;
    let encrypted = encrypt_cbc(Cipher::aes_256_cbc(), &*key, Some(&iv), key_info)?;
    Ok(pem(&encrypted_key_info(&salt, &iv, &encrypted)))
}

/// `SEQUENCE { SEQUENCE { id-PBES2, SEQUENCE { PBKDF2, cipher } }, OCTET STRING }`
fn encrypted_key_info(salt: &[u8; 16], iv: &[u8; 16], encrypted: &[u8]) -> Vec<u8> {
    // 00 09 27 c0: an INTEGER has no leading zero where the next bit is 0.
    let [_, iterations @ ..] = ITERATIONS.to_be_bytes();
    let parameters = [
        element(OCTET_STRING, salt),
        element(INTEGER, &iterations),
        element(SEQUENCE, &[HMAC_WITH_SHA256, NULL].concat()),
    ];
    let pbkdf2 = [ID_PBKDF2, &element(SEQUENCE, &parameters.concat())].concat();
    let cipher = [AES256_CBC, &element(OCTET_STRING, iv)].concat();
    let schemes = [element(SEQUENCE, &pbkdf2), element(SEQUENCE, &cipher)].concat();
    let algorithm = [ID_PBES2, &element(SEQUENCE, &schemes)].concat();
    let info = [
        element(SEQUENCE, &algorithm),
        element(OCTET_STRING, encrypted),
    ];
    element(SEQUENCE, &info.concat())
}

/// One DER element, shorter than 64 KiB.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).expect("a key is far shorter than 64 KiB");
    let mut out = vec![tag];
    match len {
        0..=0x7f => out.push(len as u8),
        0x80..=0xff => out.extend([0x81, len as u8]),
        _ => {
            out.push(0x82);
            out.extend(len.to_be_bytes());
        }
    }
    out.extend(content);
    out
}

fn pem(der: &[u8]) -> String {
    let body = base64::encode_block(der);
    let mut text = String::from("-----BEGIN ENCRYPTED PRIVATE KEY-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.extend([line, "\n"]);
        rest = after;
    }
    text.push_str("-----END ENCRYPTED PRIVATE KEY-----\n");
    text
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const NULL: &[u8] = &[0x05, 0x00];
/// 1.2.840.113549.1.5.13
const ID_PBES2: &[u8] = &[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d,
];
/// 1.2.840.113549.1.5.12
const ID_PBKDF2: &[u8] = &[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c,
];
/// 1.2.840.113549.2.9
const HMAC_WITH_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x09];
/// 2.16.840.1.101.3.4.1.42
const AES256_CBC: &[u8] = &[
    0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a,
];

#[cfg(test)]
mod tests {
    use openssl::ec::{EcGroup, EcKey};
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;

    use super::*;

    #[test]
    fn openssl_opens_what_is_written_here_with_that_passphrase_only() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let ec = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        for key in [ec, rsa] {
            let der = key.private_key_to_pkcs8().unwrap();
            let pem = encrypt(&der, b"passphrase").unwrap();
            let read = PKey::private_key_from_pem_passphrase(pem.as_bytes(), b"passphrase");
            assert!(read.unwrap().public_eq(&key));
            let wrong = PKey::private_key_from_pem_passphrase(pem.as_bytes(), b"passphrasf");
            assert!(wrong.is_err());
        }
    }
}
