//! Who holds the lower folder, against a real mount: what he changes is an I/O error, with a line in
//! the log that names the lower file, and never another plaintext.
//!
//! The table of everything he can do is `vault/tests/adversary/`; here is that the filesystem asks.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use claviger_hw_tests::{User, story, wait_until};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::scene::{alice_with_an_open_folder, says};

const EIO: &str = "Input/output error";

/// Everything in the lower folder but records, sidecars and the manifest.
fn entries(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || name.ends_with(".name") {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(entries(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

/// Has Alice make one thing in her folder; what appeared below.
#[track_caller]
fn made(alice: &User, line: &str) -> PathBuf {
    let lower = alice.home().join("Private");
    let before = entries(&lower);
    alice.sh(line).ok();
    let after = entries(&lower);
    let new: Vec<_> = after.difference(&before).collect();
    assert_eq!(new.len(), 1, "{line}: {new:?}");
    new[0].clone()
}

/// A file of its own name's words, `len` octets of them.
fn file(alice: &User, name: &str, len: usize) -> PathBuf {
    made(
        alice,
        &format!("yes 'words of {name}' | head -c {len} >private/{name}"),
    )
}

/// Unmounts, and waits for the filesystem's end: it makes everything durable before.
#[track_caller]
fn unmount(alice: &User) {
    let filesystem = alice.filesystem();
    alice.claviger(["umount", "private"]).ok();
    wait_until("the filesystem has ended", || filesystem.has_ended());
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut octet = [0];
    file.read_exact_at(&mut octet, offset).unwrap();
    file.write_all_at(&[octet[0] ^ 1], offset).unwrap();
}

fn zero(path: &Path, offset: u64, len: usize) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0; len], offset).unwrap();
}

/// Text of the same length and kind, but for the first letter.
fn changed(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    format!("{}{rest}", if first == "A" { "B" } else { "A" })
}

fn exchange(one: &Path, other: &Path) {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
}

/// The lower path, as the log has it.
fn below<'a>(alice: &User, path: &'a Path) -> &'a str {
    let lower = alice.home().join("Private");
    path.strip_prefix(lower).unwrap().to_str().unwrap()
}

/// That a line fails with EIO, prints nothing that Alice has not written there, and is in the log with
/// the lower path.
#[track_caller]
fn is_refused(alice: &User, line: &str, lower: &Path) {
    let finished = alice.sh(line).finish();
    assert_ne!(finished.code, 0, "{finished}");
    says(&finished.stderr, &[EIO]);
    assert!(!finished.stdout.contains("words"), "{finished}");
    let (logs, lower) = (alice.logs(), below(alice, lower));
    let told = |line: &str| line.contains("refused with EIO") && line.contains(lower);
    assert!(
        logs.lines().any(told),
        "{line}: no line tells of {lower} in {logs}"
    );
}

