//! The same promises on this kernel, and on one that can do no more than the oldest that is supported.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use crate::mounted::{Age, Mounted};
use crate::namespaces::isolated_test;
use crate::owners::as_user;

isolated_test! {
    fn names_the_kernel_knew_are_refused_after_a_lock() {
        after_a_lock_names_are_refused(Age::Present);
    }
}

isolated_test! {
    fn names_the_oldest_kernel_knew_are_refused_after_a_lock() {
        after_a_lock_names_are_refused(Age::Linux5_10);
    }
}

fn after_a_lock_names_are_refused(age: Age) {
    let mounted = Mounted::of_age(age);
    let long = "long".repeat(60);
    let names = [
        "file",
        "dir",
        "dir/file",
        "dir/dir",
        "dir/dir/file",
        "link",
        &long,
    ];
    for dir in ["dir", "dir/dir"] {
        fs::create_dir(mounted.path(dir)).unwrap();
    }
    for file in ["file", "dir/file", "dir/dir/file", &long] {
        fs::write(mounted.path(file), "content").unwrap();
    }
    symlink("dir/file", mounted.path("link")).unwrap();
    let looked_up = |name: &&str| fs::symlink_metadata(mounted.path(name)).map(|stat| stat.ino());
    let before: Vec<u64> = names.iter().map(|name| looked_up(name).unwrap()).collect();

    mounted.fs.refuse_opens();
    let known = mounted.fs.known_names();
    mounted.keys.lock();
    mounted.fs.wipe();
    // What the kernel remembers it does not ask for: without this the names would go on answering.
    assert!(names.iter().all(|name| looked_up(name).is_ok()));
    mounted.kernel().forget_names(&known).unwrap();

    let refused = |result: io::Result<u64>| result.unwrap_err().raw_os_error();
    for name in &names {
        assert_eq!(refused(looked_up(name)), Some(libc::ENOKEY), "{name}");
    }
    mounted.keys.unlock();
    mounted.fs.accept_opens();
    let after: Vec<u64> = names.iter().map(|name| looked_up(name).unwrap()).collect();
    assert_eq!(before, after);
}

isolated_test! {
    fn set_user_id_ends_when_somebody_changes_content() {
        suid_ends_with_a_change(Age::Present);
    }
}

isolated_test! {
    fn set_user_id_ends_when_somebody_changes_content_on_the_oldest_kernel() {
        suid_ends_with_a_change(Age::Linux5_10);
    }
}

fn suid_ends_with_a_change(age: Age) {
    let mounted = Mounted::of_age(age);
    let path = mounted.path("program");
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    fs::write(&path, vec![1; 5000]).unwrap();
    let by_others = [
        "printf x | dd of=$1 conv=notrunc status=none",
        "truncate --size=100 $1",
        ": >$1",
        "fallocate --length 9000 $1",
    ];
    for script in by_others {
        fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
        as_user(1234, 1234, &[], script, &path);
        assert_eq!(mode(), 0o777, "{script}");
    }
    // Root may, and keeps them.
    fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    assert_eq!(mode(), 0o6777);
}
