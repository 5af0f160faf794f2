//! What is left of a volume when its filesystem is killed or the power is cut.

mod disk;
// What only mounted tests use of it is not used here.
#[allow(dead_code)]
#[path = "../../tests/it/keys.rs"]
mod keys;
mod volume;

use fuser::RenameFlags;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::inode::ROOT;
use crate::lower::{rename, stat_at};
use crate::namespaces::isolated_test;
use volume::Volume;

isolated_test! {
    fn an_old_directory_that_nobody_synced_is_renamed_and_survives_a_power_cut() {
        let volume = Volume::new();
        let dir = volume.make_dir("old");
        let (_, handle) = volume.write(dir, "file");
        volume.fs.release(handle);
        volume.grows_old(&[dir]);
        volume.rename("old", "new", RenameFlags::empty());
        let volume = volume.without_power();
        let dir = volume.find(ROOT, "new").unwrap();
        volume.find(dir, "file").unwrap();
    }
}

isolated_test! {
    fn what_our_own_sync_wrote_out_is_renamed_and_survives_a_power_cut() {
        let volume = Volume::new();
        let dir = volume.make_dir("dir.part");
        volume.write(dir, "file");
        volume.write(ROOT, "file.part");
        let (_, another) = volume.write(ROOT, "another");
        volume.fs.release(another);
        volume.fs.linger.settle_all();
        volume.rename("dir.part", "dir", RenameFlags::empty());
        volume.rename("file.part", "file", RenameFlags::empty());
        let volume = volume.without_power();
        let dir = volume.find(ROOT, "dir").unwrap();
        volume.find(dir, "file").unwrap();
        let file = volume.find(ROOT, "file").unwrap();
        volume.open(file).unwrap();
    }
}

isolated_test! {
    fn a_new_directory_whose_rename_is_cut_short_by_a_kill_opens_at_either_place() {
        let mut volume = Volume::new();
        let dir = volume.make_dir("old");
        volume.write(dir, "file");
        let [old, new] = [b"old", b"new"].map(|name| volume.fs.spot(ROOT, name).unwrap());
        let stat = stat_at(&old.dir, old.name.as_bytes()).unwrap().unwrap();
        volume.fs.announce(&old, &new, &stat).unwrap();
        volume = volume.killed();
        let found = volume.find(ROOT, "old").unwrap();
        volume.find(found, "file").unwrap();
        let places = [&old, &new].map(|spot| (&*spot.dir, spot.name.as_bytes()));
        rename(places[0], places[1], nix::fcntl::RenameFlags::empty()).unwrap();
        volume = volume.killed();
        let found = volume.find(ROOT, "new").unwrap();
        volume.find(found, "file").unwrap();
    }
}

isolated_test! {
    fn a_long_name_that_something_durable_was_given_is_known_after_a_power_cut() {
        let volume = Volume::new();
        let [renamed, linked, exchanged] = ["r", "l", "x"].map(|name| name.repeat(255));
        let [_, other, _] = ["file", "other", "third"].map(|name| volume.write_durably(name));
        volume.write(ROOT, &exchanged);
        // No fsync from here on: it would sync every long name there is.
        volume.rename("file", &renamed, RenameFlags::empty());
        volume.fs.link(other, ROOT, linked.as_bytes()).unwrap();
        volume.rename("third", &exchanged, RenameFlags::RENAME_EXCHANGE);
        let volume = volume.without_power();
        assert!(volume.lists(&renamed), "renamed");
        assert!(volume.lists(&linked), "linked");
        assert!(volume.lists(&exchanged), "exchanged");
    }
}

isolated_test! {
    fn an_fsync_after_one_that_failed_syncs_the_directories_above() {
        let volume = Volume::new();
        let dir = volume.make_dir("dir");
        let (_, handle) = volume.write(dir, "file");
        volume.fs.dirs.clear();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // Those that are open stay open.
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        let failed = volume.fs.fsync(handle).unwrap_err();
        assert_eq!(failed.errno(), Errno::EMFILE as i32);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        volume.fs.fsync(handle).unwrap();
        let volume = volume.without_power();
        let dir = volume.find(ROOT, "dir").unwrap();
        let file = volume.find(dir, "file").unwrap();
        volume.open(file).unwrap();
    }
}

isolated_test! {
    fn what_is_durable_is_found_after_a_power_cut_in_the_new_directory_that_it_was_put_into() {
        let volume = Volume::new();
        let old = volume.make_dir("old");
        let [_, linked, _] = ["renamed", "linked", "exchanged"].map(|name| volume.write_durably(name));
        volume.grows_old(&[old]);
        // No fsync from here on.
        let [files, links, exchange, dirs] =
            ["files", "links", "exchange", "dirs"].map(|name| volume.make_dir(name));
        let put = |name: &str, to, flags| {
            let (from, to) = ((ROOT, name.as_bytes()), (to, name.as_bytes()));
            volume.fs.rename(from, to, flags).unwrap();
        };
        put("renamed", files, RenameFlags::empty());
        volume.fs.link(linked, links, b"linked").unwrap();
        volume.fs.unlink(ROOT, b"linked").unwrap();
        volume.write(exchange, "exchanged");
        put("exchanged", exchange, RenameFlags::RENAME_EXCHANGE);
        put("old", dirs, RenameFlags::empty());
        let volume = volume.without_power();
        for (dir, name) in [("files", "renamed"), ("links", "linked"), ("exchange", "exchanged")] {
            let dir = volume.find(ROOT, dir).unwrap();
            let file = volume.find(dir, name).unwrap();
            volume.open(file).unwrap();
        }
        let dirs = volume.find(ROOT, "dirs").unwrap();
        let old = volume.find(dirs, "old").unwrap();
        volume.fs.opendir(old).unwrap();
    }
}

isolated_test! {
    fn a_file_that_was_synced_is_found_after_a_power_cut_by_each_of_its_names() {
        let volume = Volume::new();
        let (file, handle) = volume.write(ROOT, "file");
        let dir = volume.make_dir("dir");
        volume.fs.link(file, dir, b"link").unwrap();
        volume.fs.fsync(handle).unwrap();
        volume.fs.unlink(ROOT, b"file").unwrap();
        let volume = volume.without_power();
        let dir = volume.find(ROOT, "dir").unwrap();
        let file = volume.find(dir, "link").unwrap();
        volume.open(file).unwrap();
    }
}
