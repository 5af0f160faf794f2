//! The disk below: full, read-only, damaged.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use claviger_hw_tests::{User, World, story, wait_until};
use serde_json::Value;

use crate::scene::{alice_with_an_open_folder, says, software_key};

/// Alice, with a folder on a disk of her own of `size`, open at `private`.
fn alice_on_a_disk(world: &mut World, size: &str) -> (User, std::path::PathBuf) {
    let alice = world.user("alice");
    let disk = world.ext4(size);
    alice.own(&disk);
    software_key(&alice, "k");
    let lower = disk.join("Private");
    alice
        .claviger([
            "init",
            "--no-recovery",
            "--recipient",
            "k",
            &lower.to_string_lossy(),
        ])
        .ok();
    alice
        .sh(&format!("ln -s {} Private; mkdir private", lower.display()))
        .ok();
    alice.claviger(["mount", "Private", "private"]).ok();
    (alice, disk)
}

story! {
    /// "Lower disk full": an error that says so, and nothing lost that was there.
    fn a_full_disk_is_told_as_such_and_loses_nothing(world) {
        let (alice, _disk) = alice_on_a_disk(world, "24M");
        alice.sh("for i in $(seq 40); do head -c 20000 /dev/urandom >private/$i || exit 1; done; sync private/*").ok();
        alice.sh("sha256sum private/* >sums").ok();
        let said = alice.sh("head -c 60000000 /dev/zero >private/big; echo status $?").ok();
        assert!(!said.contains("status 0"), "{said}");
        let full = "No space left on device";
        says(&alice.sh("head -c 3000000 /dev/zero >private/more").finish().stderr, &[full]);
        says(&alice.sh("head -c 3000000 /dev/zero >>private/1").finish().stderr, &[full]);
        let said = alice.sh("for i in $(seq 3000); do echo x >private/small$i || exit 1; done").finish();
        says(&said.stderr, &[full]);
        let said = alice.sh("for i in $(seq 5000); do mkdir private/dir$i || exit 1; done").finish();
        says(&said.stderr, &[full]);
        alice.sh("tail -n +2 sums | sha256sum --quiet -c").ok();
        // What could not be appended is at the end, and the rest is there.
        alice.sh("rm -rf private/big private/more private/small* private/dir*").ok();
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).ok();
        alice.sh("sed 's/^\\([0-9a-f]*\\)  private.1$/\\1  -/;q' sums >first; head -c 20000 private/1 | sha256sum -c --quiet first").ok();
        alice.sh("tail -n +2 sums | sha256sum --quiet -c && echo fits >private/again && cat private/again").ok();
        alice.claviger(["umount", "private"]).ok();
        let report: Value = serde_json::from_str(&alice.claviger(["verify", "--json", "Private"]).ok()).unwrap();
        assert_eq!(report["damage"].as_array().map(Vec::len), Some(0), "{report}");
    }
}

story! {
    /// "Lower read-only": reading works, and writing is refused as on any read-only disk.
    fn a_folder_on_a_read_only_disk_can_be_read(world) {
        let (alice, disk) = alice_on_a_disk(world, "32M");
        alice.sh("mkdir private/dir; echo text >private/dir/letter").ok();
        alice.claviger(["umount", "private"]).ok();
        let disk = disk.to_string_lossy();
        wait_until("nothing is open for writing", || {
            Command::new("mount").args(["-o", "remount,ro", &disk]).output().unwrap().status.success()
        });
        alice.claviger(["lock", "--all"]).ok();
        says(&alice.claviger(["mount", "Private", "private"]).fails(11), &["Read-only", "-o ro"]);
        alice.claviger(["mount", "-o", "ro", "Private", "private"]).ok();
        assert_eq!(alice.sh("cat private/dir/letter").ok(), "text\n");
        for line in ["echo x >private/new", "echo x >>private/dir/letter", "mkdir private/more", "rm private/dir/letter", "mv private/dir private/moved"] {
            let said = alice.sh(line).finish();
            assert_ne!(said.code, 0, "{said}");
            says(&said.stderr, &["Read-only file system"]);
        }
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["verify", "Private"]).ok();
    }
}

