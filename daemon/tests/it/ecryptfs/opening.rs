//! Which keys open a folder, and until when.

use std::path::Path;

use claviger_protocol::Failure;
use claviger_protocol::control::{
    Command, KeyRef, LockTarget, Locked, Needed, OtherKeys, Reply, UnlockEcryptfs,
};
use claviger_protocol::keys::KeyEvent;
use claviger_vault::ecryptfs::{Header, MetadataPlace, NamesAre, Packet, Salt, folder_id};

use super::lower::{FNEK, Lower, PASSPHRASE, SIG, as_fek, data, password, sig, unlock};
use crate::harness::{Daemon, User, user_test};

const SECOND: &str = "second: pässwörd/2";
const SECOND_SIG: &str = "f84a2048a4c40079";

/// Puts what `ecryptfs-add-passphrase` puts there into the user keyring.
fn add_to_keyring(user: &User, sig: &str) {
    let payload = data(&format!("authtok.{sig}.bin"));
    let script = format!("keyctl padd user {sig} @u < {}", payload.display());
    let added = user.command("sh").args(["-c", &script]).output().unwrap();
    assert!(added.status.success(), "{added:?}");
}

user_test! {
    fn files_made_under_a_passphrase_open_by_it_again_and_each_open_is_audited(user) {
        let _daemon = user.start();
        let lower = Lower::empty(user);
        let (by, sigs) = unlock(&user.cli(), lower.by_passphrase()).unwrap();
        assert_eq!((by[0].kind.as_str(), by[0].key_id.as_str()), ("passphrase", SIG));
        assert_eq!(sigs, [sig(SIG)]);

        let folder = lower.mount(user);
        for key_len in [16, 24, 32] {
            let fresh = folder.fresh(&sigs, key_len).unwrap();
            assert_eq!(fresh.fek.expose().len(), usize::from(key_len));
            assert_eq!(folder.fek(&fresh.packets).unwrap().expose(), fresh.fek.expose());
        }
        assert_eq!(folder.fresh_many(&sigs, 16, 1000).unwrap().len(), 64);

        let lines = user.audited("unwrap");
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0]["key"], &lines[0]["module"]), (&SIG.into(), &"passphrase".into()));
        assert_eq!((&lines[0]["result"], &lines[0]["lower_path"]), (&"ok".into(), &"lower-name".into()));
        assert_eq!(user.audited("unlock")[0]["key"], SIG);
        assert!(!user.audit_log().contains(PASSPHRASE));
    }
}

user_test! {
    fn packets_for_new_files_are_those_a_kernel_reads(user) {
        let _daemon = user.start();
        let lower = Lower::empty(user);
        let order = UnlockEcryptfs {
            passwords: vec![password(PASSPHRASE, Salt::DEFAULT), password(SECOND, Salt::DEFAULT)],
            ..lower.order()
        };
        let (_, sigs) = unlock(&user.cli(), order).unwrap();
        assert_eq!(sigs, [sig(SIG), sig(SECOND_SIG)]);
        let fresh = lower.mount(user).fresh(&sigs, 24).unwrap();
        let packets = Packet::parse_all(&fresh.packets).unwrap();
        let of = |packet: &Packet| packet.key_sig().to_string();
        assert_eq!(packets.iter().map(of).collect::<Vec<_>>(), [SIG, SECOND_SIG]);
        let key = |passphrase: &str| {
            claviger_vault::ecryptfs::PassphraseKey::derive(passphrase.as_bytes(), Salt::DEFAULT).unwrap()
        };
        let fek = as_fek(&fresh.fek);
        let expected = [Packet::wrap(&fek, &key(PASSPHRASE)), Packet::wrap(&fek, &key(SECOND))];
        assert_eq!(packets, expected);
    }
}

user_test! {
    fn a_locked_folder_gives_nothing(user) {
        let _daemon = user.start();
        let lower = Lower::empty(user);
        let folder = lower.mount(user);
        assert_eq!(folder.names(None).unwrap_err(), Failure::Locked);
        assert_eq!(folder.fresh(&[sig(SIG)], 16).unwrap_err(), Failure::Locked);
        assert_eq!(folder.fek(&[0x8c; 64]).unwrap_err(), Failure::Locked);

        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        let id = folder_id(&lower.dir);
        folder.0.wait_event(KeyEvent::Unlocked { volume: id });
        let fresh = folder.fresh(&[sig(SIG)], 16).unwrap();
        assert!(folder.names(None).unwrap().is_none());
        let Reply::Status(status) = user.cli().run(Command::Status).unwrap() else { panic!() };
        let [shown] = status.volumes.as_slice() else { panic!("{status:?}") };
        assert_eq!((shown.volume, shown.unlocked, shown.epoch), (id, true, None));
        assert_eq!((Path::new(&shown.dir), shown.mounts.len()), (lower.dir.as_path(), 1));

        std::thread::scope(|scope| {
            let locked = scope.spawn(|| lower.lock(user));
            // It waits for the mount, and gives nothing meanwhile.
            folder.0.wait_event(KeyEvent::Lock { volume: id });
            assert_eq!(folder.fek(&fresh.packets).unwrap_err(), Failure::Locked);
            folder.0.acknowledge(KeyEvent::Lock { volume: id });
            locked.join().unwrap();
        });
        assert_eq!(user.audited("lock").len(), 1);
    }
}

