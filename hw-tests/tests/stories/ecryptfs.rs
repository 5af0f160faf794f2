//! Folders that the kernel's eCryptfs wrote, read without it.

use std::fs;
use std::path::{Path, PathBuf};

use claviger_hw_tests::{Finished, SoftHsm, Swtpm, User, World, story};
use serde_json::Value;

use crate::scene::says;

/// The login passphrase that both wrapped-passphrase files are wrapped by.
pub const LOGIN: &str = "login pässwörd";

/// The mount passphrase in them, which opens most of the folders.
pub const PASSPHRASE: &str = "golden passphrase one";

/// A file of the folders that a kernel wrote.
pub fn data(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/tests/data/ecryptfs");
    fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Unpacks one of them to `lower`, below the user's home or anywhere of theirs.
pub fn unpack(user: &User, name: &str, lower: &str) {
    user.write("lower.tar.gz", data(&format!("{name}/lower.tar.gz")));
    user.sh(&format!(
        "mkdir -p \"{lower}\" && tar --no-same-owner --xattrs --xattrs-include='user.*' -xzf lower.tar.gz -C \"{lower}\""
    ))
    .ok();
}

/// Alice, with the folder `name` at `lower` and its passphrase in the file `pass`.
pub fn alice_with(world: &mut World, name: &str) -> User {
    let alice = world.user("alice");
    unpack(&alice, name, "lower");
    alice.write("pass", format!("{PASSPHRASE}\n"));
    alice
}

/// `claviger cat --format ecryptfs ARGS`.
fn cat(user: &User, args: &[&str]) -> Finished {
    user.claviger([&["cat", "--format", "ecryptfs"], args].concat())
        .finish()
}

/// Expects every file that the kernel showed, with the content that it showed.
#[track_caller]
fn reads_all_files(user: &User, name: &str, options: &str) {
    let plain = String::from_utf8(data(&format!("{name}/plain.txt"))).expect("it is text");
    let files = plain.lines().filter_map(|line| line.strip_prefix("file\t"));
    let mut read = 0;
    for line in files {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, _, sha256, path] = fields[..] else {
            panic!("{line}")
        };
        let said = user.sh(&format!(
            "/run/programs/claviger cat --format ecryptfs {options} lower '{path}' | sha256sum"
        ));
        assert_eq!(said.ok(), format!("{sha256}  -\n"), "{path}");
        read += 1;
    }
    assert!(read > 2, "hardly a file in {name}");
}

story! {
    /// "From a mount passphrase (the `--fnek` salt quirk included)."
    fn the_mount_passphrase_opens_names_and_files_of_a_folder(world) {
        let alice = alice_with(world, "aes24-fnek");
        reads_all_files(&alice, "aes24-fnek", "--passphrase-file pass");
        // Asked for, where no file is named.
        let said = alice.claviger(["cat", "--format", "ecryptfs", "lower", "size1"]).answers(&[PASSPHRASE]);
        assert_eq!(said.ok(), "1");
        // Not only that there is no such file.
        let wrong = alice.claviger(["cat", "--format", "ecryptfs", "lower", "size1"]).answers(&["wrong"]);
        says(&wrong.fails(4), &["opens with key 9e677d297b65a19b only"]);
    }
}

story! {
    /// "Header and xattr metadata."
    fn headers_in_extended_attributes_are_found_without_being_told(world) {
        let disk = world.ext4("32M");
        let alice = world.user("alice");
        let lower = disk.join("lower");
        fs::create_dir(&lower).unwrap();
        alice.own(&lower);
        unpack(&alice, "aes16-xattr-fnek", &lower.to_string_lossy());
        alice.sh(&format!("ln -s {} lower", lower.display())).ok();
        alice.write("pass", PASSPHRASE);
        reads_all_files(&alice, "aes16-xattr-fnek", "--passphrase-file pass");
    }
}

