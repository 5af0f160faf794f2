//! Folders of the kernel's eCryptfs, unlocked and locked like volumes.

use std::fs;

use claviger_hw_tests::story;
use serde_json::Value;

use crate::ecryptfs::{LOGIN, PASSPHRASE, alice_with, data, unpack};
use crate::scene::says;

const UNLOCK: [&str; 3] = ["unlock", "--format", "ecryptfs"];

story! {
    /// "`unlock --format ecryptfs` takes the keys that `cat` takes", and status and lock know the folder.
    fn a_folder_is_unlocked_shown_and_locked_like_a_volume(world) {
        let alice = alice_with(world, "aes24-fnek");
        let with = |options: &[&str]| alice.claviger([&UNLOCK[..], options, &["lower"]].concat());
        let said = with(&["--passphrase-file", "pass"]).finish();
        says(&said.stderr, &["Unlocked", "with passphrase 'key f2291ce4c3069633'"]);
        says(&with(&["--passphrase-file", "pass"]).finish().stderr, &["was unlocked already"]);
        let status: Value = serde_json::from_str(&alice.claviger(["status", "--json"]).ok()).unwrap();
        let [folder] = status["volumes"].as_array().unwrap().as_slice() else { panic!("{status}") };
        assert_eq!((&folder["unlocked"], &folder["epoch"]), (&true.into(), &Value::Null));
        assert_eq!(folder["dir"], alice.home().join("lower").to_str().unwrap());
        says(&alice.claviger(["status"]).ok(), &["unlocked", "opened   with passphrase"]);
        says(&alice.claviger(["lock", "lower"]).ok(), &["Locked lower"]);
        says(&alice.claviger(["status"]).ok(), &["No volume is open"]);

        // Asked for where nothing is given, and the keyring has nothing.
        let asked = alice.claviger([&UNLOCK[..], &["lower"]].concat()).answers(&[PASSPHRASE]).finish();
        says(&asked.stderr, &["Unlocked"]);
        says(&alice.claviger(["lock", "--all"]).ok(), &["Locked"]);

        alice.write("wrapped", data("wrapped-passphrase-2"));
        alice.write("login", LOGIN);
        let home = with(&["--wrapped-passphrase", "wrapped", "--passphrase-file", "login"]).finish();
        says(&home.stderr, &["Unlocked"]);
    }
}

story! {
    /// "A wrong passphrase is noticed at once, not at each file."
    fn a_wrong_passphrase_of_a_folder_is_noticed_at_once(world) {
        let alice = alice_with(world, "aes24-fnek");
        alice.write("wrong", "wrong\n");
        let wrong = [&UNLOCK[..], &["--passphrase-file", "wrong", "lower"]].concat();
        let said = alice.claviger(wrong).fails(4);
        says(&said, &["files are wrapped to key f2291ce4c3069633", "--wrapped-passphrase"]);
        says(&alice.claviger(["status"]).ok(), &["No volume is open"]);
    }
}

story! {
    /// "An RSA key opens a folder", with the passphrase of the key file asked for once.
    fn an_rsa_key_unlocks_a_folder(world) {
        let alice = alice_with(world, "rsa2048-aes32-fnek");
        alice.write("rsa2048.pem", data("rsa2048.pem"));
        alice.write("rsa4096.pem", data("rsa4096.pem"));
        let with = |key: &str| {
            let keys = ["--key", key, "--fnek-passphrase-file", "pass", "lower"];
            alice.claviger([&UNLOCK[..], &keys].concat()).answers(&["keypass"])
        };
        says(&with("rsa4096.pem").fails(4), &["what was given is key 28b7228a9391d6e9", "fd591e1468c3ea8a"]);
        says(&with("rsa2048.pem").finish().stderr, &["Unlocked", "with file 'rsa2048.pem'"]);
    }
}

story! {
    /// "A key of the type `encrypted` is the kernel's alone": that is said, with the way out, and no passphrase is
    /// asked for instead.
    fn a_key_that_only_the_kernel_decrypts_is_refused_by_its_type(world) {
        let alice = alice_with(world, "aes16");
        let make = "keyctl link @u @s && keyctl add user master 0123456789abcdef0123456789abcdef @u && \
            for sig in f2291ce4c3069633 1000100010001000; do \
                keyctl add encrypted $sig \"new ecryptfs user:master 64\" @u; done && \
            keyctl pipe $(keyctl search @u encrypted f2291ce4c3069633) >key";
        alice.run("keyctl", ["session", "-", "sh", "-ec", make]).ok();
        alice.sh("mkdir mnt").ok();
        let way_out = ["type 'encrypted'", "with the kernel's eCryptfs", "claviger ecryptfs migrate"];
        let mount = ["mount", "--format", "ecryptfs", "lower", "mnt"];
        let said = alice.claviger(mount).answers(&[PASSPHRASE]).fails(17);
        says(&said, &[&["key f2291ce4c3069633"], &way_out[..]].concat());
        says(&alice.claviger(["ecryptfs", "inspect", "key"]).fails(17), &["type 'encrypted'", "kernel's eCryptfs"]);

        let given = ["--passphrase-file", "pass"];
        let names = [&mount[..3], &given, &["-o", "ecryptfs_fnek_sig=1000100010001000"], &mount[3..]].concat();
        says(&alice.claviger(names).fails(17), &[&["key 1000100010001000"], &way_out[..]].concat());
        // One of two keys keeps nobody from being asked for the other.
        let to_both = ["-o", "ro,ecryptfs_sig=1000100010001000,ecryptfs_sig=f2291ce4c3069633"];
        alice.run("keyctl", ["purge", "encrypted", "f2291ce4c3069633"]).finish();
        alice.claviger([&mount[..3], &to_both, &mount[3..]].concat()).answers(&[PASSPHRASE]).ok();
        alice.claviger(["umount", "mnt"]).ok();
        alice.claviger(["lock", "--all"]).ok();

        // The passphrase, where somebody has it, opens the folder all the same.
        alice.claviger([&mount[..3], &given, &mount[3..]].concat()).ok();
        assert_eq!(alice.sh("cat mnt/size1").ok(), "1");
    }
}

