use claviger_pki::contract::{Fixture, Pin, Subject};
use claviger_pki::key::KeyType;

use crate::softhsm::{PIN, SoftHsm, TOKEN, WRONG_PIN};

/// A token with a key of each kind, but for the RSA sizes that take long to make.
fn fixture() -> Fixture {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let subject = |key_type| {
        let key = module.generate(TOKEN, key_type).unwrap();
        Subject {
            selector: format!("{TOKEN};object=test%20{key_type}"),
            locator: key.locator,
            public_key: key.public_key,
            kems: key.kems,
            pin: Pin::Needed {
                right: PIN,
                wrong: Some(WRONG_PIN),
            },
        }
    };
    Fixture {
        host: softhsm.config(),
        subjects: [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048]
            .map(subject)
            .into(),
        keep: Box::new(softhsm),
    }
}

claviger_pki::module_contract!(fixture);
