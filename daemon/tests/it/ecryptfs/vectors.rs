//! What kernels wrote opens by keys of this daemon.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use claviger_protocol::control::{KeyRef, UnlockEcryptfs};
use claviger_vault::ecryptfs::name::EncryptedName;
use claviger_vault::ecryptfs::{Header, LowerFile, PassphraseKey, Salt};
use claviger_vault::native::Access;
use data_encoding::HEXLOWER;

use super::lower::{Folder, Lower, as_fek, data, packets, password, sig, unlock};
use crate::harness::{User, user_test};

/// Of the mount options in `conf.txt`, those called `name`.
fn options<'a>(conf: &BTreeMap<&str, &'a str>, name: &str) -> Vec<&'a str> {
    let options = conf["options"].split(',');
    options
        .filter_map(|option| option.strip_prefix(name)?.strip_prefix('='))
        .collect()
}

/// Expects of every file what was seen through the kernel's mount.
fn opens(user: &User, name: &str) {
    let _daemon = user.start();
    let lower = Lower::of_kernel(user, name);
    let text = fs::read_to_string(data(name).join("conf.txt")).unwrap();
    let conf: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let mut order = UnlockEcryptfs {
        sigs: options(&conf, "ecryptfs_sig")
            .into_iter()
            .map(sig)
            .collect(),
        fnek: options(&conf, "ecryptfs_fnek_sig")
            .first()
            .map(|hex| sig(hex)),
        ..lower.order()
    };
    for number in ["1", "2"] {
        if order.sigs.iter().any(|one| {
            conf.get(&*format!("sig{number}"))
                .is_some_and(|hex| sig(hex) == *one)
        }) {
            order.passwords.push(password(
                conf[&*format!("passphrase{number}")],
                Salt::DEFAULT,
            ));
        }
    }
    if order.fnek.is_some() {
        order
            .passwords
            .push(password(conf["passphrase1"], Salt::NAMES));
    }
    if let Some(pem) = conf.get("rsa") {
        let own = user.home.join(pem);
        fs::copy(data(pem), &own).unwrap();
        order.keys.push(KeyRef::File(own));
    }
    let fnek = order.fnek;
    let cli = user.cli().answering(|_| Some("keypass".into()));
    unlock(&cli, order).unwrap();

    let folder = lower.mount(user);
    let names = folder
        .names(fnek)
        .unwrap()
        .map(|key| PassphraseKey::handed_on(&mut key.to_array().unwrap(), Salt::NAMES));
    let plain = fs::read_to_string(data(name).join("plain.txt")).unwrap();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for line in plain.lines().filter_map(|line| line.strip_prefix("file\t")) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, _, sha256, path] = fields[..] else {
            panic!("{line}")
        };
        seen.insert(path.into(), sha256.into());
    }
    assert!(seen.len() > 2, "hardly a file");
    check(&folder, &lower.dir, ".", names.as_ref(), &mut seen);
    assert!(seen.is_empty(), "not found below: {seen:?}");
}

fn check(
    folder: &Folder,
    dir: &Path,
    upper: &str,
    names: Option<&PassphraseKey>,
    seen: &mut BTreeMap<String, String>,
) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = match EncryptedName::parse(entry.file_name().as_bytes()) {
            Some(name) => name.unwrap().decrypt(names.unwrap()).unwrap(),
            None => entry.file_name().as_bytes().to_vec(),
        };
        let upper = format!("{upper}/{}", String::from_utf8(name).unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            check(folder, &entry.path(), &upper, names, seen);
        }
        if !kind.is_file() {
            continue;
        }
        let file = File::open(entry.path()).unwrap();
        let header = Header::read(&file).unwrap();
        let fek = as_fek(&folder.fek(&packets(&header)).unwrap());
        let file = LowerFile::open(file.into(), &header, &fek, Access::ReadOnly).unwrap();
        let mut content = vec![0; usize::try_from(file.size()).unwrap()];
        let read = file.read_at(0, &mut content).unwrap();
        assert_eq!(read, content.len(), "{upper}");
        let sha256 = HEXLOWER.encode(digest(&SHA256, &content).as_ref());
        assert_eq!(seen.remove(&upper), Some(sha256), "{upper}");
    }
}

macro_rules! vectors {
    ($($promise:ident $name:literal)*) => {
        $(user_test! {
            fn $promise(user) {
                opens(user, $name);
            }
        })*
    };
}

vectors! {
    a_folder_with_aes_128_opens "aes16"
    a_folder_with_headers_in_extended_attributes_opens "aes16-xattr-fnek"
    a_folder_with_aes_192_and_encrypted_names_opens "aes24-fnek"
    a_folder_with_aes_256_and_encrypted_names_opens "aes32-fnek"
    a_folder_of_two_passphrases_opens "aes32-two-keys"
    a_folder_of_an_rsa_2048_key_opens "rsa2048-aes32"
    a_folder_of_an_rsa_key_with_encrypted_names_opens "rsa2048-aes32-fnek"
    a_folder_of_an_rsa_key_and_a_passphrase_opens "rsa2048-aes32-plus-passphrase"
    a_folder_of_an_rsa_4096_key_opens "rsa4096-aes32"
}

user_test! {
    fn a_file_of_another_cipher_is_refused_by_its_name(user) {
        let _daemon = user.start();
        let lower = Lower::of_kernel(user, "blowfish-16");
        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        let header = Header::read(File::open(lower.dir.join("size1")).unwrap()).unwrap();
        let refused = lower.mount(user).fek(&packets(&header)).unwrap_err();
        assert_eq!(refused.to_string(), "unsupported: cipher blowfish is not supported");
    }
}
