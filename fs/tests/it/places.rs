//! What somebody puts elsewhere in the lower folder of a mounted volume, under the number that it has.

use std::fs::{self, File, hard_link};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirEntryExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use claviger_hw_tests::wait_until;
use claviger_vault::ids::Scope;

use crate::mounted::Mounted;
use crate::namespaces::isolated_test;

/// The lower path of what is at `name`.
fn below(mounted: &Mounted, name: &str) -> PathBuf {
    let number = fs::symlink_metadata(mounted.path(name)).unwrap().ino();
    let mut folders = vec![mounted.lower().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if fs::symlink_metadata(entry.path()).unwrap().ino() == number {
                return entry.path();
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    panic!("{name} is nowhere below");
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    let error = result.map(drop).expect_err("it is refused");
    error.raw_os_error().expect("it comes from the kernel")
}

/// Waits until everything is closed for good, and nothing of it is in memory.
fn settle(mounted: &Mounted) {
    wait_until("everything is closed", || {
        mounted.fs.open_paths().is_empty()
    });
    mounted.fs.sync_all();
}

/// A volume with some things in it, and where they are below. The kernel knows nothing of them any more.
fn volume(names: &[&str]) -> (Mounted, Vec<PathBuf>) {
    let mut mounted = Mounted::new();
    for dir in ["dir", "other"] {
        fs::create_dir(mounted.path(dir)).unwrap();
    }
    for name in names {
        fs::write(mounted.path(name), format!("content of {name}")).unwrap();
    }
    let lower = names.iter().map(|name| below(&mounted, name)).collect();
    mounted.remount();
    (mounted, lower)
}

isolated_test! {
    fn a_link_made_below_puts_no_file_in_the_place_of_another() {
        let first: [fn(&Mounted); 4] = [
            |_| (),
            |mounted| drop(fs::read(mounted.path("kept")).unwrap()),
            |mounted| assert!(mounted.path("kept").exists()),
            // All of the directory at once.
            |mounted| fs::read_dir(mounted.root()).unwrap().for_each(|entry| drop(entry.unwrap().metadata())),
        ];
        for look in first {
            for held in [false, true] {
                let (mounted, lower) = volume(&["kept", "victim", "dir/victim"]);
                let open = held.then(|| File::open(mounted.path("kept")).unwrap());
                look(&mounted);
                for victim in ["victim", "dir/victim"] {
                    let place = &lower[if victim == "victim" { 1 } else { 2 }];
                    fs::remove_file(place).unwrap();
                    hard_link(&lower[0], place).unwrap();
                    // The kernel is told to forget the file that is gone.
                    let _ = fs::symlink_metadata(mounted.path(victim));
                    let _ = fs::read(mounted.path(victim));
                    assert_eq!(errno(fs::read(mounted.path(victim))), libc::EIO, "{victim}");
                }
                assert_eq!(fs::read(mounted.path("kept")).unwrap(), b"content of kept");
                drop(open);
                drop(mounted);
                fs::remove_dir_all("/mnt/lower").unwrap();
            }
        }
    }
}

isolated_test! {
    fn a_file_that_is_moved_below_is_refused_although_it_is_open() {
        let (mounted, lower) = volume(&["kept", "victim"]);
        let mut open = File::open(mounted.path("kept")).unwrap();
        fs::rename(&lower[0], &lower[1]).unwrap();
        assert_eq!(errno(fs::read(mounted.path("victim"))), libc::EIO);
        let mut content = String::new();
        open.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content of kept");
        drop(open);
        assert_eq!(errno(fs::read(mounted.path("victim"))), libc::EIO);
        fs::rename(&lower[1], &lower[0]).unwrap();
        assert_eq!(fs::read(mounted.path("kept")).unwrap(), b"content of kept");
        assert_eq!(errno(fs::read(mounted.path("victim"))), libc::ENOENT);
    }
}

isolated_test! {
    fn a_file_that_comes_back_to_its_place_is_not_also_at_the_wrong_one() {
        let (mounted, lower) = volume(&["kept", "victim"]);
        fs::rename(&lower[0], &lower[1]).unwrap();
        // Nothing vouches for attributes.
        fs::metadata(mounted.path("victim")).unwrap();
        fs::rename(&lower[1], &lower[0]).unwrap();
        assert_eq!(fs::read(mounted.path("kept")).unwrap(), b"content of kept");
        assert!(fs::read(mounted.path("victim")).is_err());
        assert_eq!(fs::read(mounted.path("kept")).unwrap(), b"content of kept");
    }
}

isolated_test! {
    fn a_directory_that_is_moved_below_is_refused_although_it_is_in_use() {
        let (mounted, _) = volume(&["dir/file"]);
        let [dir, other] = ["dir", "other"].map(|name| below(&mounted, name));
        fs::read(mounted.path("dir/file")).unwrap();
        fs::remove_dir_all(&other).unwrap();
        fs::rename(&dir, &other).unwrap();
        assert!(fs::read(mounted.path("other/file")).is_err());
        assert!(fs::read_dir(mounted.path("other")).is_err());
        fs::rename(&other, &dir).unwrap();
        assert_eq!(fs::read(mounted.path("dir/file")).unwrap(), b"content of dir/file");
    }
}

isolated_test! {
    fn a_link_made_below_brings_no_symlink_to_another_directory() {
        let (mounted, _) = volume(&[]);
        symlink("one", mounted.path("dir/link")).unwrap();
        symlink("two", mounted.path("other/link")).unwrap();
        let [one, two] = ["dir/link", "other/link"].map(|name| below(&mounted, name));
        assert_eq!(fs::read_link(mounted.path("dir/link")).unwrap(), Path::new("one"));
        fs::remove_file(&two).unwrap();
        hard_link(&one, &two).unwrap();
        let _ = fs::read_link(mounted.path("other/link"));
        assert!(fs::read_link(mounted.path("other/link")).is_err());
        assert_eq!(fs::read_link(mounted.path("dir/link")).unwrap(), Path::new("one"));
    }
}

isolated_test! {
    /// What has several names above is bound to none of them, and stays so.
    fn files_with_several_names_are_found_by_each_of_them() {
        let (mut mounted, _) = volume(&["file"]);
        fs::hard_link(mounted.path("file"), mounted.path("dir/link")).unwrap();
        fs::hard_link(mounted.path("file"), mounted.path("link")).unwrap();
        symlink("target", mounted.path("symlink")).unwrap();
        fs::hard_link(mounted.path("symlink"), mounted.path("symlink 2")).unwrap();
        for _ in 0..2 {
            for name in ["dir/link", "file", "link"] {
                assert_eq!(fs::read(mounted.path(name)).unwrap(), b"content of file");
                assert_eq!(fs::metadata(mounted.path(name)).unwrap().nlink(), 3);
            }
            for name in ["symlink", "symlink 2"] {
                assert_eq!(fs::read_link(mounted.path(name)).unwrap(), Path::new("target"));
            }
            mounted.remount();
        }
        fs::remove_file(mounted.path("file")).unwrap();
        fs::remove_file(mounted.path("link")).unwrap();
        assert_eq!(fs::read(mounted.path("dir/link")).unwrap(), b"content of file");
        fs::rename(mounted.path("dir/link"), mounted.path("file")).unwrap();
        assert_eq!(fs::read(mounted.path("file")).unwrap(), b"content of file");
    }
}

isolated_test! {
    fn a_number_that_is_used_again_below_is_not_taken_for_what_had_it() {
        let disk = tempfile::tempdir().unwrap();
        let mounted = Mounted::over(&disk.path().join("lower"), Scope::Volume);
        let number = |name: &str| fs::metadata(below(&mounted, name)).unwrap().ino();
        fs::write(mounted.path("old"), "old").unwrap();
        let had = number("old");
        // The kernel goes on knowing it.
        let held = File::options().read(true).custom_flags(libc::O_PATH).open(mounted.path("old")).unwrap();
        fs::remove_file(mounted.path("old")).unwrap();
        let reused = (0..1000).map(|name| name.to_string()).find(|name| {
            fs::write(mounted.path(name), "new").unwrap();
            settle(&mounted);
            fs::read_dir(mounted.lower()).unwrap().any(|entry| entry.unwrap().metadata().unwrap().ino() == had)
        });
        let reused = reused.expect("ext4 uses numbers again");
        let by_number = format!("/proc/self/fd/{}", held.as_raw_fd());
        for open in [File::options().read(true), File::options().append(true)] {
            assert_eq!(errno(open.open(&by_number)), libc::ESTALE);
        }
        assert_eq!(held.metadata().map(drop).unwrap_err().raw_os_error(), Some(libc::ESTALE));
        assert_eq!(fs::read(mounted.path(&reused)).unwrap(), b"new");
        // By the number that it is told to have.
        let told = fs::metadata(mounted.path(&reused)).unwrap().ino();
        let listed = fs::read_dir(mounted.root()).unwrap().map(|entry| entry.unwrap());
        assert!(listed.into_iter().any(|entry| entry.file_name() == *reused && entry.ino() == told));
    }
}
