//! Names, directories, and what the lower folder may do to them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::statvfs;

use crate::mounted::Mounted;
use crate::namespaces::isolated_test;

isolated_test! {
    fn the_lower_folder_shows_neither_names_nor_content_nor_targets() {
        let mut mounted = Mounted::new();
        let secret = "a-secret-word";
        let long = format!("{secret}{}", "x".repeat(200));
        fs::create_dir(mounted.path(secret)).unwrap();
        fs::write(mounted.path(secret).join(&long), secret.repeat(1000)).unwrap();
        symlink(secret, mounted.path("link")).unwrap();
        set_attribute(&mounted.path(secret), &format!("user.{secret}"), secret);
        mounted.unmount();
        let below = mounted.lower().to_owned();
        let dump = std::process::Command::new("sh")
            .args(["-c", "ls -lRA . ; getfattr -Rhd -m- . ; cat $(find . -type f)"])
            .current_dir(below)
            .output()
            .unwrap();
        assert!(dump.stdout.len() > 10_000, "the lower folder was read");
        let seen = dump.stdout.windows(secret.len()).any(|text| text == secret.as_bytes());
        assert!(!seen, "{}", String::from_utf8_lossy(&dump.stdout));
    }
}

isolated_test! {
    fn nothing_is_left_below_of_what_was_removed() {
        let mut mounted = Mounted::new();
        let long = "l".repeat(255);
        fs::create_dir(mounted.path(&long)).unwrap();
        fs::write(mounted.path(&long).join(&long), "x").unwrap();
        fs::rename(mounted.path(&long).join(&long), mounted.path(&long).join("short")).unwrap();
        symlink("target", mounted.path("s")).unwrap();
        fs::rename(mounted.path("s"), mounted.path(&long).join("s")).unwrap();
        fs::create_dir(mounted.path("empty")).unwrap();
        fs::create_dir(mounted.path("other")).unwrap();
        fs::rename(mounted.path("other"), mounted.path("empty")).unwrap();
        fs::remove_dir(mounted.path("empty")).unwrap();
        fs::remove_dir_all(mounted.path(&long)).unwrap();
        mounted.unmount();
        let left: BTreeSet<_> = fs::read_dir(mounted.lower())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(left, BTreeSet::from([".claviger".into(), ".claviger.dir".into()]));
    }
}

isolated_test! {
    fn names_of_255_bytes_work_and_longer_ones_are_refused() {
        let mut mounted = Mounted::new();
        assert_eq!(statvfs(mounted.root()).unwrap().name_max(), 255);
        for len in [1, 175, 176, 254, 255] {
            fs::write(mounted.path("n".repeat(len)), len.to_string()).unwrap();
        }
        let refused = fs::write(mounted.path("n".repeat(256)), "").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENAMETOOLONG));
        mounted.remount();
        let names = fs::read_dir(mounted.root()).unwrap().map(|e| e.unwrap().file_name().len());
        assert_eq!(names.collect::<BTreeSet<_>>(), BTreeSet::from([1, 175, 176, 254, 255]));
        assert_eq!(fs::read_to_string(mounted.path("n".repeat(255))).unwrap(), "255");
    }
}

isolated_test! {
    fn a_lower_path_may_be_much_longer_than_path_max() {
        let mut mounted = Mounted::new();
        const DEPTH: usize = 600; // More than the descriptors that are kept, and 120,000 bytes below.
        let name = "d".repeat(100);
        let mut at: OwnedFd = File::open(mounted.root()).unwrap().into();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        for _ in 0..DEPTH {
            mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
            at = openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
        }
        let create = OFlag::O_WRONLY | OFlag::O_CREAT;
        let file = openat(&at, "file", create, Mode::S_IRWXU).unwrap();
        File::from(file).write_all(b"deep").unwrap();
        drop(at);
        mounted.remount();
        let mut at: OwnedFd = File::open(mounted.root()).unwrap().into();
        for _ in 0..DEPTH {
            at = openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
        }
        let file = openat(&at, "file", OFlag::O_RDONLY, Mode::empty()).unwrap();
        assert_eq!(std::io::read_to_string(File::from(file)).unwrap(), "deep");
    }
}

isolated_test! {
    fn a_large_directory_is_listed_whole_while_it_is_emptied() {
        let mounted = Mounted::new();
        const FILES: usize = 3000;
        for n in 0..FILES {
            fs::write(mounted.path(format!("file {n}")), "").unwrap();
        }
        let mut listed = BTreeSet::new();
        for entry in fs::read_dir(mounted.root()).unwrap() {
            let name = entry.unwrap().file_name();
            fs::remove_file(mounted.path(&name)).unwrap();
            assert!(listed.insert(name.clone()), "{name:?} was listed twice");
        }
        assert_eq!(listed.len(), FILES);
        assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 0);
    }
}

