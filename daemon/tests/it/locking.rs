//! After a lock nothing is left.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use claviger_pki::seed::RecoveryKey;
use claviger_pki::wrap::{Context, Identity, Purpose, Wrapped};
use claviger_protocol::control::{
    Command, LockTarget, Locked, NewRecipient, Recovery, Reply, UnlockWith,
};
use claviger_protocol::keys::{KeyEvent, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::Scope;
use claviger_vault::manifest;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::harness::{Cli, Daemon, PIN, user_test};

/// The volume's current epoch key, by its recovery key and its manifest alone.
fn epoch_key(dir: &Path, recovery: &Secret) -> Vec<u8> {
    let lower = fs::File::open(dir).unwrap();
    let manifest = manifest::load(&lower).unwrap().manifest;
    let claims = manifest.claims();
    let text = std::str::from_utf8(recovery.expose()).unwrap();
    let key = RecoveryKey::parse(text).unwrap().derive();
    let key_id = manifest::KeyId(key.public_key().key_id().0);
    let wrap = &claims.recipient(key_id).unwrap().wrap;
    let wrapped = Wrapped::parse(wrap.algorithm, &wrap.body, key.public_key()).unwrap();
    let context = Context {
        volume: claims.volume().0,
        epoch: claims.epoch().0,
        purpose: Purpose::EpochKey,
        file: None,
    };
    key.unwrap(&wrapped, &context).unwrap().to_vec()
}

user_test! {
    fn after_a_lock_neither_the_daemon_nor_a_module_has_a_key_or_pin_in_memory(user) {
        let (daemon, card) = user.with_card();
        let (dir, volume, recovery) =
            user.cli().init("Private", Scope::Volume, &[&card], Recovery::Make);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        let fek = mount.fresh().fek;
        mount.unwrap(&mount.fresh().header).unwrap();
        let reply = mount.ask(&KeyRequest::Names { volume, lower_root: Vec::new() });
        let KeyReply::Names { keys, .. } = reply else { panic!("{reply:?}") };
        drop(mount);

        let epoch_key = epoch_key(&dir, &recovery.unwrap());
        let planted = [
            ("the PIN", PIN.as_bytes()),
            ("the epoch key", &epoch_key),
            ("a FEK", fek.expose()),
            ("a names key", keys[0].1.expose()),
        ];
        let modules = daemon.children();
        assert!(!modules.is_empty());
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        user.as_root(|| {
            for pid in modules.into_iter().chain([daemon.pid()]) {
                let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
                for (what, secret) in planted {
                    let found = Daemon::find_in_memory(pid, secret);
                    assert!(found.is_none(), "{what} is in the memory of {program}: {found:?}");
                }
            }
            // That the search finds what is there: the daemon knows its user's home.
            let home = user.home.to_str().unwrap().as_bytes();
            assert!(Daemon::find_in_memory(daemon.pid(), home).is_some());
        });
    }
}

user_test! {
    fn a_lock_waits_for_the_mount_to_say_that_it_has_dropped_its_keys(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        let header = mount.fresh().header;
        let said_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let locked = scope.spawn(|| {
                let reply = user.cli().run(Command::Lock(LockTarget::Volume(dir.clone())));
                assert!(said_done.load(Ordering::SeqCst), "it did not wait");
                reply
            });
            mount.wait_event(KeyEvent::Lock { volume });
            // The keys are gone before the mount has done anything.
            assert_eq!(mount.unwrap(&header).unwrap_err(), Failure::Locked);
            said_done.store(true, Ordering::SeqCst);
            let lost = vec![b"half-written".to_vec()];
            mount.ask(&KeyRequest::Acknowledge { event: KeyEvent::Lock { volume }, lost });
            let Reply::Locked(Locked { folders, lost, .. }) = locked.join().unwrap().unwrap() else { panic!() };
            assert_eq!((folders, lost), (vec![dir.to_string_lossy().into_owned()], vec!["half-written".to_owned()]));
        });
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        mount.wait_event(KeyEvent::Unlocked { volume });
        mount.unwrap(&header).unwrap();
    }
}

user_test! {
    fn nothing_is_unlocked_while_the_daemon_ends(user) {
        let mut daemon = user.start();
        let key = user.software_key();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        thread::scope(|scope| {
            let stopped = scope.spawn(|| user.cli().stop());
            mount.wait_event(KeyEvent::Lock { volume });
            let refused = user.cli().unlock(&dir, UnlockWith::AnyKey);
            assert!(matches!(refused, Err(Failure::Busy(_))), "{refused:?}");
            // It goes, and is waited for no longer.
            drop(mount);
            let (told, result) = stopped.join().unwrap();
            assert!(told.is_empty() && result.is_ok(), "{told:?} {result:?}");
        });
        assert!(daemon.child.wait().unwrap().success());
    }
}

