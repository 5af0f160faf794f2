//! Who opens a volume, and who does no longer.

use std::fs;

use claviger_protocol::control::{
    Command, KeyRef, LockTarget, NewRecipient, Recovery, Reply, UnlockWith,
};
use claviger_protocol::keys::KeyEvent;
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::{Epoch, Scope};

use crate::harness::{User, user_test};

fn lock_all(user: &User) {
    user.cli().run(Command::Lock(LockTarget::All)).unwrap();
}

user_test! {
    fn a_recipient_that_was_added_opens_the_volume_and_a_removed_one_does_not(user) {
        let (_daemon, card) = user.with_card();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&card], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let key_file = user.software_key();
        let recipient = NewRecipient::Key(KeyRef::Id(key_file.key_id.clone()));
        user.cli().run(Command::RecipientAdd { dir: dir.clone(), recipient }).unwrap();

        let mount = user.mount(volume);
        let old = mount.fresh();
        let remove = Command::RecipientRemove { dir: dir.clone(), recipient: "card key".into() };
        let Reply::Recipients { epoch, recipients, .. } = user.cli().run(remove).unwrap() else {
            panic!()
        };
        assert_eq!(epoch, Epoch(2));
        assert_eq!(recipients.len(), 1);
        mount.wait_event(KeyEvent::NewEpoch { volume, epoch });
        assert_eq!(mount.fresh().epoch, epoch);
        // What was written before still opens.
        mount.unwrap(&old.header).unwrap();
        drop(mount);

        lock_all(user);
        let by_card = UnlockWith::Key(KeyRef::Id(card.key_id.clone()));
        let refused = user.cli().unlock(&dir, by_card).unwrap_err();
        assert!(matches!(refused, Failure::NotARecipient(_)), "{refused:?}");
        let Reply::Unlocked { by, .. } =
            user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap() else { panic!() };
        assert_eq!(by.unwrap().key_id, key_file.key_id);
        // The chain of epochs gives the old key, too.
        user.mount(volume).unwrap(&old.header).unwrap();
    }
}

user_test! {
    fn the_root_is_bound_under_the_new_epoch_only_once_a_recipient_is_removed(user) {
        let (_daemon, card) = user.with_card();
        let key_file = user.software_key();
        let keys = [&card, &key_file];
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &keys, Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let remove = Command::RecipientRemove { dir: dir.clone(), recipient: "card key".into() };
        user.cli().run(remove).unwrap();
        // docs/format-volume.md: two place records from octet 48 on, each with its names epoch at 8.
        let record = fs::read(dir.join(".claviger.dir")).unwrap();
        let epochs: Vec<u8> =
            record[48..].chunks_exact(128).take(2).map(|place| place[8]).collect();
        assert!(epochs == [0, 2] || epochs == [2, 0], "{epochs:?}");
    }
}

user_test! {
    fn a_passphrase_opens_a_volume_and_a_wrong_one_says_so(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let passphrase = || Secret::new(b"correct horse".to_vec());
        let recipient = NewRecipient::Passphrase(passphrase());
        user.cli().run(Command::RecipientAdd { dir: dir.clone(), recipient }).unwrap();
        lock_all(user);
        let wrong = UnlockWith::Passphrase(Secret::new(b"battery".to_vec()));
        let refused = user.cli().unlock(&dir, wrong).unwrap_err();
        assert!(matches!(refused, Failure::NotARecipient(_)), "{refused:?}");
        let Reply::Unlocked { by, .. } =
            user.cli().unlock(&dir, UnlockWith::Passphrase(passphrase())).unwrap() else { panic!() };
        assert_eq!(by.unwrap().kind, "passphrase");
    }
}

user_test! {
    fn without_its_keys_a_volume_asks_for_its_passphrase(user) {
        let _daemon = user.start();
        let dir = user.home.join("Private");
        let init = Command::Init {
            dir: dir.clone(),
            scope: Scope::Volume,
            recipients: Vec::new(),
            passphrase: Some(Secret::new(b"correct horse".to_vec())),
            recovery: Recovery::None,
        };
        user.cli().run(init).unwrap();
        let cli = user.cli().answering(|prompt| {
            assert!(prompt.text.starts_with("Passphrase\nto unlock volume"), "{}", prompt.text);
            Some("correct horse".into())
        });
        cli.unlock(&dir, UnlockWith::AnyKey).unwrap();
    }
}

user_test! {
    fn a_volume_is_not_left_without_recipients_nor_made_without(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let remove = Command::RecipientRemove { dir, recipient: "file key".into() };
        let refused = user.cli().run(remove).unwrap_err();
        assert!(matches!(refused, Failure::Usage(_)), "{refused:?}");
        let init = Command::Init {
            dir: user.home.join("Nobody"),
            scope: Scope::Volume,
            recipients: Vec::new(),
            passphrase: None,
            recovery: Recovery::None,
        };
        let refused = user.cli().run(init).unwrap_err();
        assert!(matches!(refused, Failure::Usage(_)), "{refused:?}");
    }
}

user_test! {
    fn a_folder_with_something_in_it_is_not_made_a_volume(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let dir = user.home.join("Full");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("letter"), "dear").unwrap();
        let init = Command::Init {
            dir: dir.clone(),
            scope: Scope::Volume,
            recipients: vec![KeyRef::Id(key.key_id)],
            passphrase: None,
            recovery: Recovery::None,
        };
        let refused = user.cli().run(init).unwrap_err();
        assert!(matches!(&refused, Failure::Usage(text) if text.contains("not empty")), "{refused:?}");
        assert!(!dir.join(".claviger").exists());
    }
}

user_test! {
    fn a_volume_made_where_a_deleted_one_was_opens(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, first, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        lock_all(user);
        fs::remove_dir_all(&dir).unwrap();
        let (dir, second, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        assert_ne!(first, second);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
    }
}

user_test! {
    fn a_volume_put_in_the_place_of_another_is_refused(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (one, _, _) = user.cli().init("One", Scope::Volume, &[&key], Recovery::None);
        let (two, _, _) = user.cli().init("Two", Scope::Volume, &[&key], Recovery::None);
        fs::rename(&one, user.home.join("aside")).unwrap();
        fs::rename(&two, &one).unwrap();
        let refused = user.cli().unlock(&one, UnlockWith::AnyKey).unwrap_err();
        assert!(matches!(refused, Failure::Identity(_)), "{refused:?}");
    }
}

user_test! {
    fn somebody_elses_public_key_in_a_file_becomes_a_recipient(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let theirs = user.home.join("theirs.pem");
        let made = user
            .command("openssl")
            .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .arg("-out")
            .arg(user.home.join("theirs-private.pem"))
            .output()
            .unwrap();
        assert!(made.status.success());
        let public = user
            .command("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(user.home.join("theirs-private.pem"))
            .arg("-out")
            .arg(&theirs)
            .output()
            .unwrap();
        assert!(public.status.success());
        let init = Command::Init {
            dir: user.home.join("Team"),
            scope: Scope::Volume,
            recipients: vec![KeyRef::Id(key.key_id), KeyRef::File(theirs)],
            passphrase: None,
            recovery: Recovery::None,
        };
        let Reply::Initialised { recipients, .. } = user.cli().run(init).unwrap() else { panic!() };
        assert_eq!(recipients[1].label, "theirs");
        assert_eq!(recipients[1].key_type, "ec-p256");
        let Reply::Keys(keys) = user.cli().run(Command::KeyList).unwrap() else { panic!() };
        assert_eq!(keys.len(), 1, "a stranger's key is not enrolled");
    }
}
