//! The contract, held by the mock module: what it asks for can be done, and it finds its keys.

use claviger_pki::cancel::Cancel;
use claviger_pki::contract::{Fixture, Pin, Subject};
use claviger_pki::host::ModuleHost;

use crate::mock::{config, soon};

fn fixture() -> Fixture {
    let host = config(&[("pin", "1234"), ("concurrency", "2")]);
    let finder = ModuleHost::new(host.clone());
    let subjects = ["p256", "p384", "rsa"].map(|name| {
        let key = finder
            .keys(name, soon(), &Cancel::never())
            .unwrap()
            .remove(0);
        Subject {
            selector: name.into(),
            locator: key.locator,
            public_key: key.public_key,
            kems: key.kems,
            pin: Pin::Needed {
                right: "1234",
                wrong: Some("4321"),
            },
        }
    });
    Fixture {
        host,
        subjects: subjects.into(),
        keep: Box::new(()),
    }
}

claviger_pki::module_contract!(fixture);