user_test! {
    fn a_mount_that_does_not_say_that_it_is_locked_is_named_by_the_end_of_the_daemon(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let _silent = user.mount(volume);
        let (told, result) = user.cli().stop();
        assert!(matches!(result, Err(Failure::Internal(_))), "{result:?}");
        assert!(told[0].contains("/mnt did not say that it is locked"), "{told:?}");
    }
}

user_test! {
    fn a_volume_is_locked_by_its_mount_point_too(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        thread::scope(|scope| {
            let lock = || user.cli().run(Command::Lock(LockTarget::Volume("/mnt".into())));
            let locked = scope.spawn(lock);
            mount.wait_event(KeyEvent::Lock { volume });
            let event = KeyEvent::Lock { volume };
            mount.ask(&KeyRequest::Acknowledge { event, lost: Vec::new() });
            let Reply::Locked(Locked { folders, .. }) = locked.join().unwrap().unwrap() else { panic!() };
            assert_eq!(folders, [dir.to_string_lossy()]);
        });
    }
}

user_test! {
    fn status_tells_what_is_open_by_which_key_and_where_it_is_mounted(user) {
        let daemon = user.start();
        let key = user.software_key();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        let status = || match user.cli().run(Command::Status).unwrap() {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        };
        let mount = user.mount(volume);
        let locked = status();
        assert_eq!(locked.daemon_pid, daemon.pid());
        assert_eq!(locked.auth_toks, "keyring");
        assert!(!locked.volumes[0].unlocked);
        assert_eq!(locked.volumes[0].mounts[0].mountpoint, "/mnt");

        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let open = status();
        let [shown] = open.volumes.as_slice() else { panic!("{open:?}") };
        assert!(shown.unlocked);
        assert_eq!(shown.dir, dir.to_str().unwrap());
        assert_eq!(shown.opened_by.as_ref().unwrap().label, "file key");
        assert_eq!(shown.mounts[0].carrier, "netlink");
        assert_eq!(open.modules[0].module, "openssl");
        assert!(daemon.children().contains(&open.modules[0].pid));
        drop(mount);
    }
}

/// Returns when `.claviger` was opened for the second time while `begin` was at work: first a change reads the
/// manifest, then it locks it.
fn change_that_waits<T>(reserved: &Path, begin: impl FnOnce() -> T) -> T {
    let opened = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
    opened.add_watch(reserved, AddWatchFlags::IN_OPEN).unwrap();
    let begun = begin();
    let mut opens = 0;
    while opens < 2 {
        let events = opened.read_events().unwrap();
        // What has a name is a file in it.
        opens += events.iter().filter(|event| event.name.is_none()).count();
    }
    begun
}

user_test! {
    fn a_lower_folder_that_hangs_keeps_its_volume_from_no_lock_and_no_other_from_an_unlock(user) {
        let (_daemon, card) = user.with_card();
        let make = |name| user.cli().init(name, Scope::Volume, &[&card], Recovery::None);
        let ((slow, ..), (other, ..)) = (make("Slow"), make("Other"));
        user.cli().unlock(&slow, UnlockWith::AnyKey).unwrap();

        // flock(2) is how the test gets the change of a manifest to hang; a NAS has other ways.
        let reserved = slow.join(".claviger");
        let before = fs::read(reserved.join("volume.toml")).unwrap();
        let open = fs::File::open(&reserved).unwrap();
        let held = Flock::lock(open, FlockArg::LockExclusive).unwrap();
        let add = Command::RecipientAdd { dir: slow.clone(), recipient: NewRecipient::Recovery };
        let mut adding = change_that_waits(&reserved, || user.cli().connect(add));

        let lock = Command::Lock(LockTarget::All);
        let Reply::Locked(locked) = user.cli().run(lock).unwrap() else { panic!() };
        assert_eq!(locked.folders, [slow.to_string_lossy()]);
        user.cli().unlock(&other, UnlockWith::AnyKey).unwrap();

        // It goes through all the same, and nobody loses the key that it made.
        drop(held);
        let added = Cli::result(&mut adding).unwrap();
        let Reply::Recipients { recovery: Some(recovery), .. } = added else { panic!("{added:?}") };
        user.cli().unlock(&slow, UnlockWith::RecoveryKey(recovery)).unwrap();

        // And it is remembered, though the keys had gone.
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        fs::write(reserved.join("volume.toml"), before).unwrap();
        let refused = user.cli().unlock(&slow, UnlockWith::AnyKey).unwrap_err();
        assert!(matches!(refused, Failure::Identity(_)), "{refused:?}");
    }
}
