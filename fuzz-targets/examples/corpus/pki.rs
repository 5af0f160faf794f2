//! Keys, auth toks, URIs, and what modules are told and say.

use std::collections::BTreeMap;
use std::fs::{self};

use claviger_fuzz_targets::fixed::VOLUME;
use claviger_fuzz_targets::pki::SPKI;
use claviger_pki::auth_tok::enrolled::{EnrolledKey, KeyFolder};
use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::{Decapsulate, Key, Locator, ModuleError, Provenance};
use claviger_pki::seed::{PassphraseKdf, RecoveryKey};
use claviger_pki::wire::{Answer, Call, FromModule, Login, ToModule, VERSION as WIRE, send};
use claviger_pki::wrap::{Context, PublicKeyRecipient, Purpose, Recipient};
use zeroize::Zeroizing;

use crate::Corpus;

pub(crate) fn seeds(corpus: &Corpus) {
    let key = PublicKey::from_spki(SPKI).unwrap();
    corpus.seed("pki_spki", "p256", SPKI);
    corpus.seed("pki_pem", "p256", key.to_pem());
    let rsa = PublicKey::from_rsa(&[0xC5; 256], &[1, 0, 1]).unwrap();
    corpus.seed("pki_spki", "rsa2048", rsa.spki());
    corpus.seed("pki_pem", "rsa2048", rsa.to_pem());
    let recipient = PublicKeyRecipient::new(key.clone(), Kem::DhkemP256).unwrap();
    let context = Context {
        volume: VOLUME.0,
        epoch: 1,
        purpose: Purpose::EpochKey,
        file: None,
    };
    let wrapped = recipient.wrap(&context, &[16; 32]).unwrap();
    let body = [&[wrapped.algorithm()][..], &wrapped.write()].concat();
    corpus.seed("pki_wrapped", "p256", body);
    let recovery = RecoveryKey::generate().expose_text();
    corpus.seed("pki_recovery_key", "text", recovery.as_bytes());
    corpus.seed("pki_passphrase", "phc", PassphraseKdf::fresh().to_string());

    let found = Key {
        locator: Locator("pkcs11:token=Card;id=%01".into()),
        public_key: key.clone(),
        label: "card of Ada".into(),
        kems: vec![Kem::DhkemP256],
        provenance: Provenance::InToken,
    };
    let enrolled = EnrolledKey::new("pkcs11".into(), found.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    KeyFolder::new(folder.path().into())
        .store(&enrolled)
        .unwrap();
    let name = format!("{}.toml", key.key_id());
    let text = fs::read_to_string(folder.path().join(&name)).unwrap();
    corpus.seed("pki_key_file", "card", format!("{name}\n{text}"));
    // Version, then module and locator, each with its length before it.
    let mut tok = vec![1, 6];
    tok.extend(b"pkcs11");
    tok.push(u8::try_from(found.locator.0.len()).unwrap());
    tok.extend(found.locator.0.as_bytes());
    corpus.seed("pki_auth_tok", "card", tok);

    let calls = [
        (
            "hello",
            ToModule::Hello {
                version: WIRE,
                settings: BTreeMap::from([("library".into(), "/usr/lib/card.so".into())]),
            },
        ),
        (
            "login",
            ToModule::Call {
                id: 1,
                time_ms: 1000,
                call: Call::Login(Login {
                    locator: found.locator.clone(),
                    pin: Zeroizing::new(b"123456".to_vec()),
                }),
            },
        ),
        (
            "decapsulate",
            ToModule::Call {
                id: 2,
                time_ms: 1000,
                call: Call::Decapsulate(Decapsulate {
                    locator: found.locator.clone(),
                    public_key: key,
                    kem: Kem::DhkemP256,
                    encapsulation: wrapped.encapsulation,
                }),
            },
        ),
        ("cancel", ToModule::Cancel { id: 2 }),
    ];
    for (name, call) in &calls {
        let mut bytes = Vec::new();
        send(&mut bytes, call).unwrap();
        corpus.seed("pki_to_module", name, bytes);
    }
    let answers = [
        ("keys", Ok(Answer::Keys(vec![found]))),
        ("secret", Ok(Answer::Secret(Zeroizing::new(vec![17; 32])))),
        ("absent", Err(ModuleError::Absent("Card".into()))),
    ];
    for (name, result) in answers {
        let answer = FromModule::Answer { id: 2, result };
        let mut bytes = Vec::new();
        send(&mut bytes, &answer).unwrap();
        corpus.seed("pki_from_module", name, bytes);
    }
    for (name, uri) in [
        (
            "key",
            "pkcs11:token=My%20Card;serial=00a1;id=%03;type=private",
        ),
        (
            "query",
            "pkcs11:slot-id=3;library-version=2.40?module-path=/usr/lib/card.so&x=y",
        ),
    ] {
        corpus.seed("pki_uri", name, uri);
    }
    corpus.seed(
        "pki_module_file",
        "softhsm",
        "# SoftHSM\nmodule: /usr/lib/softhsm/libsofthsm2.so\npriority: 5\nenable-in: claviger, p11tool\n",
    );
    let certificate = include_bytes!("../../../pki/pkcs11/tests/data/certificate.der");
    corpus.seed("pki_certificate", "p256", certificate);
    let locator = format!("tpm:srk=000b{};file=/home/a/key.tss", "0f".repeat(32));
    corpus.seed("pki_tpm_locator", "srk", locator);
}