user_test! {
    fn a_restarted_daemon_has_forgotten_the_keys(user) {
        let daemon = user.start();
        let lower = Lower::empty(user);
        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        let fresh = lower.mount(user).fresh(&[sig(SIG)], 16).unwrap();
        drop(daemon);
        let _daemon = user.start();
        let folder = lower.mount(user);
        assert_eq!(folder.fek(&fresh.packets).unwrap_err(), Failure::Locked);
        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        assert_eq!(folder.fek(&fresh.packets).unwrap().expose(), fresh.fek.expose());
    }
}

user_test! {
    fn a_passphrase_that_opens_nothing_of_the_folder_is_refused_at_once(user) {
        let _daemon = user.start();
        let lower = Lower::empty(user);
        let order = UnlockEcryptfs {
            passwords: vec![password("wrong", Salt::DEFAULT)],
            sigs: vec![sig(SIG)],
            ..lower.order()
        };
        let refused = unlock(&user.cli(), order).unwrap_err();
        assert!(matches!(&refused, Failure::NotARecipient(text) if text.contains(SIG)), "{refused:?}");
        assert_eq!(lower.mount(user).names(None).unwrap_err(), Failure::Locked);
        assert_eq!(user.audited("unlock")[0]["result"], refused.to_string());
    }
}

user_test! {
    fn a_missing_recipient_keeps_a_folder_from_being_written_but_not_from_being_read(user) {
        let _daemon = user.start();
        let lower = Lower::of_kernel(user, "aes32-two-keys");
        let order = |needed| UnlockEcryptfs {
            sigs: vec![sig(SIG), sig(SECOND_SIG)],
            needed,
            ..lower.by_passphrase()
        };
        let refused = unlock(&user.cli(), order(Needed::All)).unwrap_err();
        assert!(matches!(&refused, Failure::NotARecipient(text) if text.contains(SECOND_SIG)), "{refused:?}");

        unlock(&user.cli(), order(Needed::One)).unwrap();
        let folder = lower.mount(user);
        let header = Header::read(std::fs::File::open(lower.dir.join("size1")).unwrap()).unwrap();
        folder.fek(&super::lower::packets(&header)).unwrap();
        let refused = folder.fresh(&[sig(SIG), sig(SECOND_SIG)], 32).unwrap_err();
        assert!(matches!(&refused, Failure::NotARecipient(text) if text.contains(SECOND_SIG)), "{refused:?}");
        // The second passphrase is added to what is open.
        let second = UnlockEcryptfs {
            passwords: vec![password(SECOND, Salt::DEFAULT)],
            ..order(Needed::All)
        };
        let second = UnlockEcryptfs { sigs: vec![sig(SIG), sig(SECOND_SIG)], ..second };
        unlock(&user.cli(), second).unwrap();
        folder.fresh(&[sig(SIG), sig(SECOND_SIG)], 32).unwrap();
    }
}

user_test! {
    fn a_file_of_nobody_here_says_which_keys_would_open_it(user) {
        let _daemon = user.start();
        let lower = Lower::empty(user);
        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        let foreign = Lower { dir: user.home.join("foreign") };
        std::fs::create_dir(&foreign.dir).unwrap();
        let order = UnlockEcryptfs {
            passwords: vec![password(SECOND, Salt::DEFAULT)],
            ..foreign.order()
        };
        let (_, sigs) = unlock(&user.cli(), order).unwrap();
        let file = foreign.mount(user).fresh(&sigs, 16).unwrap();
        let refused = lower.mount(user).fek(&file.packets).unwrap_err();
        let expected = format!("not a recipient here: the file opens with key {SECOND_SIG}");
        assert_eq!(refused.to_string(), expected);
        let garbage = lower.mount(user).fek(b"\x8c\xff").unwrap_err();
        assert!(matches!(garbage, Failure::Integrity(_)), "{garbage:?}");
    }
}