isolated_test! {
    fn what_is_renamed_to_and_fro_is_reachable_all_the_while() {
        let mut mounted = Mounted::new();
        for dir in ["one", "two", "one/moved"] {
            fs::create_dir(mounted.path(dir)).unwrap();
        }
        fs::write(mounted.path("one/moved/file"), "here").unwrap();
        for sync in ["never synced", "synced"] {
            if sync == "synced" {
                // Nothing is at hand any more: looks walk down from the root.
                mounted.remount();
            }
            let moved: OwnedFd = File::open(mounted.path("one/moved")).unwrap().into();
            let (from, to) = (mounted.path("one/moved"), mounted.path("two/moved"));
            let ended = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..100 {
                        fs::rename(&from, &to).unwrap();
                        fs::rename(&to, &from).unwrap();
                    }
                    ended.store(true, std::sync::atomic::Ordering::SeqCst);
                });
                let mut looks = 0;
                while !ended.load(std::sync::atomic::Ordering::SeqCst) || looks < 10 {
                    let name = format!("new {sync} {looks}");
                    let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
                    let new = openat(&moved, name.as_str(), flags, Mode::S_IRWXU).unwrap();
                    File::from(new).write_all(b"x").unwrap();
                    let file = openat(&moved, "file", OFlag::O_RDONLY, Mode::empty()).unwrap();
                    assert_eq!(std::io::read_to_string(File::from(file)).unwrap(), "here");
                    looks += 1;
                }
            });
        }
    }
}

isolated_test! {
    fn a_foreign_lower_file_is_hidden_and_keeps_its_directory() {
        let mounted = Mounted::new();
        fs::create_dir(mounted.path("dir")).unwrap();
        let lower = lower_dirs(&mounted).pop().expect("one directory");
        for foreign in ["README", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            fs::write(lower.join(foreign), "not ours").unwrap();
        }
        assert_eq!(fs::read_dir(mounted.path("dir")).unwrap().count(), 0);
        let refused = fs::remove_dir(mounted.path("dir")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTEMPTY));
        assert!(lower.join("README").exists());
    }
}

isolated_test! {
    fn files_exchanged_or_changed_below_are_refused() {
        let mut mounted = Mounted::new();
        fs::write(mounted.path("one"), "one").unwrap();
        fs::write(mounted.path("two"), "two").unwrap();
        mounted.unmount();
        let [one, two] = &mounted.lower_files()[..] else { panic!("two files were written") };
        let aside = mounted.lower().join("aside");
        exchange(one, two, &aside);
        mounted.remount();
        for name in ["one", "two"] {
            let refused = fs::read(mounted.path(name)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EIO));
            // Nor does a rename make it right.
            let refused = fs::rename(mounted.path(name), mounted.path("three")).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EIO));
        }
        mounted.unmount();
        exchange(one, two, &aside);
        let file = File::options().read(true).write(true).open(one).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4096).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 4096).unwrap();
        mounted.remount();
        let read = ["one", "two"].map(|name| fs::read(mounted.path(name)));
        let damaged = read.iter().filter_map(|read| read.as_ref().err());
        assert_eq!(damaged.map(|e| e.raw_os_error()).collect::<Vec<_>>(), [Some(libc::EIO)]);
    }
}

isolated_test! {
    fn directories_exchanged_below_are_refused() {
        let mut mounted = Mounted::new();
        for dir in ["a", "b"] {
            fs::create_dir(mounted.path(dir)).unwrap();
            fs::write(mounted.path(dir).join(dir), dir).unwrap();
        }
        mounted.unmount();
        let [one, two] = &lower_dirs(&mounted)[..] else { panic!("two directories were made") };
        exchange(one, two, &mounted.lower().join("aside"));
        mounted.remount();
        for dir in ["a", "b"] {
            let refused = fs::read_dir(mounted.path(dir)).map(drop).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EIO));
        }
    }
}

isolated_test! {
    fn a_symlink_linked_into_another_directory_is_a_symlink_of_its_own() {
        let mut mounted = Mounted::new();
        fs::create_dir(mounted.path("dir")).unwrap();
        symlink("target", mounted.path("link")).unwrap();
        fs::hard_link(mounted.path("link"), mounted.path("same")).unwrap();
        fs::hard_link(mounted.path("link"), mounted.path("dir/copy")).unwrap();
        mounted.remount();
        for name in ["link", "same", "dir/copy"] {
            assert_eq!(fs::read_link(mounted.path(name)).unwrap(), Path::new("target"));
        }
        let links = ["link", "same", "dir/copy"]
            .map(|name| fs::symlink_metadata(mounted.path(name)).unwrap().nlink());
        assert_eq!(links, [2, 2, 1]);
    }
}

isolated_test! {
    fn a_symlink_target_of_3043_bytes_works_and_a_longer_one_is_refused() {
        let mounted = Mounted::new();
        let target = "t".repeat(3043);
        symlink(&target, mounted.path("link")).unwrap();
        assert_eq!(fs::read_link(mounted.path("link")).unwrap(), Path::new(&target));
        assert_eq!(fs::symlink_metadata(mounted.path("link")).unwrap().len(), 3043);
        let refused = symlink(format!("{target}t"), mounted.path("longer")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENAMETOOLONG));
    }
}

/// Lower directories other than the root and `.claviger`.
fn lower_dirs(mounted: &Mounted) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(mounted.lower())
        .unwrap()
        .map(|entry| entry.unwrap());
    let dirs = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    dirs.filter(|dir| dir.file_name() != ".claviger")
        .map(|dir| dir.path())
        .collect()
}

fn exchange(one: &Path, two: &Path, aside: &Path) {
    fs::rename(one, aside).unwrap();
    fs::rename(two, one).unwrap();
    fs::rename(aside, two).unwrap();
}

pub(crate) fn set_attribute(path: &Path, name: &str, value: impl AsRef<[u8]>) {
    try_set_attribute(path, name, value).unwrap();
}

/// The same, where it may be refused.
#[allow(unsafe_code)] // libc has no safe form of it.
pub(crate) fn try_set_attribute(
    path: &Path,
    name: &str,
    value: impl AsRef<[u8]>,
) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    let value = value.as_ref();
    // SAFETY: both strings end in NUL; the value is read for its length only.
    let done = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
