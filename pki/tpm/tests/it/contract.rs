use std::path::PathBuf;
use std::time::Duration;

use claviger_hw_tests::Swtpm;
use claviger_pki::contract::{Fixture, Pin, Subject};
use claviger_pki::host::HostConfig;
use claviger_pki::key::KeyType;
use claviger_pki::module::{Generate, Module};
use claviger_pki::wire::Settings;
use claviger_pki_tpm::TpmModule;
use zeroize::Zeroizing;

const PIN: &str = "86420";

/// A key of each kind, with and without a PIN.
fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let tpm = Swtpm::start_in(folder.path());
    let settings = Settings::from([("tcti".to_owned(), tpm.tcti())]);
    let module = TpmModule::open(&settings).unwrap();
    let needed = Pin::Needed {
        right: PIN,
        wrong: Some("13579"),
    };
    let subjects = [
        ("p256", KeyType::EcP256, Pin::None),
        ("p256-pin", KeyType::EcP256, needed),
        ("p384", KeyType::EcP384, Pin::None),
        ("rsa-pin", KeyType::Rsa2048, needed),
    ]
    .map(|(name, key_type, pin)| {
        let path = folder.path().join(name).display().to_string();
        let secret = match pin {
            Pin::None => None,
            Pin::Needed { right, .. } => Some(Zeroizing::new(right.as_bytes().to_vec())),
        };
        let order = Generate {
            token: String::new(),
            key_type: Some(key_type),
            label: String::new(),
            out: Some(path.clone()),
            pin: secret,
        };
        let key = module.generate(&order).unwrap();
        Subject {
            selector: path,
            locator: key.locator,
            public_key: key.public_key,
            kems: key.kems,
            pin,
        }
    });
    Fixture {
        host: HostConfig {
            name: "tpm".into(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_claviger-pki-tpm")),
            settings,
            grace: Duration::from_secs(5),
        },
        subjects: subjects.into(),
        keep: Box::new((tpm, folder)),
    }
}

claviger_pki::module_contract!(fixture);
