//! The contract, held by a module in another language, which was written by `docs/protocol-module.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use claviger_pki::contract::{Fixture, Pin, Subject};
use claviger_pki::host::{GRACE, HostConfig};
use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::Locator;
use claviger_pki::wire::Settings;

const PASSPHRASE: &str = "open sesame";

fn openssl(arguments: &[&str], key: &Path) -> Vec<u8> {
    let made = Command::new("openssl").args(arguments).arg(key).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{made:?}");
    made.stdout
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let make = ["genpkey", "-algorithm", "RSA", "-quiet", "-out"];
    let subject = |name: &str, pin| {
        let path = folder.path().join(format!("{name}.pem"));
        openssl(&make, &path);
        let public = openssl(&["pkey", "-pubout", "-in"], &path);
        if let Pin::Needed { right, .. } = pin {
            let pass = format!("pass:{right}");
            let wrapped = openssl(&["pkey", "-aes256", "-passout", &pass, "-in"], &path);
            fs::write(&path, wrapped).unwrap();
        }
        Subject {
            selector: name.into(),
            locator: Locator(name.into()),
            public_key: PublicKey::from_pem(core::str::from_utf8(&public).unwrap()).unwrap(),
            kems: vec![Kem::RsaOaepSha256],
            pin,
        }
    };
    let needed = Pin::Needed {
        right: PASSPHRASE,
        wrong: Some("open barley"),
    };
    let subjects = vec![subject("plain", Pin::None), subject("encrypted", needed)];
    let setting = ("folder".into(), folder.path().display().to_string());
    Fixture {
        host: HostConfig {
            name: "python".into(),
            program: PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../docs/example-module.py"
            )),
            settings: Settings::from([setting]),
            grace: GRACE,
        },
        subjects,
        keep: Box::new(folder),
    }
}

claviger_pki::module_contract!(fixture);
