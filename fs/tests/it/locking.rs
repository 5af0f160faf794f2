//! Locked, waiting for a key, granted to one and not to another.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;

use claviger_hw_tests::wait_until;
use claviger_protocol::Failure;
use claviger_vault::ids::Scope;
use nix::sys::statvfs::statvfs;

use crate::keys::Manner;
use crate::mounted::Mounted;
use crate::namespaces::isolated_test;
use crate::owners::{as_user, try_as_user};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// A mount with one file that nobody has open.
fn with_file() -> Mounted {
    let mut mounted = Mounted::new();
    fs::write(mounted.path("file"), "content").unwrap();
    mounted.remount();
    mounted
}

fn answer_by(mounted: &Mounted, manner: Manner) {
    *mounted.keys.manner.lock().unwrap() = manner;
}

isolated_test! {
    fn a_locked_mount_tells_nothing_but_its_roots_attributes_and_its_room() {
        let mounted = with_file();
        let dir = File::open(mounted.root()).unwrap();
        mounted.keys.lock();
        assert!(fs::metadata(mounted.root()).unwrap().is_dir());
        assert!(statvfs(mounted.root()).unwrap().blocks() > 0);
        let refused = Some(libc::ENOKEY);
        assert_eq!(errno(fs::metadata(mounted.path("file"))), refused);
        assert_eq!(errno(fs::read_dir(mounted.root())), refused);
        assert_eq!(errno(fs::write(mounted.path("new"), "")), refused);
        assert_eq!(errno(fs::create_dir(mounted.path("new"))), refused);
        assert_eq!(errno(fs::remove_file(mounted.path("file"))), refused);
        drop(dir);
        mounted.keys.unlock();
        assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
    }
}

isolated_test! {
    fn of_a_file_that_was_only_read_nothing_is_lost_though_its_mode_was_changed_meanwhile() {
        let mounted = with_file();
        let file = File::open(mounted.path("file")).unwrap();
        fs::set_permissions(mounted.path("file"), Permissions::from_mode(0o640)).unwrap();
        drop(file);
        wait_until("it is closed", || mounted.fs.open_paths().is_empty());
        assert_eq!(mounted.fs.sync_all(), Vec::<Vec<u8>>::new());
    }
}

isolated_test! {
    fn an_open_waits_for_its_key_while_everything_else_is_served() {
        let mounted = with_file();
        answer_by(&mounted, Manner::Held);
        let path = mounted.path("file");
        // More waiters than there are event loops.
        let openers: Vec<_> = (0..6)
            .map(|_| {
                let path = path.clone();
                thread::spawn(move || fs::read_to_string(path).unwrap())
            })
            .collect();
        wait_until("all of them wait", || mounted.fs.park().callers().len() == 6);
        assert_eq!(fs::metadata(&path).unwrap().len(), 7);
        fs::write(mounted.path("another"), "x").unwrap();
        assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 2);
        // One unwrap for all six.
        assert_eq!(mounted.keys.held(), 1);
        mounted.keys.answer_one();
        for opener in openers {
            assert_eq!(opener.join().unwrap(), "content");
        }
    }
}

isolated_test! {
    fn a_caller_who_is_interrupted_gets_eintr_and_the_others_go_on() {
        let mounted = with_file();
        answer_by(&mounted, Manner::Held);
        // Not by std, which opens again after EINTR.
        let open = || {
            let path = mounted.path("file");
            let flags = nix::fcntl::OFlag::O_RDONLY;
            let mode = nix::sys::stat::Mode::empty();
            thread::spawn(move || nix::fcntl::open(&path, flags, mode).err())
        };
        let openers = [open(), open()];
        wait_until("both wait", || mounted.fs.park().callers().len() == 2);
        let first = mounted.fs.park().callers()[0];
        assert_eq!(mounted.fs.park().interrupt(first.id), None);
        mounted.keys.answer_one();
        let mut ended = openers.map(|opener| opener.join().unwrap());
        ended.sort_by_key(|errno| errno.is_some());
        assert_eq!(ended, [None, Some(nix::errno::Errno::EINTR)]);
    }
}

isolated_test! {
    fn a_truncation_by_path_waits_like_an_open() {
        let mounted = with_file();
        answer_by(&mounted, Manner::Held);
        let path = mounted.path("file");
        let truncate = thread::spawn(move || nix::unistd::truncate(&path, 4).unwrap());
        wait_until("it waits", || mounted.keys.held() == 1);
        mounted.keys.answer_one();
        truncate.join().unwrap();
        assert_eq!(fs::metadata(mounted.path("file")).unwrap().len(), 4);
        answer_by(&mounted, Manner::AtOnce);
        assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "cont");
    }
}

isolated_test! {
    fn every_failure_to_unwrap_has_the_errno_of_the_table() {
        let mounted = with_file();
        let text = || "text".to_owned();
        let failures = [
            Failure::Internal(text()),
            Failure::Usage(text()),
            Failure::NotFound(text()),
            Failure::NotARecipient(text()),
            Failure::TokenAbsent { token: text() },
            Failure::PinWrong { token: text(), tries_left: Some(2) },
            Failure::PinBlocked { token: text() },
            Failure::NobodyToAsk { what: text() },
            Failure::Declined,
            Failure::TimedOut { what: text() },
            Failure::Locked,
            Failure::NoDaemon { uid: 0 },
            Failure::BadMountpoint(text()),
            Failure::Permission(text()),
            Failure::Integrity(text()),
            Failure::Identity(text()),
            Failure::Policy(text()),
            Failure::TpmLockout(text()),
            Failure::Unsupported(text()),
            Failure::Busy(text()),
            Failure::Module { module: text(), what: text() },
        ];
        // Cancelled alone is missing: it is EINTR, after which std opens again.
        for failure in failures {
            answer_by(&mounted, Manner::Refused(failure.clone()));
            assert_eq!(errno(fs::read(mounted.path("file"))), Some(failure.errno()), "{failure}");
        }
        answer_by(&mounted, Manner::AtOnce);
        assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
    }
}

