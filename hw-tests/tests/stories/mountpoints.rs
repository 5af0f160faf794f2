//! Where a folder can be mounted, and where not.

use std::fs;

use claviger_hw_tests::story;

use crate::scene::{alice_with_an_open_folder, folder, says, software_key};

story! {
    /// "Mountpoint not empty, missing, not a directory": exit code 10, and what to do.
    fn an_unfit_mountpoint_is_refused_and_nothing_is_hidden(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        alice.sh("mkdir full; echo mine >full/file; echo file >file").ok();
        says(&alice.claviger(["mount", "Private", "full"]).fails(10), &["not empty", "empty directory"]);
        assert_eq!(alice.sh("cat full/file").ok(), "mine\n");
        says(&alice.claviger(["mount", "Private", "missing"]).fails(10), &["does not exist", "mkdir"]);
        says(&alice.claviger(["mount", "Private", "file"]).fails(10), &["not a directory"]);
        alice.sh("mkdir Private/inside").ok();
        says(&alice.claviger(["mount", "Private", "Private/inside"]).fails(10), &["lies in the lower folder"]);
        says(&alice.claviger(["umount", "private"]).fails(10), &["nothing of yours is mounted"]);
        alice.claviger(["mount", "Private", "/root"]).fails(10);
        alice.claviger(["mount", "-o", "shiny", "Private", "private"]).fails(2);
        // Each was refused before a key was asked for.
        says(&alice.claviger(["status"]).ok(), &["No volume is open"]);
    }
}

story! {
    /// `mount` and `cat` take what `unlock` takes, and `format=` means the same before and behind them.
    fn what_opens_a_volume_can_be_named_where_it_is_mounted_or_read(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        alice.write("pass", "correct horse\n");
        folder(&alice, &["--recipient", "k", "--passphrase-file", "pass"]);
        let by = |kind: &str| format!("Unlocked {} with {kind}", alice.home().join("Private").display());
        for (opener, kind) in [(["--key", "k"], "file"), (["--passphrase-file", "pass"], "passphrase")] {
            let mount = [&["mount", "-o", "format=ecryptfs,format=native"][..], &opener, &["Private", "private"]].concat();
            says(&alice.claviger(mount).finish().stderr, &[&by(kind)]);
            alice.sh("echo text >private/letter; sync private/letter").ok();
            alice.claviger(["umount", "private"]).ok();
            alice.claviger(["lock", "Private"]).ok();
            let cat = alice.claviger([&["cat"][..], &opener, &["Private", "letter"]].concat()).finish();
            assert_eq!(cat.stdout, "text\n", "{cat}");
            says(&cat.stderr, &[&by(kind)]);
            alice.claviger(["lock", "Private"]).ok();
        }
        let locked = ["mount", "--locked", "--key", "k", "Private", "private"];
        says(&alice.claviger(locked).fails(2), &["needs no key"]);
        let salted = ["mount", "--salt", "0011223344556677", "Private", "private"];
        says(&alice.claviger(salted).fails(2), &["belong to eCryptfs folders", "--format ecryptfs"]);
        let unknown = ["mount", "-o", "format=zip", "Private", "private"];
        says(&alice.claviger(unknown).fails(2), &["format=zip", "native or ecryptfs"]);
    }
}

story! {
    /// "Already mounted", and "a second mount of the same folder": 10 and 18.
    fn a_folder_is_mounted_once_and_a_mountpoint_used_once(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("mkdir second; echo text >private/letter").ok();
        says(&alice.claviger(["mount", "Private", "second"]).fails(18), &["mounted already"]);
        alice.claviger(["init", "--no-recovery", "--recipient", "k", "Other"]).ok();
        says(&alice.claviger(["mount", "Other", "private"]).fails(10), &["mountpoint already", "claviger umount"]);
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
        assert_eq!(alice.sh("ls -A second").ok(), "");
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "second"]).ok();
        assert_eq!(alice.sh("cat second/letter").ok(), "text\n");
    }
}

story! {
    /// "umount": not while a program is in it, and it says how to find that program.
    fn a_busy_mount_is_not_taken_away(world) {
        let alice = alice_with_an_open_folder(world);
        let mut shell = alice.shell();
        shell.ok("cd private");
        says(&alice.claviger(["umount", "private"]).fails(18), &["in use", "fuser -vm", "claviger lock"]);
        shell.ok("cd /");
        alice.claviger(["umount", "private"]).ok();
    }
}

