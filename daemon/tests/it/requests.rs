//! What a filesystem asks for.

use claviger_protocol::Failure;
use claviger_protocol::control::{Recovery, UnlockWith};
use claviger_protocol::keys::{KeyReply, KeyRequest, SERVICE};
use claviger_vault::ids::{Epoch, Scope, VolumeId};

use crate::harness::{Cli, Mount, PIN, user_test};

user_test! {
    fn a_locked_volume_gives_nothing(user) {
        let _daemon = user.start();
        let mount = user.mount(VolumeId([7; 16]));
        let names = KeyRequest::Names { volume: mount.volume, lower_root: b"/lower".to_vec() };
        let fresh = KeyRequest::Fresh { volume: mount.volume, count: 1 };
        for request in [names, fresh] {
            let reply = mount.ask(&request);
            assert!(matches!(reply, KeyReply::Failed(Failure::Locked)), "{reply:?}");
        }
        assert_eq!(mount.unwrap(&[0; 512]).unwrap_err(), Failure::Locked);
    }
}

user_test! {
    fn a_mount_of_another_version_is_told_which_one_is_answered(user) {
        let _daemon = user.start();
        let mount = Mount::of_service("claviger-keys/999", user, VolumeId([7; 16]));
        let refused = mount.unwrap(&[0; 512]).unwrap_err();
        assert!(matches!(refused, Failure::Unsupported(_)), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains("claviger-keys/999") && text.contains(SERVICE), "{text}");
    }
}

user_test! {
    fn in_volume_scope_a_file_opens_again_without_the_token(user) {
        let (_daemon, key) = user.with_card();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        // From here on the token is gone.
        user.move_all("tokens", "pulled");
        let mount = user.mount(volume);
        let file = mount.fresh();
        assert_eq!((file.epoch, file.header.len()), (Epoch::FIRST, 512));
        let feks = mount.unwrap(&file.header).unwrap();
        assert_eq!(feks.len(), 1);
        assert_eq!(feks[0].expose(), file.fek.expose());
    }
}

user_test! {
    fn names_keys_of_an_unlocked_volume_are_told_by_epoch(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        let reply = mount.ask(&KeyRequest::Names { volume, lower_root: b"/lower".to_vec() });
        let KeyReply::Names { current, minimum, scope, keys } = reply else { panic!("{reply:?}") };
        assert_eq!((current, minimum, scope), (Epoch::FIRST, Epoch::FIRST, Scope::Volume));
        let [(Epoch::FIRST, key)] = keys.as_slice() else { panic!("{keys:?}") };
        assert_eq!(key.expose().len(), 32);
    }
}

user_test! {
    fn in_file_scope_every_open_costs_one_token_operation_and_one_audit_line(user) {
        let (_daemon, key) = user.with_card();
        let (dir, volume, _) = user.cli().init("Strict", Scope::File, &[&key], Recovery::Make);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        let file = mount.fresh();
        assert_eq!(file.header.len(), 512 + 4096);
        for _ in 0..3 {
            let feks = mount.unwrap(&file.header).unwrap();
            assert_eq!(feks[0].expose(), file.fek.expose());
        }
        let lines = user.audited("unwrap");
        assert_eq!(lines.len(), 3);
        for line in lines {
            assert_eq!(line["key"], key.key_id);
            assert_eq!(line["module"], "pkcs11");
            assert_eq!(line["result"], "ok");
            assert_eq!(line["volume"], volume.to_string());
            assert_eq!(line["lower_path"], "lower-name");
            assert_eq!(line["uid"], user.uid);
            assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
            assert!(line["duration_ms"].is_u64(), "{line}");
        }
        assert!(!user.audit_log().contains(PIN));
    }
}

