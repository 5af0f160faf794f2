//! Folders that RSA keys open: in a card, a TPM, a file.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use claviger_hw_tests::Swtpm;
use claviger_protocol::Failure;
use claviger_protocol::control::{Command, KeyInfo, KeyRef, LockTarget, Needed, UnlockEcryptfs};
use claviger_protocol::keys::SigBytes;
use claviger_vault::ecryptfs::{Fek, KeyLen, KeySig, Packet, Salt, Tag1};

use super::lower::{Lower, PASSPHRASE, SIG, password, rsa_key, sig, unlock};
use crate::harness::{Cli, Daemon, PIN, User, user_test};

/// A daemon, and an RSA key in a token `card`.
fn with_rsa_card(user: &User) -> (Daemon, KeyInfo) {
    user.make_token("card");
    let daemon = user.start();
    let key = rsa_key(user, "pkcs11");
    // Whoever made the key was logged in.
    user.cli().run(Command::Lock(LockTarget::All)).unwrap();
    (daemon, key)
}

/// Makes a file and opens it again; what the audit line has as module.
fn makes_and_opens(user: &User, lower: &Lower, key: &KeyInfo) -> String {
    let (by, sigs) = unlock(&user.cli(), lower.by_key(key)).unwrap();
    assert_eq!((by.len(), by[0].label.as_str()), (1, "rsa"));
    assert_eq!(by[0].key_id, hex(&sigs[0]));
    let folder = lower.mount(user);
    for key_len in [16, 32] {
        let fresh = folder.fresh(&sigs, key_len).unwrap();
        assert_eq!(
            folder.fek(&fresh.packets).unwrap().expose(),
            fresh.fek.expose()
        );
    }
    let line = &user.audited("unwrap")[0];
    assert_eq!(line["key"], hex(&sigs[0]));
    line["module"].as_str().unwrap().into()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

user_test! {
    fn an_rsa_key_in_a_card_opens_what_was_wrapped_to_it(user) {
        let (_daemon, key) = with_rsa_card(user);
        let lower = Lower::empty(user);
        assert_eq!(makes_and_opens(user, &lower, &key), "pkcs11");
    }
}

user_test! {
    fn an_rsa_key_in_a_tpm_opens_what_was_wrapped_to_it(user) {
        let state = user.home.join("tpm");
        fs::create_dir(&state).unwrap();
        let tpm = Swtpm::start_in(&state);
        user.configure(&format!("[tpm]\ntcti = '{}'\n", tpm.tcti()));
        let _daemon = user.start();
        let key = rsa_key(user, "tpm");
        let lower = Lower::empty(user);
        assert_eq!(makes_and_opens(user, &lower, &key), "tpm");
    }
}

user_test! {
    fn an_rsa_key_in_a_file_opens_what_was_wrapped_to_it(user) {
        let _daemon = user.start();
        let key = rsa_key(user, "openssl");
        let lower = Lower::empty(user);
        assert_eq!(makes_and_opens(user, &lower, &key), "openssl");
    }
}

user_test! {
    fn unlocking_asks_for_the_pin_so_that_no_file_has_to(user) {
        let (_daemon, key) = with_rsa_card(user);
        let lower = Lower::empty(user);
        let asked = AtomicU32::new(0);
        let cli = user.cli().answering(|prompt| {
            let expected = format!("to unlock eCryptfs folder {}", lower.dir.display());
            assert!(prompt.text.contains(&expected), "{}", prompt.text);
            asked.fetch_add(1, Ordering::SeqCst);
            Some(PIN.into())
        });
        let (_, sigs) = unlock(&cli, lower.by_key(&key)).unwrap();
        let folder = lower.mount(user);
        let fresh = folder.fresh(&sigs, 32).unwrap();
        folder.fek(&fresh.packets).unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}

user_test! {
    fn a_sig_alone_finds_its_enrolled_key_and_tries_it_out(user) {
        let (_daemon, key) = with_rsa_card(user);
        let lower = Lower::empty(user);
        let (_, sigs) = unlock(&user.cli(), lower.by_key(&key)).unwrap();
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        let order = || UnlockEcryptfs { sigs: sigs.clone(), ..lower.order() };
        let no = user.cli().answering(|_| None);
        assert_eq!(unlock(&no, order()).unwrap_err(), Failure::Declined);
        unlock(&user.cli(), order()).unwrap();
        user.cli().run(Command::KeyRemove { key: KeyRef::Id(key.key_id.clone()) }).unwrap();
        let fresh = lower.mount(user).fresh(&sigs, 16).unwrap_err();
        assert!(matches!(fresh, Failure::NotARecipient(_)), "{fresh:?}");
    }
}

user_test! {
    fn of_two_who_unlock_a_folder_by_different_keys_neither_takes_the_others_away(user) {
        let (_daemon, key) = with_rsa_card(user);
        let lower = Lower::empty(user);
        let cli = user.cli();
        let mut by_card = cli.connect(Command::EcryptfsUnlock(lower.by_key(&key)));
        let prompt = Cli::next_prompt(&mut by_card);
        let (_, sigs) = unlock(&user.cli(), lower.by_passphrase()).unwrap();
        cli.reply(&mut by_card, &prompt);
        Cli::result(&mut by_card).unwrap();

        let folder = lower.mount(user);
        let fresh = folder.fresh(&sigs, 32).unwrap();
        folder.fek(&fresh.packets).unwrap();
        assert_eq!(user.audited("unwrap")[0]["key"], SIG);
    }
}

user_test! {
    fn a_file_of_card_and_passphrase_opens_by_the_passphrase_when_the_card_is_out(user) {
        let (_daemon, key) = with_rsa_card(user);
        let lower = Lower::empty(user);
        let order = UnlockEcryptfs {
            passwords: vec![password(PASSPHRASE, Salt::DEFAULT)],
            ..lower.by_key(&key)
        };
        let (_, sigs) = unlock(&user.cli(), order).unwrap();
        assert_eq!(sigs.len(), 2);
        let folder = lower.mount(user);
        let fresh = folder.fresh(&sigs, 32).unwrap();
        user.move_all("tokens", "pulled");
        folder.fek(&fresh.packets).unwrap();
        assert_eq!(user.audited("unwrap")[0]["key"], SIG);

        // By the card alone it does not, and files are made all the same: a public key needs no card.
        std::thread::scope(|scope| {
            let locked = scope.spawn(|| lower.lock(user));
            let volume = folder.0.volume;
            let event = claviger_protocol::keys::KeyEvent::Lock { volume };
            folder.0.wait_event(event);
            folder.0.acknowledge(event);
            locked.join().unwrap();
        });
        let rsa = sigs.iter().find(|one| **one != sig(SIG)).copied().unwrap();
        let order = UnlockEcryptfs { sigs: vec![rsa], needed: Needed::One, ..lower.order() };
        let absent = unlock(&user.cli(), order).unwrap_err();
        assert!(matches!(absent, Failure::TokenAbsent { .. }), "{absent:?}");
    }
}

user_test! {
    fn a_card_that_is_out_says_so_at_the_file_and_works_when_it_is_back(user) {
        let (_daemon, key) = with_rsa_card(user);
        let lower = Lower::empty(user);
        let (_, sigs) = unlock(&user.cli(), lower.by_key(&key)).unwrap();
        let folder = lower.mount(user);
        let fresh = folder.fresh(&sigs, 32).unwrap();
        user.move_all("tokens", "pulled");
        let refused = folder.fek(&fresh.packets).unwrap_err();
        assert!(matches!(refused, Failure::TokenAbsent { .. }), "{refused:?}");
        folder.fresh(&sigs, 32).unwrap();
        user.move_all("pulled", "tokens");
        let cli = user.cli();
        let mut attached = cli.attach();
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| folder.fek(&fresh.packets));
            let prompt = crate::harness::Cli::next_prompt(&mut attached);
            assert!(prompt.text.contains("a file of eCryptfs folder"), "{}", prompt.text);
            cli.reply(&mut attached, &prompt);
            opened.join().unwrap().unwrap();
        });
    }
}

