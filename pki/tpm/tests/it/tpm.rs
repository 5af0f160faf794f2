use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use claviger_hw_tests::Swtpm;
use claviger_pki::key::KeyType;
use claviger_pki::module::{Decapsulate, Generate, Key, Module, ModuleError, PinState, Provenance};
use claviger_pki::wire::Settings;
use claviger_pki::wrap::{Context, PublicKeyRecipient, Purpose, Recipient};
use claviger_pki_tpm::TpmModule;
use tempfile::TempDir;
use zeroize::Zeroizing;

fn machine() -> (TempDir, Swtpm, TpmModule) {
    let folder = tempfile::tempdir().unwrap();
    let tpm = Swtpm::start_in(folder.path());
    let module = TpmModule::open(&settings(&tpm)).unwrap();
    (folder, tpm, module)
}

fn settings(tpm: &Swtpm) -> Settings {
    Settings::from([("tcti".to_owned(), tpm.tcti())])
}

fn pin(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

fn generate(
    module: &TpmModule,
    path: &Path,
    key_type: KeyType,
    secret: Option<&str>,
) -> Result<Key, ModuleError> {
    module.generate(&Generate {
        token: String::new(),
        key_type: Some(key_type),
        label: "mine".into(),
        out: Some(path.display().to_string()),
        pin: secret.map(pin),
    })
}

/// A KEM step that the key can do.
fn step(key: &Key) -> Decapsulate {
    let context = Context {
        volume: [1; 16],
        epoch: 1,
        purpose: Purpose::EpochKey,
        file: None,
    };
    let recipient = PublicKeyRecipient::new(key.public_key.clone(), key.kems[0]).unwrap();
    let wrapped = recipient.wrap(&context, b"secret").unwrap();
    wrapped.step(&key.public_key, key.locator.clone()).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[test]
fn a_key_is_born_in_the_tpm_and_its_file_is_its_owners_only() {
    let (folder, _tpm, module) = machine();
    let path = folder.path().join("key.tss");
    let key = generate(&module, &path, KeyType::EcP256, None).unwrap();
    assert_eq!(key.provenance, Provenance::InToken);
    assert_eq!(key.label, "mine");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        fs::read_to_string(&path)
            .unwrap()
            .starts_with("-----BEGIN TSS2 PRIVATE KEY-----")
    );
    let again = generate(&module, &path, KeyType::EcP256, None);
    assert!(
        matches!(again, Err(ModuleError::BadRequest(_))),
        "a key file is never overwritten"
    );
}

#[test]
fn a_pin_is_wanted_proved_and_counted() {
    let (folder, _tpm, module) = machine();
    let key = generate(
        &module,
        &folder.path().join("key"),
        KeyType::EcP256,
        Some("2468"),
    )
    .unwrap();
    module.logout();
    let wanted = module.decapsulate(&step(&key), soon());
    assert!(
        matches!(
            wanted,
            Err(ModuleError::PinNeeded {
                state: PinState::Ok,
                ..
            })
        ),
        "{wanted:?}"
    );
    let refused = module.login(&key.locator, &pin("1111"));
    assert!(
        matches!(
            refused,
            Err(ModuleError::PinWrong {
                state: PinState::TriesLeft(_),
                ..
            })
        ),
        "{refused:?}"
    );
    module.login(&key.locator, &pin("2468")).unwrap();
    module.decapsulate(&step(&key), soon()).unwrap();
}

#[test]
fn a_tpm_in_lockout_is_not_tried_and_says_how_long_to_wait() {
    let (folder, _tpm, module) = machine();
    let key = generate(
        &module,
        &folder.path().join("key"),
        KeyType::EcP256,
        Some("2468"),
    )
    .unwrap();
    let free = generate(&module, &folder.path().join("free"), KeyType::EcP256, None).unwrap();
    module.logout();
    let last = (0..64)
        .map(|_| module.login(&key.locator, &pin("1111")).unwrap_err())
        .find(|error| !matches!(error, ModuleError::PinWrong { .. }))
        .unwrap();
    let ModuleError::Lockout(advice) = last else {
        panic!("{last:?}")
    };
    assert!(advice.contains("minutes"), "{advice}");
    assert!(matches!(
        module.login(&key.locator, &pin("2468")),
        Err(ModuleError::Lockout(_))
    ));
    // A key without a PIN cannot be guessed at: the lockout does not keep its owner out.
    module.decapsulate(&step(&free), soon()).unwrap();
}

#[test]
fn a_connection_nobody_uses_is_given_back() {
    let (folder, tpm, module) = machine();
    let key = generate(&module, &folder.path().join("key"), KeyType::EcP256, None).unwrap();
    // swtpm serves one connection at a time, so another client answers only once ours is closed.
    let begun = Instant::now();
    let other = Command::new("tpm2_getcap")
        .args(["--tcti", &tpm.tcti(), "properties-fixed"])
        .output()
        .unwrap();
    assert!(
        other.status.success(),
        "{}",
        String::from_utf8_lossy(&other.stderr)
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    module.decapsulate(&step(&key), soon()).unwrap();
}

#[test]
fn a_tpm_that_went_away_under_a_connection_is_absent_and_a_restarted_one_works_on() {
    let (folder, mut tpm, module) = machine();
    let key = generate(&module, &folder.path().join("key"), KeyType::Rsa2048, None).unwrap();
    module.decapsulate(&step(&key), soon()).unwrap();
    tpm.take_out();
    let gone = module.decapsulate(&step(&key), soon());
    assert!(matches!(gone, Err(ModuleError::Absent(_))), "{gone:?}");
    tpm.put_back();
    module.decapsulate(&step(&key), soon()).unwrap();
}

#[test]
fn another_tpm_is_told_from_the_one_that_made_the_key() {
    let (folder, _tpm, module) = machine();
    let path = folder.path().join("key");
    let key = generate(&module, &path, KeyType::EcP256, None).unwrap();
    let (_other_folder, _other, impostor) = machine();
    let refused = impostor.decapsulate(&step(&key), soon());
    assert!(
        matches!(refused, Err(ModuleError::Absent(_))),
        "{refused:?}"
    );
    // Nor does it load the file, were it enrolled there anew.
    let refused = impostor.keys(&path.display().to_string());
    assert!(
        matches!(refused, Err(ModuleError::Absent(_))),
        "{refused:?}"
    );
}

#[test]
fn the_tpm_is_listed_where_there_is_one_and_its_absence_is_no_error() {
    let (_folder, mut tpm, module) = machine();
    let tokens = module.tokens().unwrap();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].uri, tpm.tcti());
    assert!(!tokens[0].model.is_empty() && !tokens[0].serial.is_empty());
    module.logout();
    tpm.take_out();
    assert_eq!(module.tokens(), Ok(Vec::new()));
}

#[test]
fn files_that_openssl_and_ssh_tpm_agent_would_write_are_read_and_others_refused() {
    let (folder, _tpm, module) = machine();
    let path = folder.path().join("key.pem");
    for (text, says) in [
        ("", "no TPM key"),
        (
            "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
            "no TPM key",
        ),
        (
            "-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n",
            "no TPM key",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let error = module
            .keys(&path.display().to_string())
            .unwrap_err()
            .to_string();
        assert!(error.contains(says) && error.contains("key.pem"), "{error}");
    }
    let missing = module.keys("/nowhere/key");
    assert_eq!(missing, Err(ModuleError::Absent("/nowhere/key".into())));
}

#[test]
fn a_pin_longer_than_a_tpm_takes_is_refused_before_it_is_sent() {
    let (folder, _tpm, module) = machine();
    let long = "x".repeat(33);
    let refused = generate(
        &module,
        &folder.path().join("key"),
        KeyType::EcP256,
        Some(&long),
    );
    assert_eq!(
        refused,
        Err(ModuleError::BadRequest(
            "a TPM takes PINs of at most 32 bytes".into()
        ))
    );
}