story! {
    /// "From an RSA key in a PEM file", also where names have a passphrase.
    fn an_rsa_key_in_a_file_opens_a_folder(world) {
        let alice = alice_with(world, "rsa2048-aes32-fnek");
        let key = alice.write("rsa2048.pem", data("rsa2048.pem"));
        alice.sh("chmod 600 rsa2048.pem && echo keypass >keypass").ok();
        let options = "--key rsa2048.pem --fnek-passphrase-file pass --pin-fd 0 <keypass";
        reads_all_files(&alice, "rsa2048-aes32-fnek", options);
        let wrong = ["cat", "--format", "ecryptfs", "--key", "rsa2048.pem", "lower", "size1"];
        says(&alice.claviger(wrong).answers(&["not it"]).fails(6), &["refused the PIN"]);
        fs::remove_file(key).unwrap();
        says(&alice.claviger(wrong).fails(3), &["rsa2048.pem"]);
        // Another RSA key is no recipient.
        alice.write("rsa2048.pem", data("rsa4096.pem"));
        let other = ["cat", "--format", "ecryptfs", "--key", "rsa2048.pem", "--fnek-passphrase-file", "pass", "lower", "size1"];
        says(&alice.claviger(other).answers(&["keypass"]).fails(4), &["key fd591e1468c3ea8a"]);
    }
}

story! {
    /// "Or in a smartcard, YubiKey or TPM": by its URI, its file, or what `key list` calls it, as for `mount`.
    fn an_rsa_key_in_a_token_opens_a_folder(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        let token = card.token(&alice, "work");
        let _tpm = Swtpm::new(&alice);
        let rsa = ["--type", "rsa2048", "--label"];
        let of_card = [&["key", "generate", "--module", "pkcs11", "--token", &token], &rsa[..], &["card"]].concat();
        alice.claviger(of_card).answers(&[card.pin()]).ok();
        let of_tpm = [&["key", "generate", "--module", "tpm", "--out", "laptop.key"], &rsa[..], &["laptop"]].concat();
        alice.claviger(of_tpm).ok();
        alice.sh("mkdir mnt lower-card lower-laptop").ok();
        for key in ["card", "laptop"] {
            let lower = format!("lower-{key}");
            alice.claviger(["mount", "--format", "ecryptfs", "--key", key, &lower, "mnt"]).ok();
            alice.sh(&format!("echo 'for the {key}' >mnt/file")).ok();
            alice.claviger(["umount", "mnt"]).ok();
        }
        alice.claviger(["stop"]).ok();

        let cat = |key: &str, lower: &str| {
            alice.claviger(["cat", "--format", "ecryptfs", "--key", key, lower, "file"])
        };
        let uri = format!("{token};object=card");
        says(&cat(&uri, "lower-card").fails(8), &["PIN"]);
        says(&cat(&uri, "lower-card").answers(&["000000"]).fails(6), &["refused the PIN"]);
        let said = cat(&uri, "lower-card").answers(&[card.pin()]).finish();
        assert_eq!(said.stdout, "for the card\n", "{said}");
        says(&said.stderr, &["Unlocked", "with token 'card'", "forged"]);
        assert_eq!(cat("card", "lower-card").ok(), "for the card\n");
        for key in ["laptop", "laptop.key"] {
            assert_eq!(cat(key, "lower-laptop").ok(), "for the laptop\n");
        }
        // Like a volume, until it is locked. Another key is no recipient.
        says(&alice.claviger(["lock", "lower-card"]).ok(), &["Locked"]);
        says(&cat("laptop", "lower-card").fails(4), &["opens with key"]);
        says(&cat("nobody", "lower-card").fails(3), &["'nobody'", "key list"]);
        assert_eq!(alice.sh("grep -c '\"event\":\"unwrap\"' .local/state/claviger/audit.log").ok(), "4\n");
    }
}