user_test! {
    fn a_folder_does_not_get_at_enrolled_keys_that_nobody_named_for_it(user) {
        let _daemon = user.start();
        let key = rsa_key(user, "openssl");
        let of_key = Lower::empty(user);
        let (_, sigs) = unlock(&user.cli(), of_key.by_key(&key)).unwrap();
        let file = of_key.mount(user).fresh(&sigs, 16).unwrap();
        let other = Lower { dir: user.home.join("other") };
        fs::create_dir(&other.dir).unwrap();
        unlock(&user.cli(), other.by_passphrase()).unwrap();
        let folder = other.mount(user);
        let refused = folder.fek(&file.packets).unwrap_err();
        assert!(matches!(refused, Failure::NotARecipient(_)), "{refused:?}");
        // What somebody let the kernel use, it may use.
        user.cli().run(Command::EcryptfsAddKey { key: KeyRef::Id(key.key_id) }).unwrap();
        folder.fek(&file.packets).unwrap();
    }
}

user_test! {
    fn a_wrapped_fek_that_was_changed_does_not_open(user) {
        let _daemon = user.start();
        let key = rsa_key(user, "openssl");
        let lower = Lower::empty(user);
        let (_, sigs) = unlock(&user.cli(), lower.by_key(&key)).unwrap();
        let folder = lower.mount(user);
        let mut packets = folder.fresh(&sigs, 16).unwrap().packets;
        *packets.last_mut().unwrap() ^= 1;
        let refused = folder.fek(&packets).unwrap_err();
        assert!(matches!(refused, Failure::Integrity(_)), "{refused:?}");
    }
}

user_test! {
    fn more_recipients_than_a_reader_parses_are_refused(user) {
        let _daemon = user.start();
        let key = rsa_key(user, "openssl");
        let lower = Lower::empty(user);
        let (_, sigs) = unlock(&user.cli(), lower.by_key(&key)).unwrap();
        let folder = lower.mount(user);
        folder.fresh(&[sigs[0]; 15], 16).unwrap();
        let refused = folder.fresh(&[sigs[0]; 16], 16).unwrap_err();
        assert!(matches!(refused, Failure::Usage(_)), "{refused:?}");
        folder.fresh(&sigs, 17).unwrap_err();
    }
}

