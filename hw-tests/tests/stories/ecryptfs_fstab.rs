//! Folders of the kernel's eCryptfs in /etc/fstab: the kernel's line with another type.

use claviger_hw_tests::{User, story};

use crate::ecryptfs::{data, unpack};
use crate::scene::{finds_a_mount_of_roots, says};

const LOCKED: &str = "Required key not available";

/// The keys of [`PASSPHRASE`](crate::ecryptfs::PASSPHRASE): for content, and for names.
const CONTENT: &str = "f2291ce4c3069633";
const NAMES: &str = "9e677d297b65a19b";

const UNLOCK: [&str; 3] = ["unlock", "--format", "ecryptfs"];

/// Puts the key of a passphrase into the user keyring, as ecryptfs-add-passphrase(1) did.
fn put_auth_tok(user: &User, sig: &str) {
    user.write("auth-tok", data(&format!("authtok.{sig}.bin")));
    user.sh(&format!("keyctl padd user {sig} @u <auth-tok"))
        .ok();
}

/// Takes it away.
fn take_auth_tok(user: &User, sig: &str) {
    user.sh(&format!("keyctl unlink $(keyctl search @u user {sig}) @u"))
        .ok();
}

story! {
    /// "A line that the kernel's eCryptfs was mounted by": root mounts, its owner unlocks with the keys of
    /// the keyring, and nobody is asked for anything.
    fn a_line_of_the_kernels_in_fstab_mounts_with_keys_of_the_keyring(world) {
        world.install_mount_helper();
        let alice = world.user("alice");
        let root = world.root();
        unpack(&alice, "aes24-fnek", "lower");
        alice.sh("mkdir mnt").ok();
        world.fstab(&format!(
            "/home/alice/lower /home/alice/mnt fuse.claviger format=ecryptfs,allow_other,rw,nofail,\
             ecryptfs_sig={CONTENT},ecryptfs_fnek_sig={NAMES},ecryptfs_cipher=aes,ecryptfs_key_bytes=24,\
             ecryptfs_fn_key_bytes=24,ecryptfs_unlink_sigs,ecryptfs_passthrough=n,no_sig_cache 0 0\n"
        ));
        root.sh("mount -a -t fuse.claviger").ok();
        says(&alice.sh("ls mnt").finish().stderr, &[LOCKED]);
        let unlock = [&UNLOCK[..], &["mnt"]].concat();
        says(&alice.claviger(&unlock).fails(4), &["is not here", "--passphrase-file"]);

        put_auth_tok(&alice, CONTENT);
        put_auth_tok(&alice, NAMES);
        finds_a_mount_of_roots(&alice);
        says(&alice.claviger(&unlock).finish().stderr, &["Unlocked", "with keyring"]);
        assert_eq!(alice.sh("cat mnt/size1").ok(), "1");
        alice.sh("echo new >mnt/new").ok();
        says(&root.sh("cat /home/alice/mnt/new").fails(1), &[LOCKED]);
        let shown = alice.status();
        let [folder] = shown["volumes"].as_array().unwrap().as_slice() else { panic!("{shown}") };
        assert_eq!((&folder["format"], &folder["unlocked"]), (&"ecryptfs".into(), &true.into()));
        says(&alice.claviger(["status"]).ok(), &["format   ecryptfs"]);

        alice.claviger(["lock", "mnt"]).ok();
        says(&alice.sh("cat mnt/new").fails(1), &[LOCKED]);
        // Locked, it still says what it is.
        assert_eq!(alice.status()["volumes"][0]["format"], "ecryptfs");
        take_auth_tok(&alice, CONTENT);
        says(&alice.claviger(&unlock).fails(4), &["is not here", "--passphrase-file"]);
        put_auth_tok(&alice, CONTENT);
        alice.claviger(&unlock).ok();
        assert_eq!(alice.sh("cat mnt/new").ok(), "new\n");

        root.sh("umount /home/alice/mnt").ok();
        let names = alice.sh("ls lower").ok();
        assert!(names.lines().all(|name| name.starts_with("ECRYPTFS_FNEK_ENCRYPTED.")), "{names}");
        let cat = ["cat", "--format", "ecryptfs", "--passphrase-file", "pass", "lower", "new"];
        alice.write("pass", crate::ecryptfs::PASSPHRASE);
        assert_eq!(alice.claviger(cat).ok(), "new\n");
    }
}

