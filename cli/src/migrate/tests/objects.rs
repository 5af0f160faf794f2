//! What is kept of each kind of object.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;

use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use nix::unistd::mkfifoat;
use rustix::fs::{XattrFlags, setxattr};

use super::*;
use crate::migrate::loss::Aspect;

#[test]
fn files_of_every_length_are_kept() {
    let scene = Scene::new();
    for length in [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 3_000_000] {
        scene.write(&format!("{length}"), noise(length, length as u64));
    }
    let summary = scene.is_kept();
    assert_eq!(summary.verified.files, 8);
    assert_eq!(
        summary.verified.bytes,
        4095 + 4096 + 4097 + 1 + (2 << 20) + 1 + 3_000_000
    );
    assert_eq!(summary.verified.directories, 1);
}

#[test]
fn modes_owners_and_times_are_kept() {
    let scene = Scene::new();
    let program = scene.write("folder/program", "#!");
    let shared = scene.write("folder/shared", "x");
    let locked = scene.write("folder/locked", "x");
    symlink("folder/locked", scene.old("link")).unwrap();
    lchown(scene.old("link"), Some(12), Some(34)).unwrap();
    chown(&program, Some(1234), Some(4321)).unwrap();
    chown(&shared, Some(4), Some(5)).unwrap();
    chmod(&program, 0o6755);
    chmod(&shared, 0o2660);
    chmod(&locked, 0);
    chmod(&scene.old("folder"), 0o3555);
    chown(scene.old("folder"), Some(7), Some(8)).unwrap();
    touch(&program, 1_000_000_000, 123_456_789);
    touch(&shared, -86_400, 1);
    touch(&scene.old("link"), 1_234_567_890, 987_654_321);
    touch(&scene.old("folder"), 5, 999_999_999);
    touch(&scene.old(""), 6, 7);
    let summary = scene.migrate().unwrap();
    assert_eq!(summary.verdict(), Verdict::Complete, "{summary:#?}");
    // Reading both to compare them moved no time of access in NEW.
    let accessed = fs::metadata(scene.new_("folder/program")).unwrap();
    let accessed = (accessed.atime(), accessed.atime_nsec());
    assert_eq!(accessed, (1_000_000_000, 123_456_789));
    scene.is_alike();
}

#[test]
fn pipes_sockets_devices_and_links_are_kept() {
    let scene = Scene::new();
    let old = Folder::open(&scene.old("")).unwrap();
    let permissions = Mode::from_bits_truncate(0o640);
    mkfifoat(&old, "pipe", permissions).unwrap();
    mknodat(&old, "null", SFlag::S_IFCHR, permissions, makedev(1, 3)).unwrap();
    mknodat(
        &old,
        "disk",
        SFlag::S_IFBLK,
        permissions,
        makedev(259, 70000),
    )
    .unwrap();
    drop(UnixListener::bind(scene.old("socket")).unwrap());
    symlink("nowhere/at all", scene.old("dangling")).unwrap();
    symlink("x".repeat(4000), scene.old("long")).unwrap();
    touch(&scene.old("pipe"), 77, 88);
    let summary = scene.is_kept();
    assert_eq!(summary.verified.others, 6);
}

#[test]
fn hard_links_are_kept_within_and_across_folders() {
    let scene = Scene::new();
    for (name, content) in [("a/one", "1"), ("b/two", "2")] {
        let path = scene.write(name, content);
        for other in ["a/again", "c/deep/again", "z"] {
            let other = scene.old(&format!("{other}-{content}"));
            fs::create_dir_all(other.parent().unwrap()).unwrap();
            fs::hard_link(&path, other).unwrap();
        }
    }
    scene.is_kept();
    assert_eq!(fs::metadata(scene.new_("z-1")).unwrap().nlink(), 4);
}

#[test]
fn names_of_any_bytes_and_lengths_are_kept() {
    let scene = Scene::new();
    let mut names: Vec<Vec<u8>> = (1..=255u8)
        .filter(|byte| ![b'/', b'.'].contains(byte))
        .map(|byte| vec![byte])
        .collect();
    names.push(vec![b'n'; 255]);
    names.push(vec![0xff; 255]);
    names.push(b"..\x80".to_vec());
    for name in names {
        fs::write(scene.old("").join(OsString::from_vec(name.clone())), name).unwrap();
    }
    scene.is_kept();
}