isolated_test! {
    fn a_file_open_for_one_user_is_asked_for_again_by_another() {
        let mounted = with_file();
        let file = File::open(mounted.path("file")).unwrap();
        let asked = || mounted.keys.unwraps.load(Ordering::SeqCst);
        assert_eq!(asked(), 1);
        // The same user has been granted it.
        fs::read(mounted.path("file")).unwrap();
        assert_eq!(asked(), 1);
        answer_by(&mounted, Manner::Refused(Failure::NoDaemon { uid: 1234 }));
        let refused = try_as_user(1234, 1234, &[], "cat $1", &mounted.path("file"));
        assert!(!refused.status.success());
        assert_eq!(asked(), 2);
        answer_by(&mounted, Manner::AtOnce);
        assert_eq!(as_user(1234, 1234, &[], "cat $1", &mounted.path("file")), "content");
        drop(file);
    }
}

isolated_test! {
    fn in_file_scope_every_open_of_a_closed_file_asks_for_its_key() {
        let mut mounted = Mounted::of_scope(Scope::File);
        let sizes = [0, 1, 5000, 300_000];
        for size in sizes {
            fs::write(mounted.path(size.to_string()), vec![9; size]).unwrap();
        }
        mounted.remount();
        let asked = || mounted.keys.unwraps.load(Ordering::SeqCst);
        for (at, size) in sizes.iter().enumerate() {
            let path = mounted.path(size.to_string());
            // Two header pages: stat of a closed file counts both.
            assert_eq!(fs::metadata(&path).unwrap().len(), *size as u64);
            assert_eq!(asked(), 2 * at);
            assert!(fs::read(&path).unwrap() == vec![9; *size]);
            // The kernel tells of a close later: what still is open is not asked for again.
            wait_until("it is closed", || mounted.fs.open_paths().is_empty());
            fs::read(&path).unwrap();
            assert_eq!(asked(), 2 * at + 2);
            wait_until("it is closed", || mounted.fs.open_paths().is_empty());
        }
    }
}

isolated_test! {
    fn a_user_who_locks_loses_his_open_files_and_nobody_elses() {
        let mounted = with_file();
        let file = OpenOptions::new().read(true).write(true).open(mounted.path("file")).unwrap();
        mounted.fs.drop_grants(1234);
        file.write_all_at(b"C", 0).unwrap();
        mounted.fs.drop_grants(0);
        assert_eq!(errno(file.write_all_at(b"K", 0)), Some(libc::ENOKEY));
        drop(file);
        assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "Content");
    }
}

isolated_test! {
    fn a_lock_answers_who_waits_and_kills_what_is_open_and_unlocking_brings_all_back() {
        let mounted = with_file();
        fs::write(mounted.path("waited for"), "later").unwrap();
        let open = OpenOptions::new().read(true).write(true).open(mounted.path("file")).unwrap();
        open.write_all_at(b"written before", 0).unwrap();
        answer_by(&mounted, Manner::Held);
        let path = mounted.path("waited for");
        let waiting = thread::spawn(move || errno(File::open(path)));
        wait_until("it waits", || mounted.keys.held() == 1);

        mounted.fs.refuse_opens();
        mounted.fs.fail_parked(&Failure::Locked);
        assert_eq!(waiting.join().unwrap(), Some(libc::ENOKEY));
        assert_eq!(mounted.keys.held(), 0, "its unwrap was called back");
        assert_eq!(mounted.fs.sync_all(), Vec::<Vec<u8>>::new());
        mounted.keys.lock();
        mounted.fs.wipe();
        assert_eq!(errno(open.write_all_at(b"x", 0)), Some(libc::ENOKEY));
        assert_eq!(errno(open.sync_all()), Some(libc::ENOKEY));

        mounted.keys.unlock();
        mounted.fs.accept_opens();
        answer_by(&mounted, Manner::AtOnce);
        assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "written before");
        // The old handle was opened before the lock, and stays dead.
        assert_eq!(errno(open.write_all_at(b"x", 0)), Some(libc::ENOKEY));
    }
}

isolated_test! {
    fn what_was_synced_is_below_when_the_filesystem_is_killed() {
        let mut mounted = Mounted::new();
        fs::create_dir(mounted.path("dir")).unwrap();
        let file = File::create(mounted.path("dir/file")).unwrap();
        file.write_all_at(&[3; 100_000], 0).unwrap();
        file.sync_all().unwrap();
        File::open(mounted.path("dir")).unwrap().sync_all().unwrap();
        // The lower folder as it is now, as after `kill -9`: nothing more is written.
        let copied = std::process::Command::new("cp")
            .args(["-a", "/mnt/lower", "/mnt/copy"])
            .status();
        assert!(copied.unwrap().success());
        drop(file);
        mounted.unmount();
        fs::remove_dir_all("/mnt/lower").unwrap();
        fs::rename("/mnt/copy", "/mnt/lower").unwrap();
        mounted.remount();
        assert!(fs::read(Path::new("/mnt/upper/dir/file")).unwrap() == vec![3; 100_000]);
    }
}