user_test! {
    fn in_file_scope_no_thread_waits_for_a_token_that_answers(user) {
        let (daemon, key) = user.with_card();
        let (dir, volume, _) = user.cli().init("Strict", Scope::File, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        let files: Vec<_> = (0..16).map(|_| mount.fresh()).collect();
        let begun: Vec<_> = files.iter().map(|file| mount.begin_unwrap(&file.header).1).collect();
        for (file, outcome) in files.iter().zip(begun) {
            let reply = outcome.recv().unwrap().unwrap();
            let KeyReply::Feks { feks, .. } = postcard::from_bytes(&reply).unwrap() else {
                panic!("no FEKs");
            };
            assert_eq!(feks[0].expose(), file.fek.expose());
        }
        assert_eq!(user.audited("unwrap").len(), files.len());
        assert!(!daemon.threads().contains(&"token".into()), "{:?}", daemon.threads());

        // One that fails may have to be asked for again, and somebody for the PIN: that is waited for.
        user.move_all("tokens", "pulled");
        mount.unwrap(&files[0].header).unwrap_err();
        assert!(daemon.threads().contains(&"token".into()), "{:?}", daemon.threads());
    }
}

user_test! {
    fn in_file_scope_a_file_opens_only_while_the_token_is_there(user) {
        let (_daemon, key) = user.with_card();
        let (dir, volume, _) = user.cli().init("Strict", Scope::File, &[&key], Recovery::Make);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        let header = mount.fresh().header;
        mount.unwrap(&header).unwrap();
        user.move_all("tokens", "pulled");
        let refused = mount.unwrap(&header).unwrap_err();
        assert!(matches!(refused, Failure::TokenAbsent { .. }), "{refused:?}");
        user.move_all("pulled", "tokens");

        // A card that was away wants its PIN again.
        let cli = user.cli();
        let mut attached = cli.attach();
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| mount.unwrap(&header));
            let prompt = Cli::next_prompt(&mut attached);
            cli.reply(&mut attached, &prompt);
            opened.join().unwrap().unwrap();
        });
    }
}

user_test! {
    fn in_file_scope_the_recovery_key_that_unlocked_the_volume_opens_its_files(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, volume, recovery) =
            user.cli().init("Strict", Scope::File, &[&key], Recovery::Make);
        let with = UnlockWith::RecoveryKey(recovery.unwrap());
        user.cli().unlock(&dir, with).unwrap();
        let mount = user.mount(volume);
        let file = mount.fresh();
        let feks = mount.unwrap(&file.header).unwrap();
        assert_eq!(feks[0].expose(), file.fek.expose());
        assert_eq!(user.audited("unwrap")[0]["module"], "passphrase");
    }
}

user_test! {
    fn a_header_that_was_changed_is_refused_and_the_refusal_is_in_the_audit_log(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let mount = user.mount(volume);
        let mut header = mount.fresh().header;
        header[100] ^= 1;
        let refused = mount.unwrap(&header).unwrap_err();
        assert!(matches!(refused, Failure::Integrity(_)), "{refused:?}");
        let line = &user.audited("unwrap")[0];
        assert_eq!(line["result"], refused.to_string());
        let cut = mount.unwrap(&header[..100]).unwrap_err();
        assert!(matches!(cut, Failure::Integrity(_)), "{cut:?}");
    }
}

user_test! {
    fn a_header_of_another_volume_is_refused(user) {
        let _daemon = user.start();
        let key = user.software_key();
        let (one, of_one, _) = user.cli().init("One", Scope::Volume, &[&key], Recovery::None);
        let (two, of_two, _) = user.cli().init("Two", Scope::Volume, &[&key], Recovery::None);
        user.cli().unlock(&one, UnlockWith::AnyKey).unwrap();
        user.cli().unlock(&two, UnlockWith::AnyKey).unwrap();
        let foreign = user.mount(of_one).fresh();
        let refused = user.mount(of_two).unwrap(&foreign.header).unwrap_err();
        assert!(matches!(refused, Failure::Integrity(_)), "{refused:?}");
    }
}