story! {
    /// `-o ro` on a disk that could be written.
    fn a_folder_mounted_read_only_takes_no_write(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo text >private/letter").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "-o", "ro", "Private", "private"]).ok();
        let before = alice.sh("find Private | sort | xargs ls -ld").ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
        says(&alice.sh("echo x >private/new").finish().stderr, &["Read-only file system"]);
        alice.claviger(["umount", "private"]).ok();
        assert_eq!(alice.sh("find Private | sort | xargs ls -ld").ok(), before);
    }
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

story! {
    /// "What he changes is refused with EIO and a log line": which names the lower file.
    fn a_bit_flipped_below_is_refused_and_named(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("seq 100000 >private/numbers; echo fine >private/other").ok();
        alice.claviger(["umount", "private"]).ok();
        let lower = alice.lower_files("Private").into_iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
        let size = fs::metadata(&lower).unwrap().len();
        flip(&lower, size - 5000);
        alice.claviger(["mount", "Private", "private"]).ok();
        says(&alice.sh("cat private/numbers >out").fails(1), &["Input/output error"]);
        // No plaintext that was never written: what came out is a beginning of what went in.
        alice.sh("seq 100000 | cmp -n $(stat -c %s out) - out").ok();
        assert_eq!(alice.sh("cat private/other").ok(), "fine\n");
        let name = lower.file_name().unwrap().to_string_lossy().into_owned();
        let log = fs::read_to_string(alice.state().join("fs.log")).unwrap();
        assert!(log.lines().any(|line| line.contains(&name)), "{name}: {log}");
        assert!(!log.contains("numbers"), "{log}");
        alice.claviger(["umount", "private"]).ok();

        let said = alice.claviger(["verify", "Private"]).finish();
        assert_eq!(said.code, 26, "{said}");
        says(&said.stdout, &[&name, "block", "1 damaged"]);
        let report: Value = serde_json::from_str(&alice.claviger(["verify", "--json", "Private"]).finish().stdout).unwrap();
        assert_eq!(report["damage"].as_array().map(Vec::len), Some(1), "{report}");
        assert!(report["damage"][0]["lower"].as_str().unwrap().ends_with(&name), "{report}");

        flip(&lower, size - 5000);
        says(&alice.claviger(["verify", "Private"]).ok(), &["2 files", "0 damaged"]);
    }
}

story! {
    /// "claviger verify decrypts every block and checks every directory": names and targets as well.
    fn verify_finds_a_damaged_header_directory_name_and_symlink(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo text >private/letter").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["verify", "Private"]).ok();
        type Damage = fn(&User);
        let damage: [(&str, Damage); 4] = [
            ("header", |alice| flip(&alice.lower_files("Private")[0], 80)),
            ("name", |alice| {
                let file = &alice.lower_files("Private")[0];
                let name = file.file_name().unwrap().to_string_lossy();
                let other = if name.starts_with('A') { "B" } else { "A" };
                fs::rename(file, file.with_file_name(format!("{other}{}", &name[1..]))).unwrap();
            }),
            ("directory", |alice| {
                let record = alice.sh("find Private -mindepth 2 -name '.*' -type f | grep -v volume.toml").ok();
                flip(&alice.home().join(record.lines().next().expect("a record")), 20);
            }),
            ("symlink", |alice| {
                let link = alice.sh("find Private -type l").ok();
                let link = alice.home().join(link.trim());
                let target = fs::read_link(&link).unwrap().to_string_lossy().into_owned();
                let other = if target.starts_with('A') { "B" } else { "A" };
                fs::remove_file(&link).unwrap();
                std::os::unix::fs::symlink(format!("{other}{}", &target[1..]), &link).unwrap();
                alice.sh("true").ok();
            }),
        ];
        for (what, damage) in damage {
            alice.sh("rm -rf Whole; cp -a Private Whole").ok();
            alice.claviger(["mount", "Private", "private"]).ok();
            alice.sh("mkdir -p private/dir; echo deep >private/dir/file; ln -sf letter private/link").ok();
            alice.claviger(["umount", "private"]).ok();
            damage(&alice);
            let said = alice.claviger(["verify", "Private"]).finish();
            assert_eq!(said.code, 26, "{what}: {said}");
            alice.sh("rm -rf Private; mv Whole Private").ok();
        }
        alice.claviger(["verify", "Private"]).ok();
    }
}
