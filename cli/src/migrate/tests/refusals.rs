//! What is refused, and what does not keep the rest from being copied.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{FlockOperation, flock};

use super::*;

/// Mounts an empty filesystem that only this thread sees.
fn mount_here(at: &Path, options: &str) {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).unwrap();
    mount(none, at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
}

#[test]
fn a_folder_with_something_in_it_is_not_written_to() {
    let scene = Scene::new();
    scene.write("file", "old");
    scene.write("other", "old");
    fs::write(scene.new_("file"), "mine").unwrap();
    let before = snapshot(&scene.new_(""));
    let stopped = scene.migrate().unwrap_err();
    assert!(
        matches!(&stopped, Stopped::NotEmpty(path) if path == Path::new("file")),
        "{stopped:?}"
    );
    assert_eq!(before, snapshot(&scene.new_("")));
}

#[test]
fn what_somebody_put_into_new_meanwhile_is_not_overwritten() {
    let scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.write(name, "old");
    }
    // Before anything was copied, then in the place of something that was.
    let _ = scene.migrate_watched(&Patience::of(1));
    for _ in 0..2 {
        let _ = fs::remove_file(scene.new_("b"));
        fs::write(scene.new_("b"), "mine, and longer").unwrap();
        // And the run after that knows no better.
        for _ in 0..2 {
            let stopped = scene.migrate().unwrap_err();
            assert!(
                matches!(&stopped, Stopped::Foreign(path) if path == Path::new("b")),
                "{stopped:?}"
            );
            assert_eq!(fs::read(scene.new_("b")).unwrap(), b"mine, and longer");
        }
        fs::remove_file(scene.new_("b")).unwrap();
        scene.copy_and_stop();
    }
    scene.is_kept();
}

#[test]
fn what_comes_into_new_between_the_look_and_the_rename_is_not_overwritten() {
    let scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.write(name, "old");
    }
    struct Rival<'a>(&'a Scene);
    impl Watch for Rival<'_> {
        fn begins(&self, _: Phase, _: Tally) {}
        fn done(&self, _: u64) {
            // The three wait to be put into their places together.
            fs::write(self.0.new_("b"), "mine").unwrap();
        }
        fn wants_to_stop(&self) -> bool {
            false
        }
    }
    for _ in 0..2 {
        let stopped = scene.migrate_watched(&Rival(&scene)).unwrap_err();
        assert!(
            matches!(&stopped, Stopped::Foreign(path) if path == Path::new("b")),
            "{stopped:?}"
        );
        assert_eq!(fs::read(scene.new_("b")).unwrap(), b"mine");
    }
    fs::remove_file(scene.new_("b")).unwrap();
    scene.is_kept();
}

#[test]
fn the_journal_of_another_migration_is_not_taken_for_this_ones() {
    let scene = Scene::new();
    scene.write("file", "x");
    let _ = scene.migrate_watched(&Patience::of(3));
    fs::rename(scene.old(""), scene.folder.path().join("older")).unwrap();
    scene.write("file", "y");
    let stopped = scene.migrate().unwrap_err();
    assert!(matches!(stopped, Stopped::OfAnother(_)), "{stopped:?}");
}

#[test]
fn two_migrations_do_not_run_into_one_folder() {
    let scene = Scene::new();
    scene.write("file", "x");
    scene.copy_and_stop();
    let journal = fs::File::open(scene.new_(staging::STAGING).join("journal")).unwrap();
    flock(&journal, FlockOperation::LockExclusive).unwrap();
    assert!(matches!(scene.migrate(), Err(Stopped::Running)));
    drop(journal);
    scene.is_kept();
}

#[test]
fn what_another_migration_has_not_completed_is_not_migrated() {
    let scene = Scene::new();
    scene.write("file", "x");
    fs::create_dir(scene.old(staging::STAGING)).unwrap();
    assert!(matches!(scene.migrate(), Err(Stopped::OldIsUnfinished)));
}

#[test]
fn an_empty_folder_is_rather_one_that_is_not_mounted() {
    let scene = Scene::new();
    assert!(matches!(scene.migrate(), Err(Stopped::OldIsEmpty)));
}

#[test]
fn a_filesystem_without_room_is_refused_with_numbers() {
    let scene = Scene::new();
    let small = scene.new_("small");
    fs::create_dir(&small).unwrap();
    mount_here(&small, "size=64k");
    scene.write("file", noise(100_000, 1));
    let old = Old {
        root: Folder::open(&scene.old("")).unwrap(),
        name: scene.old(""),
    };
    let root = Folder::open(&small).unwrap();
    let new = New { root, lower: None };
    let stopped = migrate(&old, &new, &Patience::endless());
    let Err(Stopped::NoRoom { needed, free }) = stopped else {
        panic!("{stopped:?}")
    };
    assert_eq!(needed, 100_000);
    assert!(free <= 65536, "{free}");
}

#[test]
fn another_filesystem_in_old_is_left_out_and_told() {
    let scene = Scene::new();
    scene.write("file", "x");
    let inner = scene.old("inner");
    fs::create_dir(&inner).unwrap();
    mount_here(&inner, "");
    fs::write(inner.join("elsewhere"), "x").unwrap();
    let summary = scene.migrate();
    umount2(&inner, MntFlags::MNT_DETACH).unwrap();
    let summary = summary.unwrap();
    assert_eq!(summary.verdict(), Verdict::Incomplete);
    assert_eq!(summary.left[0].path, Path::new("inner"));
    assert!(!scene.new_("inner").exists());
    // Unmounted it is a folder like others.
    scene.is_kept();
}

#[test]
fn a_disk_that_is_full_ends_a_migration_that_goes_on_when_there_is_room() {
    let scene = Scene::new();
    // More than the count can know of: each takes a page.
    for n in 0..400 {
        scene.write(&format!("{n}"), "x");
    }
    mount_here(&scene.new_(""), "size=1m");
    let stopped = scene.migrate().unwrap_err();
    let Stopped::New { errno, .. } = stopped else {
        panic!("{stopped:?}")
    };
    assert_eq!(errno, nix::errno::Errno::ENOSPC);
    let none: Option<&str> = None;
    let remount = MsFlags::MS_REMOUNT;
    mount(none, &scene.new_(""), none, remount, Some("size=10m")).unwrap();
    scene.is_kept();
}
