//! On folders that kernels wrote.

use std::fs;
use std::process::Command as Program;

use claviger_vault::ecryptfs::Salt;
use tempfile::TempDir;

use super::*;

const SIG: &str = "f2291ce4c3069633";
const FNEK: &str = "9e677d297b65a19b";

fn unpacked(name: &str) -> TempDir {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/tests/data/ecryptfs");
    let lower = tempfile::tempdir().unwrap();
    let unpacked = Program::new("tar")
        .args(["--no-same-owner", "--xattrs", "--xattrs-include=user.*"])
        .arg("-xzf")
        .arg(data.join(name).join("lower.tar.gz"))
        .arg("-C")
        .arg(lower.path())
        .status();
    assert!(unpacked.unwrap().success());
    lower
}

fn options(text: &str) -> Options {
    let options: Vec<String> = text
        .split(',')
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect();
    Options::parse(&options).unwrap()
}

/// What the filesystem is told, of the folder `dir` with the mount options `text`.
fn told(dir: &Path, text: &str) -> Result<String, String> {
    let mounting = Mounting::plan(dir, options(text)).map_err(|failed| failed.to_string())?;
    let told = mounting.filesystem_options();
    Ok(told.map_or_else(|| "sigs unknown".into(), |told| told.join(",")))
}

fn passwords(passphrase: &str) -> Passwords {
    let derive = |salt| PassphraseKey::derive(passphrase.as_bytes(), salt).unwrap();
    Passwords {
        content: Some(derive(Salt::DEFAULT)),
        names: vec![derive(Salt::NAMES), derive(Salt::DEFAULT)],
    }
}

fn choose(mounting: &mut Mounting, passphrase: &str, given: &GivenKeys) -> Result<usize, String> {
    let chosen = mounting.choose(passwords(passphrase), given, Purpose::Mount);
    chosen
        .map(|chosen| chosen.len())
        .map_err(|failed| failed.to_string())
}

#[test]
fn a_folder_says_itself_how_the_kernel_had_it_mounted() {
    for (name, expected) in [
        (
            "aes16",
            "ecryptfs_sig=f2291ce4c3069633,ecryptfs_key_bytes=16",
        ),
        (
            "aes16-xattr-fnek",
            "ecryptfs_sig=f2291ce4c3069633,ecryptfs_key_bytes=16,\
             ecryptfs_fnek_sig=9e677d297b65a19b,ecryptfs_fn_key_bytes=16,ecryptfs_xattr_metadata",
        ),
        (
            "aes24-fnek",
            "ecryptfs_sig=f2291ce4c3069633,ecryptfs_key_bytes=24,\
             ecryptfs_fnek_sig=9e677d297b65a19b,ecryptfs_fn_key_bytes=24",
        ),
        (
            "aes32-fnek",
            "ecryptfs_sig=f2291ce4c3069633,ecryptfs_key_bytes=32,\
             ecryptfs_fnek_sig=9e677d297b65a19b,ecryptfs_fn_key_bytes=32",
        ),
        (
            "rsa2048-aes32-fnek",
            "ecryptfs_sig=fd591e1468c3ea8a,ecryptfs_key_bytes=32,\
             ecryptfs_fnek_sig=9e677d297b65a19b,ecryptfs_fn_key_bytes=32",
        ),
        (
            "rsa2048-aes32",
            "ecryptfs_sig=fd591e1468c3ea8a,ecryptfs_key_bytes=32",
        ),
        (
            "rsa2048-aes32-plus-passphrase",
            "ecryptfs_sig=fd591e1468c3ea8a,ecryptfs_sig=f2291ce4c3069633,ecryptfs_key_bytes=32",
        ),
        (
            "rsa4096-aes32",
            "ecryptfs_sig=28b7228a9391d6e9,ecryptfs_key_bytes=32",
        ),
    ] {
        let lower = unpacked(name);
        let expected = format!("format=ecryptfs,{expected}");
        assert_eq!(told(lower.path(), ""), Ok(expected), "{name}");
    }
    let two = told(unpacked("aes32-two-keys").path(), "").unwrap();
    assert!(
        two.contains(SIG) && two.contains("f84a2048a4c40079"),
        "{two}"
    );
}

#[test]
fn what_the_options_say_counts_and_the_rest_is_found_out() {
    let lower = unpacked("aes24-fnek");
    let all = "ecryptfs_sig=f84a2048a4c40079,ecryptfs_key_bytes=32,ecryptfs_fn_key_bytes=16,noexec";
    let expected = "format=ecryptfs,ecryptfs_sig=f84a2048a4c40079,ecryptfs_key_bytes=32,\
                    ecryptfs_fnek_sig=9e677d297b65a19b,ecryptfs_fn_key_bytes=16,noexec";
    assert_eq!(told(lower.path(), all), Ok(expected.into()));
    let plain = told(lower.path(), "ecryptfs_enable_filename_crypto=n").unwrap();
    assert!(!plain.contains("fnek"), "{plain}");
}

