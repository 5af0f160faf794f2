//! Key files: made, found, missing, replaced, and not what they should be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use claviger_pki::key::KeyType;
use claviger_pki::module::{Generate, Key, Locator, Module, ModuleError, PinState, Provenance};
use claviger_pki::wire::Settings;
use claviger_pki_openssl::KeyFiles;
use openssl::pkey::PKey;
use tempfile::TempDir;
use zeroize::Zeroizing;

fn module() -> KeyFiles {
    KeyFiles::open(&Settings::new()).unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn order(path: &Path, key_type: Option<KeyType>, pin: Option<&str>) -> Generate {
    Generate {
        token: String::new(),
        key_type,
        label: String::new(),
        out: Some(path.display().to_string()),
        pin: pin.map(|pin| Zeroizing::new(pin.as_bytes().to_vec())),
    }
}

fn found(module: &KeyFiles, path: &Path) -> Result<Key, ModuleError> {
    let mut keys = module.keys(&path.display().to_string())?;
    assert_eq!(keys.len(), 1);
    Ok(keys.remove(0))
}

#[test]
fn a_key_of_each_type_is_made_for_its_owner_only() {
    let folder = folder();
    for &(key_type, name) in KeyType::NAMES {
        let path = folder.path().join(name);
        let made = module()
            .generate(&order(&path, Some(key_type), None))
            .unwrap();
        assert_eq!(made.public_key.key_type(), key_type);
        assert_eq!(made.provenance, Provenance::Software);
        assert_eq!(made.label, name);
        assert_eq!(found(&module(), &path), Ok(made));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_key_made_with_a_passphrase_opens_with_that_one_only() {
    let folder = folder();
    let path = folder.path().join("key.pem");
    let module = module();
    let made = module
        .generate(&order(&path, None, Some("secret")))
        .unwrap();
    assert_eq!(made.public_key.key_type(), KeyType::EcP256);
    let token = path.display().to_string();
    let state = PinState::Ok;
    let needed = ModuleError::PinNeeded {
        token: token.clone(),
        state,
    };
    assert_eq!(found(&module, &path), Err(needed.clone()));

    let login = |pin: &[u8]| module.login(&Locator(token.clone()), &Zeroizing::new(pin.to_vec()));
    let wrong = ModuleError::PinWrong {
        token: token.clone(),
        state,
    };
    for refused in [&b"secrets"[..], b"", &[b'x'; 5000]] {
        assert_eq!(login(refused), Err(wrong.clone()));
        assert_eq!(found(&module, &path), Err(needed.clone()));
    }
    login(b"secret").unwrap();
    assert_eq!(found(&module, &path), Ok(made));
    module.logout();
    assert_eq!(found(&module, &path), Err(needed));
    let pem = fs::read(&path).unwrap();
    assert!(PKey::private_key_from_pem_passphrase(&pem, b"secret").is_ok());
}

#[test]
fn a_file_that_is_there_is_never_written_over() {
    let folder = folder();
    let path = folder.path().join("precious");
    fs::write(&path, "precious").unwrap();
    let refused = module().generate(&order(&path, None, None));
    let what = format!("{} is there already", path.display());
    assert_eq!(refused, Err(ModuleError::BadRequest(what)));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn an_order_that_makes_no_sense_leaves_no_file() {
    let folder = folder();
    let path = folder.path().join("key.pem");
    for pin in ["", &"x".repeat(1025)] {
        let refused = module().generate(&order(&path, None, Some(pin)));
        assert!(
            matches!(refused, Err(ModuleError::BadRequest(_))),
            "{refused:?}"
        );
    }
    let nowhere = Generate {
        out: None,
        ..order(&path, None, None)
    };
    assert!(module().generate(&nowhere).is_err());
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_taken_away_or_replaced_is_noticed_although_its_key_was_loaded() {
    let folder = folder();
    let path = folder.path().join("key.pem");
    let module = module();
    let first = module.generate(&order(&path, None, None)).unwrap();
    assert_eq!(found(&module, &path).as_ref(), Ok(&first));

    let away = folder.path().join("away");
    fs::rename(&path, &away).unwrap();
    let absent = ModuleError::Absent(format!("no key file {}", path.display()));
    assert_eq!(found(&module, &path), Err(absent));
    let second = module.generate(&order(&path, None, None)).unwrap();
    assert_ne!(second.public_key, first.public_key);
    assert_eq!(found(&module, &path), Ok(second));
    fs::rename(&away, &path).unwrap();
    assert_eq!(found(&module, &path).unwrap().public_key, first.public_key);
}

#[test]
fn what_is_no_key_file_is_refused_by_name() {
    let folder = folder();
    let path = folder.path().join("file");
    let refused = |what: &str| {
        let expected = ModuleError::BadRequest(format!("{}{what}", path.display()));
        assert_eq!(found(&module(), &path), Err(expected));
    };
    fs::write(&path, "no key").unwrap();
    refused(": holds no private key in PEM");
    fs::write(&path, vec![b'x'; 70_000]).unwrap();
    refused(" is no key file");
    let ed25519 = PKey::generate_ed25519().unwrap();
    fs::write(&path, ed25519.private_key_to_pem_pkcs8().unwrap()).unwrap();
    refused(": unsupported public key: algorithm 1.3.101.112");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused(" is no key file");

    let relative = module().keys("key.pem");
    let what = "\"key.pem\" is not the absolute path of a key file".into();
    assert_eq!(relative, Err(ModuleError::BadRequest(what)));
}

#[test]
fn a_setting_that_is_not_known_is_refused() {
    let settings = Settings::from([("engine".into(), "x".into())]);
    let refused = KeyFiles::open(&settings).err();
    let what = "the openssl module has no setting \"engine\"".into();
    assert_eq!(refused, Some(ModuleError::BadRequest(what)));
}
