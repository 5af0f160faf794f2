//! Who is asked, and what happens if there is nobody.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use claviger_protocol::Failure;
use claviger_protocol::control::{
    Command, FromDaemon, KeyRef, LockTarget, PromptPlace, Recovery, Reply, UnlockWith,
};
use claviger_vault::ids::{Scope, VolumeId};

use crate::harness::{Cli, Mount, PIN, User, user_test};

/// A volume of file scope that was unlocked by its recovery key's companion, the token being logged out: the
/// next open of a file needs the PIN.
fn cold_file(user: &User, cli: &Cli<'_>) -> (Mount, Vec<u8>, VolumeId) {
    user.make_token("card");
    let key = cli.generate_in_token("card");
    let (dir, volume, _) = cli.init("Strict", Scope::File, &[&key], Recovery::None);
    cli.unlock(&dir, UnlockWith::AnyKey).unwrap();
    let mount = user.mount(volume);
    let header = mount.fresh().header;
    mount.unwrap(&header).unwrap();
    (mount, header, volume)
}

/// Ends the module, and with it the login.
fn pull_and_put_back(cli: &Cli<'_>) {
    let Reply::Status(status) = cli.run(Command::Status).unwrap() else {
        panic!()
    };
    let module = status
        .modules
        .iter()
        .find(|module| module.module == "pkcs11")
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(module.pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    crate::harness::wait_until("the module has gone", || {
        let Reply::Status(status) = cli.run(Command::Status).unwrap() else {
            panic!()
        };
        status
            .modules
            .iter()
            .all(|running| running.pid != module.pid)
    });
}

user_test! {
    fn an_attached_cli_is_asked_for_what_a_filesystem_needs(user) {
        let _daemon = user.start();
        let cli = user.cli();
        let (mount, header, volume) = cold_file(user, &cli);
        pull_and_put_back(&cli);
        let mut attached = cli.attach();
        thread::scope(|scope| {
            let opened = scope.spawn(|| mount.unwrap(&header));
            let prompt = Cli::next_prompt(&mut attached);
            assert!(prompt.text.contains("to open a file of volume"), "{}", prompt.text);
            assert!(prompt.text.contains(&volume.to_string()), "{}", prompt.text);
            assert!(prompt.text.contains("(process "), "{}", prompt.text);
            cli.reply(&mut attached, &prompt);
            opened.join().unwrap().unwrap();
        });
    }
}

user_test! {
    fn sixteen_opens_at_once_ask_for_one_pin(user) {
        let _daemon = user.start();
        let cli = user.cli();
        let (mount, header, _) = cold_file(user, &cli);
        pull_and_put_back(&cli);
        let mut attached = cli.attach();
        thread::scope(|scope| {
            let opened: Vec<_> = (0..16).map(|_| scope.spawn(|| mount.unwrap(&header))).collect();
            let prompt = Cli::next_prompt(&mut attached);
            cli.reply(&mut attached, &prompt);
            for opened in opened {
                opened.join().unwrap().unwrap();
            }
        });
        // Had a second prompt been sent, it would be among what has arrived by now.
        drop(mount);
        attached.stream().set_nonblocking(true).unwrap();
        while let Ok(message) = attached.receive::<FromDaemon>() {
            assert!(matches!(message, FromDaemon::Notice(_)), "{message:?}");
        }
    }
}

user_test! {
    fn with_nobody_to_ask_a_cold_access_fails_at_once_and_says_what_to_type(user) {
        let _daemon = user.start();
        let cli = user.cli();
        let (mount, header, _) = cold_file(user, &cli);
        pull_and_put_back(&cli);
        let begun = Instant::now();
        let refused = mount.unwrap(&header).unwrap_err();
        assert!(matches!(refused, Failure::NobodyToAsk { .. }), "{refused:?}");
        assert!(refused.to_string().contains("claviger unlock"), "{refused}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

user_test! {
    fn pinentry_appears_on_the_terminal_and_displays_that_a_cli_call_named(user) {
        let program = user.home.join("pinentry");
        let log = user.home.join("pinentry.log");
        let script = format!(
            "#!/bin/sh\necho \"$DISPLAY $XAUTHORITY $WAYLAND_DISPLAY\" >> {0}\necho OK\nwhile read -r word rest; do echo \"$word $rest\" >> {0}\n\
             case $word in GETPIN) echo 'D {PIN}';; BYE) exit;; esac; echo OK; done\n",
            log.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        user.configure(&format!(
            "[pkcs11]\nlibraries = ['/usr/lib/softhsm/libsofthsm2.so']\n[prompts]\npinentry = '{}'\n",
            program.display()
        ));
        let _daemon = user.start();
        let mut cli = user.cli();
        cli.place = PromptPlace {
            tty: Some("/dev/pts/77".into()),
            display: Some(":77".into()),
            xauthority: Some("/run/key".into()),
            wayland_display: Some("wayland-7".into()),
            term: None,
        };
        let (mount, header, volume) = cold_file(user, &cli);
        pull_and_put_back(&cli);
        mount.unwrap(&header).unwrap();
        let log = fs::read_to_string(log).unwrap();
        assert!(log.starts_with(":77 /run/key wayland-7\n"), "{log}");
        assert!(log.contains("OPTION ttyname=/dev/pts/77\n"), "{log}");
        assert!(log.contains("OPTION display=:77\n"), "{log}");
        assert!(log.contains(&volume.to_string()), "{log}");
    }
}

user_test! {
    fn a_pin_source_answers_for_a_person_and_a_refused_one_is_not_sent_again(user) {
        user.make_token("card");
        let _daemon = user.start();
        let silent = user.cli().answering(|prompt| panic!("asked: {}", prompt.text));
        user.cli().generate_in_token("card");
        let Reply::Keys(keys) = user.cli().run(Command::KeyList).unwrap() else { panic!() };
        let pin_file = user.home.join("pin");
        let write_pin = |pin: &str| {
            fs::write(&pin_file, pin).unwrap();
            fs::set_permissions(&pin_file, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write_pin(PIN);
        user.cli().run(Command::KeyRemove { key: KeyRef::Id(keys[0].key_id.clone()) }).unwrap();
        let uri = format!("{}?pin-source=file:{}", keys[0].locator, pin_file.display());
        let add = Command::KeyAdd { key: KeyRef::Uri(uri), label: None };
        let Reply::Key(key) = silent.run(add).unwrap() else { panic!() };
        let (dir, _, _) = silent.init("Private", Scope::Volume, &[&key], Recovery::None);
        pull_and_put_back(&silent);

        write_pin("wrong-pin");
        let refused = silent.unlock(&dir, UnlockWith::AnyKey).unwrap_err();
        assert!(matches!(refused, Failure::PinWrong { .. }), "{refused:?}");
        let not_sent = silent.unlock(&dir, UnlockWith::AnyKey).unwrap_err();
        assert!(not_sent.to_string().contains("has not changed since"), "{not_sent}");
        write_pin(PIN);
        silent.unlock(&dir, UnlockWith::AnyKey).unwrap();
    }
}

user_test! {
    fn a_key_may_be_named_by_any_uri_that_fits_it_and_with_a_pin_source(user) {
        let _daemon = user.start();
        user.make_token("card");
        let key = user.cli().generate_in_token("card");
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        pull_and_put_back(&user.cli());
        let pin_file = user.home.join("pin");
        fs::write(&pin_file, PIN).unwrap();
        fs::set_permissions(&pin_file, fs::Permissions::from_mode(0o600)).unwrap();

        let silent = user.cli().answering(|prompt| panic!("asked: {}", prompt.text));
        let uri = |path: &str| KeyRef::Uri(format!("{path}?pin-source={}", pin_file.display()));
        silent.unlock(&dir, UnlockWith::Key(uri("pkcs11:token=card;object=card%20key"))).unwrap();

        // Enrolled once more, the key keeps the pin-source.
        pull_and_put_back(&silent);
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        let add = Command::KeyAdd { key: uri(&key.locator), label: None };
        let Reply::Key(enrolled) = silent.run(add).unwrap() else { panic!() };
        assert_eq!(enrolled.key_id, key.key_id);
        silent.unlock(&dir, UnlockWith::AnyKey).unwrap();
    }
}

user_test! {
    fn a_cli_that_goes_away_calls_its_command_off(user) {
        let _daemon = user.start();
        let cli = user.cli();
        user.make_token("card");
        let key = cli.generate_in_token("card");
        let (dir, _, _) = cli.init("Private", Scope::Volume, &[&key], Recovery::None);
        pull_and_put_back(&cli);
        let order = Command::Unlock { dir: dir.clone(), with: UnlockWith::AnyKey };
        let mut asked = cli.connect(order);
        Cli::next_prompt(&mut asked);
        drop(asked);
        crate::harness::wait_until("the failure is in the audit log", || {
            user.audited("unlock").iter().any(|line| line["result"] != "ok")
        });
        cli.unlock(&dir, UnlockWith::AnyKey).unwrap();
    }
}