user_test! {
    fn a_key_of_the_keyring_opens_a_folder_until_it_is_taken_out(user) {
        let _daemon = user.start();
        let lower = Lower::of_kernel(user, "aes24-fnek");
        let order = || UnlockEcryptfs {
            sigs: vec![sig(SIG)],
            fnek: Some(sig(FNEK)),
            ..lower.order()
        };
        let missing = unlock(&user.cli(), order()).unwrap_err();
        assert!(matches!(&missing, Failure::NotARecipient(text) if text.contains(SIG)), "{missing:?}");
        add_to_keyring(user, SIG);
        let missing = unlock(&user.cli(), order()).unwrap_err();
        assert!(matches!(&missing, Failure::NotARecipient(text) if text.contains(FNEK)), "{missing:?}");
        add_to_keyring(user, FNEK);
        let (by, _) = unlock(&user.cli(), order()).unwrap();
        assert_eq!(by[0].kind, "keyring");

        let folder = lower.mount(user);
        assert_eq!(folder.names(Some(sig(FNEK))).unwrap().unwrap().expose().len(), 64);
        let fresh = folder.fresh(&[sig(SIG)], 16).unwrap();
        folder.fek(&fresh.packets).unwrap();
        let serial = user.keyctl(&["search", "@u", "user", SIG]);
        user.keyctl(&["unlink", &serial, "@u"]);
        let refused = folder.fek(&fresh.packets).unwrap_err();
        assert!(matches!(refused, Failure::NotARecipient(_)), "{refused:?}");
    }
}

user_test! {
    fn with_mount_auth_tok_only_no_other_key_of_the_keyring_is_used(user) {
        let _daemon = user.start();
        let lower = Lower::empty(user);
        add_to_keyring(user, SECOND_SIG);
        let packets = {
            let fek = claviger_vault::ecryptfs::Fek::random(claviger_vault::ecryptfs::KeyLen::Aes128);
            let key = claviger_vault::ecryptfs::PassphraseKey::derive(SECOND.as_bytes(), Salt::DEFAULT).unwrap();
            let packets = vec![Packet::wrap(&fek, &key)];
            let header = Header::fresh(packets, MetadataPlace::Header, NamesAre::Plain).unwrap();
            super::lower::packets(&header)
        };
        let strict = UnlockEcryptfs { others: OtherKeys::Refused, ..lower.by_passphrase() };
        unlock(&user.cli(), strict).unwrap();
        // Nor once somebody unlocks it again who did not say so.
        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        let folder = lower.mount(user);
        let refused = folder.fek(&packets).unwrap_err();
        assert!(matches!(refused, Failure::NotARecipient(_)), "{refused:?}");
        drop(folder);
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        lower.mount(user).fek(&packets).unwrap();
    }
}

user_test! {
    fn locking_everything_locks_folders_and_the_end_of_the_daemon_does(user) {
        let daemon: Daemon = user.start();
        let lower = Lower::empty(user);
        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        let Reply::Locked(Locked { folders, .. }) = user.cli().run(Command::Lock(LockTarget::All)).unwrap() else { panic!() };
        assert_eq!(folders, [lower.dir.to_string_lossy()]);
        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        user.cli().stop().1.unwrap();
        drop(daemon);
        assert_eq!(user.audited("lock").len(), 2);
    }
}

user_test! {
    fn nothing_of_a_locked_folders_keys_stays_in_memory(user) {
        let daemon = user.start();
        let lower = Lower::empty(user);
        let folder = lower.mount(user);
        unlock(&user.cli(), lower.by_passphrase()).unwrap();
        let fresh = folder.fresh(&[sig(SIG)], 16).unwrap();
        folder.fek(&fresh.packets).unwrap();
        folder.names(Some(sig(SIG))).unwrap();
        std::thread::scope(|scope| {
            let locked = scope.spawn(|| {
                lower.lock(user);
            });
            let event = KeyEvent::Lock { volume: folder_id(&lower.dir) };
            folder.0.wait_event(event);
            folder.0.acknowledge(event);
            locked.join().unwrap();
        });
        let key = password(PASSPHRASE, Salt::DEFAULT);
        let found = user.as_root(|| {
            // Half of it would be enough to find the rest.
            let half = key.key.expose().first_chunk::<32>().unwrap();
            Daemon::find_in_memory(daemon.pid(), half)
                .or_else(|| Daemon::find_in_memory(daemon.pid(), fresh.fek.expose()))
        });
        assert_eq!(found, None);
    }
}

user_test! {
    fn a_key_that_is_not_rsa_opens_no_folder(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let lower = Lower::empty(user);
        let refused = unlock(&user.cli(), lower.by_key(&key)).unwrap_err();
        assert!(matches!(refused, Failure::Unsupported(_)), "{refused:?}");
        let nothing = unlock(&user.cli(), lower.order()).unwrap_err();
        assert!(matches!(nothing, Failure::Usage(_)), "{nothing:?}");
        let absent = UnlockEcryptfs { keys: vec![KeyRef::Id("no such".into())], ..lower.order() };
        unlock(&user.cli(), absent).unwrap_err();
    }
}