story! {
    /// "Several keys": each of them.
    fn either_of_two_keys_opens_a_folder(world) {
        let alice = alice_with(world, "aes32-two-keys");
        reads_all_files(&alice, "aes32-two-keys", "--passphrase-file pass");
        alice.write("pass", "second: pässwörd/2\n");
        reads_all_files(&alice, "aes32-two-keys", "--passphrase-file pass");
    }
}

/// Makes what `ecryptfs-setup-private` makes, below `home`.
fn old_home(user: &User, home: &str, wrapped: &str) -> PathBuf {
    unpack(user, "aes24-fnek", &format!("{home}/.Private"));
    user.write(
        &format!("{home}/.ecryptfs/wrapped-passphrase"),
        data(wrapped),
    )
}

story! {
    /// "Find and open a `.Private` on a rescued disk": both places, both versions, and what was printed
    /// works when it is typed.
    fn old_homes_on_a_disk_are_found_and_opened_as_told(world) {
        let alice = world.user("alice");
        old_home(&alice, "disk/home/.ecryptfs/bob", "wrapped-passphrase-1");
        old_home(&alice, "disk/home/it's carol", "wrapped-passphrase-2");
        unpack(&alice, "aes16", "disk/srv/.Private");
        let told = alice.claviger(["ecryptfs", "recover", "disk"]).ok();
        let parts = [
            "disk/home/.ecryptfs/bob/.Private", "(version 1)", "(version 2)", "no wrapped one",
            "keys of its files    f2291ce4c3069633", "encrypted by 9e677d297b65a19b", "in clear",
        ];
        says(&told, &parts);
        let json: Value = serde_json::from_str(&alice.claviger(["ecryptfs", "recover", "--json", "disk"]).ok()).unwrap();
        let found = json.as_array().unwrap();
        assert_eq!(found.len(), 3);
        for (one, passphrase) in found.iter().zip([LOGIN, LOGIN, PASSPHRASE]) {
            let command = one["command"].as_str().unwrap();
            assert!(told.contains(command), "{command}");
            let command = command.replace("PATH", "size1").replacen("claviger", "/run/programs/claviger --pin-fd 0", 1);
            assert_eq!(alice.sh(&command).input(passphrase).ok(), "1");
            let wrong = alice.sh(&command).input("something else").fails(4);
            assert!(wrong.contains("wrong passphrase") || wrong.contains("opens with"), "{wrong}");
        }
    }
}

story! {
    /// Nothing to find, and a disk that is not mounted.
    fn recover_says_what_to_do_where_it_finds_nothing(world) {
        let alice = world.user("alice");
        alice.sh("mkdir empty; truncate -s 1M disk.img").ok();
        says(&alice.claviger(["ecryptfs", "recover", "empty"]).fails(3), &["no .Private folder"]);
        says(&alice.claviger(["ecryptfs", "recover", "disk.img"]).fails(2), &["mount -o ro"]);
        alice.claviger(["ecryptfs", "recover", "missing"]).fails(3);
    }
}

story! {
    /// "`inspect FILE` prints header and packets", of anything of eCryptfs, and no secret.
    fn inspect_prints_what_files_say_and_no_secret(world) {
        let alice = alice_with(world, "rsa2048-aes32-plus-passphrase");
        let said = alice.claviger(["ecryptfs", "inspect", "lower/size4097"]).ok();
        says(&said, &["authenticates nothing", "size: 4097", "fd591e1468c3ea8a", "f2291ce4c3069633", "aes-256"]);
        let said = alice.claviger(["ecryptfs", "inspect", "--json", "lower/size4097"]).ok();
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["packets"][0]["tag"], 1);
        assert_eq!(said["packets"][1]["tag"], 3);
        assert_eq!(said["packets"][1]["salt"], "0011223344556677");
        assert_eq!((&said["lower_length"], &said["content_offset"]), (&16384.into(), &8192.into()));

        for (file, parts) in [
            ("wrapped-passphrase-1", &["version: 1", "7413ba9e9d6671d2"][..]),
            ("wrapped-passphrase-2", &["version: 2", "b28a2eca003317fb"]),
            ("authtok.f2291ce4c3069633.bin", &["of a passphrase", "f2291ce4c3069633"]),
            ("authtok.fd591e1468c3ea8a.bin", &["of a private key", "openssl", "blob_length: 31"]),
        ] {
            alice.write(file, data(file));
            let said = alice.claviger(["ecryptfs", "inspect", file]).ok();
            says(&said, parts);
            // The first bytes of the key that the one holds, and the passphrase of the other.
            assert!(!said.contains("3509d6ca") && !said.contains("keypass"), "{said}");
        }
        alice.write("text", "no header here\n");
        says(&alice.claviger(["ecryptfs", "inspect", "text"]).fails(12), &["not an eCryptfs file"]);
    }
}