story! {
    /// What fusermount3 refuses for a reason of its own is not taken for a mount that is not there.
    fn an_unmount_that_fails_says_why(world) {
        let alice = alice_with_an_open_folder(world);
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let others: Vec<&str> = users.lines().filter(|line| !line.starts_with("alice:")).collect();
        fs::write("/etc/passwd", others.join("\n") + "\n").unwrap();
        says(&alice.claviger(["umount", "private"]).fails(1), &["private could not be unmounted", "could not determine username"]);
        fs::write("/etc/passwd", users).unwrap();
        alice.claviger(["umount", "private"]).ok();
    }
}

story! {
    /// By whatever path it is named, the lower folder is free when `umount` returns: it can be mounted again
    /// at once, though there was much to write out.
    fn a_mount_is_found_through_symbolic_links(world) {
        let alice = world.user("alice");
        let disk = world.ext4("1G");
        alice.own(&disk);
        software_key(&alice, "k");
        let lower = disk.join("Private");
        let lower = lower.to_str().unwrap();
        alice.claviger(["init", "--no-recovery", "--recipient", "k", lower]).ok();
        alice.sh("mkdir private in; ln -s .. in/link; ln -s private to").ok();
        for path in ["in/link/private", "to", "in/link/to"] {
            alice.claviger(["mount", lower, "private"]).ok();
            alice.sh("head -c 100M /dev/zero >private/much").ok();
            alice.claviger(["umount", path]).ok();
        }
        says(&alice.claviger(["umount", "private"]).fails(10), &["nothing of yours is mounted"]);
    }
}

story! {
    /// `fsname` is a word for people, and the kernel writes `#` in its own way: neither hides the lower folder.
    fn a_mount_is_found_whatever_the_table_of_mounts_calls_it(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        alice.sh("mkdir private").ok();
        for (lower, options) in [("team", "fsname=name"), ("C#x y", "ro"), ("C#x y", "rw")] {
            alice.claviger(["init", "--no-recovery", "--recipient", "k", lower]).finish();
            alice.claviger(["mount", "-o", options, lower, "private"]).ok();
            says(&alice.claviger(["lock", "private"]).ok(), &["Locked private"]);
            says(&alice.sh("ls private").finish().stderr, &["Required key not available"]);
            alice.claviger(["unlock", "private"]).ok();
            says(&alice.claviger(["recipient", "list", "private"]).ok(), &["k"]);
            if options != "ro" {
                // Mounted again as soon as `umount` returns: it waited for this.
                alice.sh("head -c 50M /dev/zero >private/much").ok();
            }
            alice.claviger(["umount", "private"]).ok();
            alice.claviger(["mount", "-o", options, lower, "private"]).ok();
            alice.claviger(["umount", "private"]).ok();
        }
    }
}

story! {
    /// "Without --locked off": a folder mounted without its key answers ENOKEY until it is unlocked.
    fn a_folder_mounted_locked_opens_by_unlock(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["mount", "--locked", "Private", "private"]).ok();
        says(&alice.sh("ls private").finish().stderr, &["Required key not available"]);
        assert!(alice.claviger(["status"]).ok().contains("locked"));
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("echo x >private/x; ls private").ok(), "x\n");
    }
}

story! {
    /// A missing folder, a file in its place, a folder that is not one's own: 3 and 11.
    fn what_is_no_volume_is_not_mounted(world) {
        let alice = alice_with_an_open_folder(world);
        let bob = world.user("bob");
        bob.sh("mkdir mnt").ok();
        bob.claviger(["mount", "Missing", "mnt"]).fails(3);
        bob.sh("echo >file").ok();
        bob.claviger(["mount", "file", "mnt"]).fails(3);
        bob.sh("mkdir Empty").ok();
        says(&bob.claviger(["mount", "Empty", "mnt"]).fails(3), &["volume.toml"]);
        let code = bob.claviger(["mount", "/home/alice/Private", "mnt"]).finish().code;
        assert_eq!(code, 11);
        says(&alice.claviger(["init", "--recipient", "k", "Private"]).finish().stderr, &["not empty"]);
    }
}