story! {
    /// "What cannot be done is refused by name, with the way out", before anybody is asked for anything.
    fn mount_options_of_the_kernel_that_cannot_be_done_are_refused(world) {
        let alice = alice_with(world, "aes16");
        alice.sh("mkdir mnt").ok();
        let mount = |options: &str| alice.claviger(["mount", "--format", "ecryptfs", "-o", options, "lower", "mnt"]);
        says(&mount("ecryptfs_cipher=twofish").fails(17), &["twofish", "with the kernel's eCryptfs"]);
        says(&mount("ecryptfs_hmac").fails(2), &["unknown mount option 'ecryptfs_hmac'"]);
        says(&mount("key=passphrase").fails(2), &["--passphrase-file"]);
        unpack(&alice, "blowfish-16", "other");
        let other = ["mount", "--format", "ecryptfs", "--passphrase-file", "pass", "other", "mnt"];
        says(&alice.claviger(other).fails(17), &["blowfish", "with the kernel's eCryptfs"]);
        // A folder of root's, that the options let only root mount.
        let roots = alice.home().join("roots");
        fs::create_dir(&roots).unwrap();
        let strict = ["mount", "--format", "ecryptfs", "-o", "ecryptfs_check_dev_ruid", "roots", "mnt"];
        says(&alice.claviger(strict).fails(11), &["belongs to uid 0"]);
        let native = ["mount", "--salt", "0011223344556677", "lower", "mnt"];
        says(&alice.claviger(native).fails(2), &["--format ecryptfs"]);
        let wrong = ["mount", "-o", "format=ext4", "lower", "mnt"];
        says(&alice.claviger(wrong).fails(2), &["format=ext4"]);
        let recovery = [&UNLOCK[..], &["--recovery-file", "pass", "lower"]].concat();
        alice.claviger(recovery).fails(2);
    }
}

story! {
    /// "Reading and writing through a mount point", as with the kernel's module and without it.
    fn a_folder_is_mounted_read_written_locked_and_unlocked(world) {
        let alice = alice_with(world, "aes24-fnek");
        alice.sh("mkdir mnt").ok();
        let mount = ["mount", "--format", "ecryptfs", "--passphrase-file", "pass", "lower", "mnt"];
        says(&alice.claviger(mount).finish().stderr, &["Unlocked", "authenticates nothing"]);
        assert_eq!(alice.sh("cat mnt/size1").ok(), "1");
        alice.sh("echo new >mnt/new").ok();
        says(&alice.claviger(["status"]).ok(), &["unlocked", "mnt over"]);

        says(&alice.claviger(["lock", "mnt"]).ok(), &["Locked"]);
        says(&alice.sh("cat mnt/new").fails(1), &["Required key not available"]);
        let unlock = [&UNLOCK[..], &["--passphrase-file", "pass", "mnt"]].concat();
        says(&alice.claviger(unlock).finish().stderr, &["Unlocked"]);
        assert_eq!(alice.sh("cat mnt/new").ok(), "new\n");
        alice.claviger(["umount", "mnt"]).ok();

        let cat = ["cat", "--format", "ecryptfs", "--passphrase-file", "pass", "lower", "new"];
        assert_eq!(alice.claviger(cat).finish().stdout, "new\n");
        // Under a name and with a key length that the folder's own files have.
        let names = alice.sh("ls lower").ok();
        assert!(names.lines().all(|name| name.starts_with("ECRYPTFS_FNEK_ENCRYPTED.")), "{names}");
    }
}

story! {
    /// "From fstab too": the options alone say what it is. An empty folder becomes an encrypted one.
    fn an_empty_folder_is_mounted_by_options_alone_and_filled(world) {
        let alice = world.user("alice");
        alice.write("pass", PASSPHRASE);
        alice.sh("mkdir lower mnt").ok();
        let mount = ["mount", "-o", "format=ecryptfs,noexec", "--passphrase-file", "pass", "lower", "mnt"];
        says(&alice.claviger(mount).finish().stderr, &["Unlocked"]);
        alice.sh("mkdir mnt/a; echo new >mnt/a/b; mv mnt/a/b mnt/c").ok();
        alice.claviger(["umount", "mnt"]).ok();
        says(&alice.claviger(["ecryptfs", "inspect", "lower/c"]).ok(), &["aes-128", "f2291ce4c3069633"]);
        // It says now itself what it is.
        alice.claviger(["lock", "--all"]).ok();
        let read_only = ["mount", "--format", "ecryptfs", "-o", "ro", "--passphrase-file", "pass", "lower", "mnt"];
        alice.claviger(read_only).ok();
        assert_eq!(alice.sh("cat mnt/c").ok(), "new\n");
        says(&alice.sh("echo x >mnt/d").fails(2), &["Read-only"]);
    }
}
