use std::fs;
use std::path::PathBuf;

use claviger_pki::contract::{Fixture, Pin, Subject};
use claviger_pki::host::{GRACE, HostConfig};
use claviger_pki::key::PublicKey;
use claviger_pki::module::Locator;
use claviger_pki::wire::Settings;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::symm::Cipher;

const PASSPHRASE: &str = "open sesame";

/// One key of each kind, in each form that a PEM file has.
fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let ec = |curve| EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap();
    let (p256, p384) = (ec(Nid::X9_62_PRIME256V1), ec(Nid::SECP384R1));
    let (rsa, rsa_plain) = (Rsa::generate(2048).unwrap(), Rsa::generate(2048).unwrap());
    let cipher = Cipher::aes_256_cbc();
    let pass = PASSPHRASE.as_bytes();

    let p256 = PKey::from_ec_key(p256).unwrap();
    let p256_pem = p256
        .private_key_to_pem_pkcs8_passphrase(cipher, pass)
        .unwrap();
    let p384_pem = p384.private_key_to_pem().unwrap();
    let rsa_pem = rsa.private_key_to_pem_passphrase(cipher, pass).unwrap();
    let rsa_plain = PKey::from_rsa(rsa_plain).unwrap();
    let rsa_plain_pem = rsa_plain.private_key_to_pem_pkcs8().unwrap();
    let needed = Pin::Needed {
        right: PASSPHRASE,
        wrong: Some("open barley"),
    };
    let subject = |name: &str, pem: &[u8], key: &PKey<Private>, pin| {
        let path = folder.path().join(name);
        fs::write(&path, pem).unwrap();
        let public_key = PublicKey::from_spki(&key.public_key_to_der().unwrap()).unwrap();
        Subject {
            selector: path.display().to_string(),
            locator: Locator(path.display().to_string()),
            kems: public_key.key_type().kems().to_vec(),
            public_key,
            pin,
        }
    };
    let subjects = vec![
        subject("pkcs8-encrypted.pem", &p256_pem, &p256, needed),
        subject(
            "traditional.pem",
            &p384_pem,
            &PKey::from_ec_key(p384).unwrap(),
            Pin::None,
        ),
        subject(
            "traditional-encrypted.pem",
            &rsa_pem,
            &PKey::from_rsa(rsa).unwrap(),
            needed,
        ),
        subject("pkcs8.pem", &rsa_plain_pem, &rsa_plain, Pin::None),
    ];
    Fixture {
        host: HostConfig {
            name: "openssl".into(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_claviger-pki-openssl")),
            settings: Settings::new(),
            grace: GRACE,
        },
        subjects,
        keep: Box::new(folder),
    }
}

claviger_pki::module_contract!(fixture);
