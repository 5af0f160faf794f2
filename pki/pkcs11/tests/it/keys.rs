use std::fs;
use std::thread;

use claviger_pki::key::{Kem, KeyType};
use claviger_pki::module::{Generate, Key, ModuleError, PinState, Provenance};
use claviger_pki::p11_uri::Uri;

use crate::softhsm::{SoftHsm, TOKEN, encapsulate, soon};

#[test]
fn every_key_type_is_made_in_the_token_found_again_and_used() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let cases = [
        (KeyType::EcP256, Kem::DhkemP256),
        (KeyType::EcP384, Kem::DhkemP384),
        (KeyType::Rsa2048, Kem::RsaOaepSha1),
        (KeyType::Rsa3072, Kem::RsaOaepSha1),
        (KeyType::Rsa4096, Kem::RsaOaepSha1),
    ];
    let mut made = Vec::new();
    for (key_type, kem) in cases {
        let key = module.generate(TOKEN, key_type).unwrap();
        assert_eq!(key.public_key.key_type(), key_type);
        // SoftHSM 2.6 lists OAEP and refuses it with SHA-256; later ones do both.
        assert!(key.kems.contains(&kem), "{:?}", key.kems);
        assert_eq!(key.provenance, Provenance::InToken);
        assert_eq!(key.label, format!("test {key_type}"));
        assert!(key.locator.0.len() <= 512);
        module.use_key(&key).unwrap();
        assert_eq!(
            module.keys(&key.locator.0).unwrap().as_slice(),
            core::slice::from_ref(&key)
        );
        made.push(key);
    }

    // Another process finds them again, and lists them all.
    let module = softhsm.logged_in();
    let listed = module.keys(TOKEN).unwrap();
    assert_eq!(listed.len(), made.len());
    assert!(listed.is_sorted_by_key(|key| &key.label));
    for key in &made {
        assert!(listed.contains(key), "{}", key.locator.0);
        module.use_key(key).unwrap();
    }
}

#[test]
fn a_kem_is_declared_only_if_the_token_does_it() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::Rsa2048).unwrap();
    let undeclared: Vec<_> = KeyType::Rsa2048
        .kems()
        .iter()
        .filter(|kem| !key.kems.contains(kem))
        .collect();
    for &kem in undeclared {
        let (encapsulation, _) = encapsulate(&key.public_key, kem);
        assert!(
            module.open(&key, kem, encapsulation).is_err(),
            "{kem} works and is not declared"
        );
    }
    module.use_key(&key).unwrap();
}

#[test]
fn a_locator_names_the_token_by_serial_number_and_the_key_by_id() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::EcP256).unwrap();
    let locator = Uri::parse(&key.locator.0).unwrap();
    let serial = module.tokens().unwrap()[0].serial.clone();
    assert_eq!(locator.serial, Some(serial));
    assert_eq!(locator.id.map(|id| id.len()), Some(16));
    assert_eq!(locator.slot_id, None);
}

#[test]
fn without_a_wish_a_p256_key_is_made_and_its_id_can_be_chosen() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let order = |out: Option<&str>| Generate {
        token: format!("{TOKEN};id=%09"),
        key_type: None,
        label: "mine".into(),
        out: out.map(str::to_owned),
        pin: None,
    };
    let never = claviger_pki::cancel::Cancel::never();
    let key = module.0.generate(order(None), soon(), &never).unwrap();
    assert_eq!(key.public_key.key_type(), KeyType::EcP256);
    assert!(
        key.locator.0.ends_with(";id=%09;type=private"),
        "{}",
        key.locator.0
    );
    assert_eq!(
        module.keys("pkcs11:object=mine").unwrap().as_slice(),
        core::slice::from_ref(&key)
    );
    let refused = module.0.generate(order(Some("file.pem")), soon(), &never);
    assert!(
        matches!(refused, Err(ModuleError::BadRequest(_))),
        "{refused:?}"
    );
}

#[test]
fn tokens_of_the_same_label_are_told_apart_by_serial_number() {
    let softhsm = SoftHsm::with_token();
    softhsm.add_token("card");
    let module = softhsm.module();
    let tokens = module.tokens().unwrap();
    let [first, second] = &tokens[..] else {
        panic!("{tokens:?}")
    };
    assert_eq!(first.label, second.label);
    assert_ne!(first.serial, second.serial);
    assert_eq!(first.pin_state, PinState::Ok);
    let ambiguous = module.login(TOKEN, crate::softhsm::PIN).unwrap_err();
    assert!(
        ambiguous
            .to_string()
            .starts_with("pkcs11:token=card means several tokens: token \"card\""),
        "{ambiguous}"
    );

    let mut keys = Vec::new();
    for token in [first, second] {
        module.login(&token.uri, crate::softhsm::PIN).unwrap();
        let key = module.generate(&token.uri, KeyType::EcP256).unwrap();
        assert!(key.locator.0.contains(&token.serial));
        keys.push(key);
    }
    for key in &keys {
        module.use_key(key).unwrap();
    }
    assert_eq!(module.keys(TOKEN).unwrap().len(), 2);
    // The key of the one is not looked for in the other.
    let mut elsewhere = keys[0].clone();
    elsewhere.locator = keys[1].locator.clone();
    assert!(matches!(
        module.use_key(&elsewhere),
        Err(ModuleError::NoSuchKey(_))
    ));
}