story! {
    /// "Each user for themselves", in an empty folder with headers in attributes: what new files are like is
    /// what the line says, and so is whose keys `unlock` takes.
    fn a_users_line_in_fstab_says_what_new_files_are_like(world) {
        world.install_mount_helper();
        let disk = world.ext4("32M");
        let alice = world.user("alice");
        let lower = disk.join("lower");
        std::fs::create_dir(&lower).unwrap();
        alice.own(&lower);
        let lower = lower.display();
        alice.sh("mkdir mnt").ok();
        let options = format!(
            "format=ecryptfs,ecryptfs_sig={CONTENT},ecryptfs_key_bytes=32,ecryptfs_xattr_metadata,\
             ecryptfs_passthrough,ecryptfs_check_dev_ruid"
        );
        world.fstab(&format!("{lower} /home/alice/mnt fuse.claviger user,noauto,{options} 0 0\n"));
        alice.sh("mount mnt").ok();
        put_auth_tok(&alice, CONTENT);
        // Nothing in the folder says yet whose keys it wants.
        alice.claviger([&UNLOCK[..], &["-o", &options, "mnt"]].concat()).ok();
        alice.sh("echo new >mnt/new; echo plain >mnt/../plain").ok();
        alice.sh(&format!("cp plain {lower}/plain")).ok();
        assert_eq!(alice.sh("cat mnt/new mnt/plain").ok(), "new\nplain\n");
        alice.sh("umount mnt").ok();

        let inspected = alice.claviger(["ecryptfs", "inspect", &format!("{lower}/new")]).ok();
        says(&inspected, &["aes-256", CONTENT]);
        assert_eq!(alice.sh(&format!("stat -c %s {lower}/new")).ok(), "4096\n");
        // Now it does.
        alice.claviger(["lock", "--all"]).ok();
        alice.sh("mount mnt").ok();
        alice.claviger([&UNLOCK[..], &["mnt"]].concat()).ok();
        assert_eq!(alice.sh("cat mnt/new").ok(), "new\n");
        alice.sh("umount mnt").ok();
    }
}

story! {
    /// "What cannot be done is refused by name", and what is secret is not repeated where logs are made of it.
    fn a_line_in_fstab_that_cannot_be_done_is_refused_by_name(world) {
        world.install_mount_helper();
        let alice = world.user("alice");
        let root = world.root();
        unpack(&alice, "aes16", "lower");
        alice.sh("mkdir mnt").ok();
        let sig = format!("format=ecryptfs,ecryptfs_sig={CONTENT}");
        for (options, part) in [
            ("format=ecryptfs", "'ecryptfs_sig=' is missing"),
            (&format!("{sig},ecryptfs_cipher=twofish"), "twofish"),
            (&format!("{sig},ecryptfs_hmac"), "'ecryptfs_hmac'"),
            (&format!("{sig},key=passphrase:passphrase_passwd=tulip"), "'key='"),
        ] {
            let said = root.sh(&format!("mount -t fuse.claviger -o {options} /home/alice/lower /home/alice/mnt")).fails(1);
            says(&said, &[part]);
            assert!(!said.contains("tulip"), "{said}");
        }
        let strict = format!("{sig},ecryptfs_check_dev_ruid");
        let said = root.sh(&format!("mount -t fuse.claviger -o {strict} /home/alice/lower /home/alice/mnt")).fails(1);
        says(&said, &["belongs to uid"]);
        // To look at, nobody has to be named.
        root.sh("mount -t fuse.claviger -o format=ecryptfs,ro,allow_other /home/alice/lower /home/alice/mnt").ok();
        root.sh("umount /home/alice/mnt").ok();
    }
}