story! {
    /// P2: "what he changes is refused, never returned as plaintext."
    fn what_was_changed_below_is_an_io_error_that_the_log_explains(world) {
        let alice = alice_with_an_open_folder(world);
        let good = file(&alice, "good", 5000);
        let block = file(&alice, "block", 5000);
        let head = file(&alice, "head", 5000);
        let fixed = file(&alice, "fixed", 5000);
        let shape = file(&alice, "shape", 5000);
        let place = file(&alice, "place", 5000);
        let slot = file(&alice, "slot", 5000);
        let short = file(&alice, "short", 5000);
        let cut = file(&alice, "cut", 5000);
        let one = file(&alice, "one", 5000);
        let other = file(&alice, "other", 5000);
        let big = file(&alice, "big", 700_000);
        let target = made(&alice, "ln -s 'words of a target' private/target");
        let here = made(&alice, "mkdir private/here");
        let there = made(&alice, "mkdir private/there");
        let record = made(&alice, "mkdir private/record");
        for dir in ["here", "there", "record"] {
            file(&alice, &format!("{dir}/inside"), 5000);
        }
        let tagged = file(&alice, "tagged", 5000);
        alice.sh("setfattr -n user.colour -v 'words of a colour' private/tagged").ok();
        unmount(&alice);

        flip(&block, 4096 + 5);
        flip(&head, 64 + 40);
        flip(&fixed, 50);
        zero(&shape, 512, 256);
        zero(&place, 768, 256);
        zero(&slot, 1024, 64);
        File::options().write(true).open(&short).unwrap().set_len(100).unwrap();
        File::options().write(true).open(&cut).unwrap().set_len(4096 + 300).unwrap();
        exchange(&one, &other);
        exchange(&here, &there);
        flip(&record.join(".claviger.dir"), 60);
        // Block 100: behind the slot page of the second segment.
        flip(&big, 4096 * 102 + 9);
        let shown = alice.sh(&format!("getfattr --absolute-names -d '{}'", tagged.display())).ok();
        let name = shown.lines().find_map(|line| line.split_once('=')).unwrap().0.to_owned();
        alice.sh(&format!("setfattr -n {name} -v made-up '{}'", tagged.display())).ok();
        let sealed = changed(fs::read_link(&target).unwrap().to_str().unwrap());
        fs::remove_file(&target).unwrap();
        symlink(sealed, &target).unwrap();

        alice.claviger(["mount", "Private", "private"]).ok();
        assert_eq!(alice.sh("head -c 13 private/good").ok(), "words of good");
        let files = [
            ("block", &block), ("head", &head), ("fixed", &fixed), ("shape", &shape), ("place", &place),
            ("slot", &slot), ("short", &short), ("cut", &cut), ("one", &one), ("other", &other),
        ];
        for (name, lower) in files {
            is_refused(&alice, &format!("head -c 4096 private/{name} | tail -c 10; cat private/{name} >/dev/null"), lower);
        }
        is_refused(&alice, "ls private/here", &here);
        is_refused(&alice, "cat private/there/inside", &there);
        is_refused(&alice, "cat private/record/inside", &record);
        is_refused(&alice, "readlink -v private/target", &target);
        is_refused(&alice, "getfattr -n user.colour private/tagged", &tagged);
        // What comes before the damage is Alice's, and nothing comes in place of it.
        let read = alice.sh("cat private/big").finish();
        says(&read.stderr, &[EIO]);
        let whole = "words of big\n".repeat(60_000);
        assert!(whole.starts_with(&read.stdout) && read.stdout.len() <= 100 * 4096);

        // Nothing of this is for good: what is put right opens again.
        unmount(&alice);
        flip(&block, 4096 + 5);
        exchange(&one, &other);
        alice.claviger(["mount", "Private", "private"]).ok();
        for name in ["block", "one", "other", "good"] {
            let expected = format!("words of {name}\n");
            assert_eq!(alice.sh(&format!("head -n 1 private/{name}")).ok(), expected);
        }
        drop(good);
    }
}

story! {
    /// Names that were not made by this volume for this directory are left out, with a line in the log.
    fn what_was_renamed_below_is_left_out_and_the_log_tells(world) {
        let alice = alice_with_an_open_folder(world);
        let letter = file(&alice, "letter", 100);
        let memo = file(&alice, "memo", 100);
        unmount(&alice);
        let made_up = memo.with_file_name(changed(below(&alice, &memo)));
        fs::rename(&memo, &made_up).unwrap();
        alice.claviger(["mount", "Private", "private"]).ok();
        assert_eq!(alice.sh("ls private").ok(), "letter\n");
        says(&alice.sh("cat private/memo").fails(1), &["No such file"]);
        let (logs, name) = (alice.logs(), below(&alice, &made_up));
        let told = |line: &str| line.contains("entry left out") && line.contains(name);
        assert!(logs.lines().any(told), "{logs}");
        drop(letter);
    }
}