#[test]
fn garbage_is_not_decryptable_and_costs_no_login() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    for key_type in [KeyType::Rsa2048, KeyType::EcP256] {
        let key = module.generate(TOKEN, key_type).unwrap();
        let kem = key.kems[0];
        let (encapsulation, _) = encapsulate(&key.public_key, kem);
        let length = encapsulation.len();
        let mut broken = encapsulation.clone();
        broken[length - 1] ^= 1;
        let garbage = [
            vec![0; length],
            vec![0xff; length],
            vec![1; length - 1],
            vec![],
            broken,
        ];
        for input in garbage {
            assert_eq!(
                module.open(&key, kem, input),
                Err(ModuleError::NotDecryptable),
                "{kem}"
            );
        }
        module.use_key(&key).unwrap();
    }
    assert_eq!(module.0.status().restarts, 0);
}

#[test]
fn sixty_four_decapsulations_at_once_are_all_right() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let keys = [
        module.generate(TOKEN, KeyType::Rsa2048).unwrap(),
        module.generate(TOKEN, KeyType::EcP256).unwrap(),
    ];
    thread::scope(|scope| {
        for number in 0..64 {
            let (module, key) = (&module, &keys[number % 2]);
            scope.spawn(move || module.use_key(key).unwrap());
        }
    });
}

#[test]
fn a_key_whose_public_half_is_not_in_the_token_is_recognised_by_what_it_opens() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::EcP256).unwrap();
    let other = module.generate(TOKEN, KeyType::EcP256).unwrap();
    let id = hex_id(&key);
    softhsm.pkcs11_tool(&["--delete-object", "--type=pubkey", "--id", &id]);

    let module = softhsm.logged_in();
    module.use_key(&key).unwrap();
    let mut mistaken = key.clone();
    mistaken.public_key = other.public_key;
    assert!(matches!(
        module.use_key(&mistaken),
        Err(ModuleError::NoSuchKey(_))
    ));
}

#[test]
fn a_public_half_is_taken_from_a_certificate_where_there_is_no_other() {
    let softhsm = SoftHsm::with_token();
    let key = softhsm
        .logged_in()
        .generate(TOKEN, KeyType::EcP256)
        .unwrap();
    let id = hex_id(&key);
    fs::write(softhsm.path("public.der"), key.public_key.spki()).unwrap();
    softhsm.openssl(&[
        "pkey",
        "-pubin",
        "-inform=DER",
        "-in=public.der",
        "-out=public.pem",
    ]);
    softhsm.openssl(&["genpkey", "-algorithm=ED25519", "-out=ca.pem"]);
    softhsm.openssl(&[
        "x509",
        "-new",
        "-force_pubkey=public.pem",
        "-subj=/CN=test",
        "-key=ca.pem",
        "-outform=DER",
        "-out=certificate.der",
    ]);
    softhsm.pkcs11_tool(&["--write-object=certificate.der", "--type=cert", "--id", &id]);
    softhsm.pkcs11_tool(&["--delete-object", "--type=pubkey", "--id", &id]);

    let module = softhsm.logged_in();
    assert_eq!(
        module.keys(TOKEN).unwrap().as_slice(),
        core::slice::from_ref(&key)
    );
    module.use_key(&key).unwrap();
}

#[test]
fn a_key_that_came_from_outside_or_can_leave_is_said_to() {
    let softhsm = SoftHsm::with_token();
    let make = ["--keypairgen", "--key-type=EC:prime256v1", "--usage-derive"];
    softhsm.pkcs11_tool(&[&make[..], &["--extractable", "--id=01"]].concat());
    softhsm.pkcs11_tool(&[&make[..], &["--sensitive", "--id=02"]].concat());
    softhsm.openssl(&[
        "genpkey",
        "-algorithm=EC",
        "-pkeyopt=ec_paramgen_curve:P-256",
        "-outform=DER",
        "-out=key.der",
    ]);
    softhsm.openssl(&[
        "pkey",
        "-inform=DER",
        "-in=key.der",
        "-pubout",
        "-outform=DER",
        "-out=public.der",
    ]);
    let import = ["--usage-derive", "--sensitive", "--id=03"];
    softhsm.pkcs11_tool(&[&["--write-object=key.der", "--type=privkey"], &import[..]].concat());
    softhsm.pkcs11_tool(&["--write-object=public.der", "--type=pubkey", "--id=03"]);

    let module = softhsm.logged_in();
    let provenance = |id| {
        let [key] = &module.keys(&format!("pkcs11:id=%{id}")).unwrap()[..] else {
            panic!()
        };
        module.use_key(key).unwrap();
        key.provenance
    };
    assert_eq!(provenance("01"), Provenance::Extractable);
    assert_eq!(provenance("02"), Provenance::InToken);
    assert_eq!(provenance("03"), Provenance::Imported);
}

fn hex_id(key: &Key) -> String {
    let id = Uri::parse(&key.locator.0).unwrap().id.unwrap();
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