story! {
    /// "Other ciphers are refused by name with the way out."
    fn other_ciphers_are_refused_by_name(world) {
        let alice = alice_with(world, "blowfish-16");
        let said = cat(&alice, &["--passphrase-file", "pass", "lower", "size1"]);
        assert_eq!((said.code, said.stdout.as_str()), (17, ""));
        says(&said.stderr, &["blowfish", "the kernel's eCryptfs, and copy"]);
    }
}

story! {
    /// "Its weaknesses are the format's: warn": once, with each file that is shown.
    fn cat_warns_once_that_nothing_is_authenticated(world) {
        let alice = alice_with(world, "aes16");
        let said = cat(&alice, &["--passphrase-file", "pass", "lower", "dir/sub/inner"]);
        assert_eq!(said.code, 0, "{said}");
        assert_eq!(said.stderr.matches("forged").count(), 1, "{said}");
    }
}

story! {
    /// What is no file, or not whole, or asked for in a wrong way.
    fn what_cannot_be_shown_is_told_apart(world) {
        let alice = alice_with(world, "aes32-fnek");
        let cat = |path: &str| cat(&alice, &["--passphrase-file", "pass", "lower", path]);
        let refused = |path: &str, code: i32, part: &str| {
            let said = cat(path);
            assert_eq!((said.code, said.stdout.as_str()), (code, ""), "{said}");
            says(&said.stderr, &[part]);
        };
        refused("missing", 3, "missing");
        refused("dir", 2, "is a folder");
        refused("fifo", 2, "is no file");
        refused("dir/../size1", 2, "'..'");
        refused("link-rel", 2, "symbolic link to size1");
        refused("link-abs", 2, "symbolic link to /an/absolute/target-that-does-not-exist");
        assert_eq!(cat("./dir//sub/inner").code, 0);
        assert_eq!(cat("size0").code, 0);

        unpack(&alice, "aes16", "plain");
        let plain = ["cat", "--format", "ecryptfs", "--passphrase-file", "pass", "plain"];
        alice.sh("truncate -s 12288 plain/size8192; : >plain/never; echo text >plain/foreign").ok();
        says(&alice.claviger([&plain[..], &["size8192"]].concat()).fails(12), &["cut short"]);
        says(&alice.claviger([&plain[..], &["foreign"]].concat()).fails(12), &["not an eCryptfs file"]);
        assert_eq!(alice.claviger([&plain[..], &["never"]].concat()).ok(), "");
        // A salt of their own gives another key.
        let salted = [&plain[..5], &["--salt", "0123456789abcdef", "plain", "size1"]].concat();
        says(&alice.claviger(salted).fails(4), &["opens with key f2291ce4c3069633 only"]);
        says(&alice.claviger([&plain[..5], &["--salt", "xyz", "plain", "size1"]].concat()).fails(2), &["16 hexadecimal digits"]);
        says(&alice.claviger(["cat", "--passphrase-file", "pass", "plain", "size1"]).fails(3), &["--format ecryptfs"]);
    }
}