#[test]
fn a_folder_of_another_cipher_is_refused_by_name() {
    let refused = told(unpacked("blowfish-16").path(), "").unwrap_err();
    assert!(
        refused.contains("cipher blowfish is not supported"),
        "{refused}"
    );
    assert!(refused.contains("kernel's eCryptfs"), "{refused}");
}

#[test]
fn an_empty_folder_becomes_what_the_mount_program_would_make_of_it() {
    let lower = tempfile::tempdir().unwrap();
    let mut mounting = Mounting::plan(lower.path(), options("")).unwrap();
    assert_eq!(mounting.filesystem_options(), None);
    assert_eq!(
        choose(
            &mut mounting,
            "golden passphrase one",
            &GivenKeys::default()
        ),
        Ok(1)
    );
    assert_eq!(mounting.names, NamesPlan::Plain);
    mounting.sigs = vec![KeySig::from_hex(SIG.as_bytes().try_into().unwrap()).unwrap()];
    let expected = format!("format=ecryptfs,ecryptfs_sig={SIG},ecryptfs_key_bytes=16");
    assert_eq!(mounting.filesystem_options().unwrap().join(","), expected);
}

#[test]
fn an_empty_encrypted_home_has_encrypted_names() {
    let lower = tempfile::tempdir().unwrap();
    let mut mounting = Mounting::plan(lower.path(), options("")).unwrap();
    let home = GivenKeys {
        wrapped_passphrase: Some("wrapped-passphrase".into()),
        ..GivenKeys::default()
    };
    assert_eq!(choose(&mut mounting, "golden passphrase one", &home), Ok(2));
    let NamesPlan::Encrypted(sig, KeyLen::Aes128) = mounting.names else {
        panic!("{:?}", mounting.names)
    };
    assert_eq!(sig.to_string(), FNEK);
}

#[test]
fn an_empty_private_folder_is_what_ecryptfs_setup_private_put_on_record() {
    let home = tempfile::tempdir().unwrap();
    let lower = home.path().join(".Private");
    fs::create_dir(&lower).unwrap();
    fs::create_dir(home.path().join(".ecryptfs")).unwrap();
    let record = home.path().join(".ecryptfs/Private.sig");
    fs::write(&record, format!("{SIG}\n{FNEK}\n")).unwrap();
    let expected = format!(
        "format=ecryptfs,ecryptfs_sig={SIG},ecryptfs_key_bytes=16,ecryptfs_fnek_sig={FNEK},ecryptfs_fn_key_bytes=16"
    );
    assert_eq!(told(&lower, ""), Ok(expected));
    fs::write(&record, "nonsense").unwrap();
    assert_eq!(told(&lower, ""), Ok("sigs unknown".into()));
}

#[test]
fn a_passphrase_that_the_folder_has_no_use_for_is_refused() {
    let lower = unpacked("aes24-fnek");
    let plan = || Mounting::plan(lower.path(), options("")).unwrap();
    let given = GivenKeys::default();
    assert_eq!(choose(&mut plan(), "golden passphrase one", &given), Ok(2));
    let wrong = choose(&mut plan(), "wrong", &given).unwrap_err();
    assert!(
        wrong.contains(&format!("files are wrapped to key {SIG}")),
        "{wrong}"
    );
    // With a passphrase for names that is none.
    let given = GivenKeys {
        fnek_passphrase_file: Some("names".into()),
        ..GivenKeys::default()
    };
    let mixed = Passwords {
        content: passwords("golden passphrase one").content,
        names: passwords("wrong").names,
    };
    let wrong = plan()
        .choose(mixed, &given, Purpose::Mount)
        .err()
        .unwrap()
        .to_string();
    assert!(
        wrong.contains(&format!("names are encrypted by key {FNEK}")),
        "{wrong}"
    );
}

#[test]
fn where_an_rsa_key_opens_the_files_a_passphrase_may_be_for_the_names() {
    let lower = unpacked("rsa2048-aes32-fnek");
    let mut mounting = Mounting::plan(lower.path(), options("")).unwrap();
    let given = GivenKeys::default();
    assert_eq!(
        choose(&mut mounting, "golden passphrase one", &given),
        Ok(1)
    );
    assert_eq!(mounting.openers, Openers::RsaOnly);
}

#[test]
fn the_encrypted_view_needs_no_key_for_names_either() {
    for name in ["aes16", "aes24-fnek"] {
        let lower = unpacked(name);
        let mounting = Mounting::plan(lower.path(), options("ecryptfs_encrypted_view")).unwrap();
        assert!(mounting.shows_lower_files(), "{name}");
    }
}
