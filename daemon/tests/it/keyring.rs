//! Auth toks in the kernel keyring decide which keys are here.

use claviger_protocol::Failure;
use claviger_protocol::control::{Command, KeyRef, Recovery, Reply, UnlockWith};
use claviger_vault::ids::Scope;

use crate::harness::user_test;

user_test! {
    fn an_auth_tok_that_is_unlinked_and_put_back_takes_its_key_away_and_gives_it_back(user) {
        let (_daemon, key) = user.with_card();
        let (dir, volume, _) = user.cli().init("Strict", Scope::File, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        let file = mount.fresh();
        mount.unwrap(&file.header).unwrap();

        let description = format!("claviger:{}", key.key_id);
        let serial = user.keyctl(&["search", "@u", "user", &description]);
        // Kept in a second keyring, as a person would who takes it off for a while.
        let aside = user.keyctl(&["newring", "aside", "@u"]);
        user.keyctl(&["link", &serial, &aside]);
        user.keyctl(&["unlink", &serial, "@u"]);
        user.keyctl(&["unlink", &aside, "@u"]);
        let refused = mount.unwrap(&file.header).unwrap_err();
        assert!(matches!(refused, Failure::NotARecipient(_)), "{refused:?}");
        let Reply::Keys(keys) = user.cli().run(Command::KeyList).unwrap() else { panic!() };
        assert!(!keys[0].in_keyring);

        let payload = format!("\u{1}\u{6}pkcs11{}{}", char::from(u8::try_from(key.locator.len()).unwrap()), key.locator);
        assert!(key.locator.len() < 128, "one octet says its length");
        user.keyctl(&["add", "user", &description, &payload, "@u"]);
        mount.unwrap(&file.header).unwrap();
    }
}

user_test! {
    fn enrolled_keys_are_back_in_the_keyring_when_the_daemon_starts_anew(user) {
        let daemon = user.start();
        let key = user.software_key();
        drop(daemon);
        user.keyctl(&["clear", "@u"]);
        let _daemon = user.start();
        let Reply::Keys(keys) = user.cli().run(Command::KeyList).unwrap() else { panic!() };
        assert_eq!(keys.len(), 1);
        assert!(keys[0].in_keyring);
        assert_eq!(keys[0].key_id, key.key_id);
    }
}

user_test! {
    fn a_key_that_was_removed_opens_nothing_and_is_not_in_the_keyring(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        let key_ref = KeyRef::Id("file key".into());
        user.cli().run(Command::KeyRemove { key: key_ref }).unwrap();
        let refused = user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap_err();
        assert!(matches!(refused, Failure::NotARecipient(_)), "{refused:?}");
        assert!(user.keyctl(&["list", "@u"]).contains("empty"));
    }
}