/// An RSA key pair in `~/old.pem`, and the same in a card.
fn old_key(user: &User) -> std::path::PathBuf {
    let pem = user.home.join("old.pem");
    let openssl = |args: &[&str]| {
        let done = user.command("openssl").args(args).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    openssl(&[
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-out",
        "old.pem",
    ]);
    openssl(&["pkey", "-in", "old.pem", "-pubout", "-out", "old.pub"]);
    pem
}

/// A packet as the old `pkcs11-helper` module wrapped its FEK; `message` is what is in the padding.
fn wrapped_as_of_old(user: &User, sig: SigBytes, message: &[u8]) -> Vec<u8> {
    fs::write(user.home.join("message"), message).unwrap();
    let script = "openssl pkeyutl -encrypt -pubin -inkey old.pub -pkeyopt rsa_padding_mode:pkcs1 -in message -out wrapped";
    let done = user.command("sh").args(["-c", script]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    of_ciphertext(sig, &fs::read(user.home.join("wrapped")).unwrap())
}

fn of_ciphertext(sig: SigBytes, ciphertext: &[u8]) -> Vec<u8> {
    let packet = Tag1::new(KeySig(sig), ciphertext).unwrap();
    Packet::PublicKey(packet).write()
}

fn with_config(user: &User) {
    user.configure(
        "[pkcs11]\nlibraries = ['/usr/lib/softhsm/libsofthsm2.so']\n[ecryptfs]\npkcs1_v15 = true\n",
    );
}

/// In the card of [`old_key`], which then is a card of old.
fn import(user: &User, pem: &std::path::Path) -> KeyRef {
    user.make_token("card");
    let imported = user
        .command("softhsm2-util")
        .args([
            "--import",
            pem.to_str().unwrap(),
            "--token",
            "card",
            "--label",
            "rsa",
        ])
        .args(["--id", "01", "--pin", PIN])
        .output()
        .unwrap();
    assert!(imported.status.success(), "{imported:?}");
    KeyRef::Uri("pkcs11:token=card;id=%01".into())
}

/// Opens what was wrapped of old, and refuses all that is not whole alike.
fn opens_of_old(user: &User, lower: &Lower, key: KeyRef) {
    let order = UnlockEcryptfs {
        keys: vec![key],
        ..lower.order()
    };
    let (_, sigs) = unlock(&user.cli(), order).unwrap();
    let folder = lower.mount(user);
    let fek = Fek::random(KeyLen::Aes256);
    let packets = wrapped_as_of_old(user, sigs[0], &fek.session_key());
    assert_eq!(folder.fek(&packets).unwrap().expose(), fek.expose());

    let mut bad_checksum = fek.session_key().to_vec();
    *bad_checksum.last_mut().unwrap() ^= 1;
    let mut garbage = [0x55; 256];
    garbage[0] = 0;
    for packets in [
        wrapped_as_of_old(user, sigs[0], &bad_checksum),
        wrapped_as_of_old(user, sigs[0], b"of another length"),
        of_ciphertext(sigs[0], &garbage),
    ] {
        let begun = Instant::now();
        let refused = folder.fek(&packets).unwrap_err();
        assert_eq!(
            refused,
            Failure::Integrity("a wrapped FEK does not open".into())
        );
        let beat = Duration::from_secs(1);
        assert!(begun.elapsed() >= beat, "{:?}", begun.elapsed());
    }
    // What is written now has the better padding, and needs no such second.
    let fresh = folder.fresh(&sigs, 32).unwrap();
    folder.fek(&fresh.packets).unwrap();
}

user_test! {
    fn what_the_old_pkcs11_helper_module_wrapped_opens_where_the_configuration_allows_it(user) {
        with_config(user);
        let pem = old_key(user);
        let key = import(user, &pem);
        let _daemon = user.start();
        opens_of_old(user, &Lower::empty(user), key);
    }
}

user_test! {
    fn what_it_wrapped_opens_by_a_copy_of_the_key_in_a_file_too(user) {
        with_config(user);
        let pem = old_key(user);
        let _daemon = user.start();
        opens_of_old(user, &Lower::empty(user), KeyRef::File(pem));
    }
}

user_test! {
    fn what_it_wrapped_does_not_open_unless_the_configuration_allows_it(user) {
        let pem = old_key(user);
        let _daemon = user.start();
        let lower = Lower::empty(user);
        let order = UnlockEcryptfs { keys: vec![KeyRef::File(pem)], ..lower.order() };
        let (_, sigs) = unlock(&user.cli(), order).unwrap();
        let fek = Fek::random(KeyLen::Aes128);
        let packets = wrapped_as_of_old(user, sigs[0], &fek.session_key());
        let refused = lower.mount(user).fek(&packets).unwrap_err();
        assert!(matches!(refused, Failure::Integrity(_)), "{refused:?}");
    }
}