#[test]
fn paths_longer_than_any_call_takes_are_kept() {
    let scene = Scene::new();
    let name = "d".repeat(200);
    let mut folder = Folder::open(&scene.old("")).unwrap();
    for _ in 0..40 {
        nix::sys::stat::mkdirat(&folder, name.as_str(), Mode::S_IRWXU).unwrap();
        folder = folder.enter(name.as_ref()).unwrap();
    }
    // Far below, and linked from above.
    let file = folder.make("file".as_ref()).unwrap();
    file.write_all_at(b"deep down", 0).unwrap();
    let root = Folder::open(&scene.old("")).unwrap();
    let flags = nix::fcntl::AtFlags::empty();
    nix::unistd::linkat(&folder, "file", &root, "z", flags).unwrap();
    nix::unistd::linkat(&folder, "file", &folder, "file-too", flags).unwrap();
    let summary = scene.migrate().unwrap();
    assert_eq!(summary.verdict(), Verdict::Complete, "{summary:#?}");
    assert_eq!(summary.verified.directories, 41);
    assert_eq!(fs::read(scene.new_("z")).unwrap(), b"deep down");
    assert_eq!(fs::metadata(scene.new_("z")).unwrap().nlink(), 3);
}

#[test]
fn holes_stay_holes_and_blocks_of_zeros_become_some() {
    let scene = Scene::new();
    let sparse = File::create(scene.old("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"middle", 50 << 20).unwrap();
    sparse.set_len(100 << 20).unwrap();
    let mut zeros = vec![0; 8 << 20];
    zeros[4 << 20] = 1;
    scene.write("zeros", zeros);
    scene.write("only-zeros", [0; 10_000]);
    scene.is_kept();
    let on_disk = |name: &str| fs::metadata(scene.new_(name)).unwrap().blocks() * 512;
    assert!(on_disk("sparse") <= 64 << 10, "{}", on_disk("sparse"));
    assert!(on_disk("zeros") <= 64 << 10, "{}", on_disk("zeros"));
    assert_eq!(on_disk("only-zeros"), 0);
}

/// An ACL as the kernel has it: version 2, then tag, permissions and id of each entry; uid 42 may read.
fn acl() -> Vec<u8> {
    const ANYBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, ANYBODY),
        (0x02, 4, 42),
        (0x04, 4, ANYBODY),
        (0x10, 4, ANYBODY),
        (0x20, 0, ANYBODY),
    ];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

fn set(path: &Path, name: &str, value: impl AsRef<[u8]>) {
    setxattr(path, name, value.as_ref(), XattrFlags::empty()).unwrap();
}

#[test]
fn attributes_and_acls_are_kept_and_none_is_inherited() {
    let scene = Scene::new();
    let file = scene.write("folder/file", "x");
    scene.write("folder/inner/plain", "x");
    set(&file, "user.mood", "good");
    set(&file, "user.empty", "");
    set(&file, "system.posix_acl_access", acl());
    // An inheritance that `plain` and `inner`, made before it, did not come to.
    set(&scene.old("folder"), "system.posix_acl_default", acl());
    set(&scene.old("folder"), "user.of-a-folder", [0, 255, 10]);
    // And one of NEW's, which nothing may come to.
    set(&scene.new_(""), "system.posix_acl_default", acl());
    scene.is_kept();
}

#[test]
fn the_header_of_an_ecryptfs_file_is_not_taken_for_an_attribute_of_the_user() {
    let scene = Scene::new();
    set(&scene.write("file", "x"), "user.ecryptfs", [0; 80]);
    let summary = scene.migrate().unwrap();
    assert_eq!(summary.verdict(), Verdict::Complete);
    assert!(attributes(&scene.new_("file")).is_empty());
}

#[test]
fn what_cannot_be_kept_is_told_with_the_reason() {
    let scene = Scene::new();
    set(&scene.write("file", "x"), "trusted.overlay", "secret");
    let old = Folder::open(&scene.old("")).unwrap();
    symlink("target", scene.old("link")).unwrap();
    nix::unistd::linkat(&old, "link", &old, "link-too", nix::fcntl::AtFlags::empty()).unwrap();
    let summary = scene.migrate().unwrap();
    assert_eq!(summary.verdict(), Verdict::Complete, "{summary:#?}");
    let told: Vec<_> = summary
        .losses
        .iter()
        .map(|loss| (loss.path.to_str().unwrap(), loss.of.clone()))
        .collect();
    let trusted = Aspect::Attribute("trusted.overlay".into());
    assert_eq!(
        told,
        [
            ("file", trusted),
            ("link", Aspect::Links),
            ("link-too", Aspect::Links)
        ]
    );
}
