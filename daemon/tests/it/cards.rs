//! What protects a card: its PIN's tries, and everybody's time when it misbehaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use claviger_protocol::Failure;
use claviger_protocol::control::{
    Answers, Command, FromDaemon, GenerateKey, KeyInfo, KeyRef, LockTarget, PromptKind,
    PromptPlace, Recovery, Reply, UnlockWith,
};
use claviger_vault::ids::{Scope, VolumeId};

use crate::harness::{CLAVIGERD, Cli, Daemon, PIN, User, user_test, wait_until};

/// A card that counts, and a volume that it opens; nobody is logged in.
struct Counting {
    _daemon: Daemon,
    card: PathBuf,
    key: KeyInfo,
    dir: PathBuf,
    volume: VolumeId,
}

impl Counting {
    fn new(user: &User, scope: Scope, settings: &str) -> Self {
        let card = user.home.join("card");
        fs::create_dir(&card).unwrap();
        let module = Path::new(CLAVIGERD).with_file_name("examples/counting_card");
        user.configure(&format!(
            "{settings}\n[modules.card]\nprogram = '{}'\nsettings = {{ dir = '{}', pin = '{PIN}' }}\n",
            module.display(),
            card.display(),
        ));
        let daemon = user.start();
        let order = GenerateKey {
            module: "card".into(),
            key_type: None,
            token: None,
            label: None,
            out: None,
            pin: None,
        };
        let Reply::Key(key) = user.cli().run(Command::KeyGenerate(order)).unwrap() else {
            panic!()
        };
        let (dir, volume, _) = user.cli().init("Private", scope, &[&key], Recovery::None);
        Self {
            _daemon: daemon,
            card,
            key,
            dir,
            volume,
        }
    }

    fn unlock(&self, cli: &Cli<'_>) -> Result<Reply, Failure> {
        cli.unlock(&self.dir, UnlockWith::AnyKey)
    }

    fn tries(&self, tries: u32) {
        fs::write(self.card.join("tries"), tries.to_string()).unwrap();
    }

    /// How many PINs the card was sent.
    fn logins(&self) -> usize {
        let log = fs::read_to_string(self.card.join("logins"));
        log.map_or(0, |log| log.lines().count())
    }

    /// Makes the next key operation misbehave.
    fn next_is(&self, what: &str) {
        fs::write(self.card.join(what), "").unwrap();
    }
}

/// Settings with which there is a token beside the card.
const AND_TOKENS: &str = "[pkcs11]\nlibraries = ['/usr/lib/softhsm/libsofthsm2.so']\n";

impl Counting {
    /// A volume that the card opens and, named after it, a key in a token; nobody is logged in.
    fn and_a_token(&self, user: &User) -> (PathBuf, KeyInfo) {
        user.make_token("token");
        let key = user.cli().generate_in_token("token");
        let keys = [&self.key, &key];
        let (dir, ..) = user
            .cli()
            .init("Both", Scope::Volume, &keys, Recovery::None);
        lock_all(user);
        (dir, key)
    }
}

fn lock_all(user: &User) {
    user.cli().run(Command::Lock(LockTarget::All)).unwrap();
}

/// Unlocks by any key; the id of the one that did it.
fn opened_by(cli: &Cli<'_>, dir: &Path) -> String {
    match cli.unlock(dir, UnlockWith::AnyKey).unwrap() {
        Reply::Unlocked { by: Some(by), .. } => by.key_id,
        other => panic!("{other:?}"),
    }
}

/// A pinentry that gives the right PIN, on a terminal that a CLI call has named.
fn with_pinentry(user: &User) -> String {
    let program = user.home.join("pinentry");
    let script = format!(
        "#!/bin/sh\necho OK\nwhile read -r word rest; do\n\
         case $word in GETPIN) echo 'D {PIN}';; BYE) exit;; esac; echo OK; done\n"
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    format!("[prompts]\npinentry = '{}'\n", program.display())
}

fn name_a_terminal(user: &User) {
    let mut cli = user.cli();
    cli.place = PromptPlace {
        tty: Some("/dev/pts/77".into()),
        ..PromptPlace::default()
    };
    cli.run(Command::Status).unwrap();
}

user_test! {
    fn a_wrong_pin_is_sent_once_and_the_tries_left_are_shown(user) {
        let card = Counting::new(user, Scope::Volume, "");
        let refused = card.unlock(&user.cli().answering(|_| Some("wrong".into()))).unwrap_err();
        assert_eq!(refused, Failure::PinWrong { token: "counting card".into(), tries_left: Some(2) });
        assert_eq!(card.logins(), 1);
        let cli = user.cli().answering(|prompt| {
            assert!(prompt.text.ends_with("2 tries left"), "{}", prompt.text);
            Some(PIN.into())
        });
        card.unlock(&cli).unwrap();
        assert_eq!(card.logins(), 2);
    }
}

user_test! {
    fn the_final_try_is_spent_only_by_a_person_who_was_told_and_said_yes(user) {
        let card = Counting::new(user, Scope::Volume, "");
        card.tries(1);
        let no = user.cli().answering(|prompt| {
            assert_eq!(prompt.kind, PromptKind::Confirm);
            assert!(prompt.text.contains("FINAL TRY"), "{}", prompt.text);
            None
        });
        assert_eq!(card.unlock(&no).unwrap_err(), Failure::Declined);
        assert_eq!(card.logins(), 0);
        let yes = user.cli().answering(|prompt| match prompt.kind {
            PromptKind::Confirm => Some(String::new()),
            _ => Some(PIN.into()),
        });
        card.unlock(&yes).unwrap();
    }
}

user_test! {
    fn lines_of_a_descriptor_never_spend_the_final_try(user) {
        let card = Counting::new(user, Scope::Volume, "");
        card.tries(1);
        let mut cli = user.cli().answering(|prompt| panic!("asked: {}", prompt.text));
        cli.answers = Answers::Descriptor;
        let refused = card.unlock(&cli).unwrap_err();
        assert!(matches!(refused, Failure::PinBlocked { .. }), "{refused:?}");
        assert_eq!(card.logins(), 0);
    }
}

user_test! {
    fn where_policy_says_never_not_even_a_person_spends_the_final_try(user) {
        let card = Counting::new(user, Scope::Volume, "[policy]\nfinal-try = 'never'");
        card.tries(1);
        let cli = user.cli().answering(|prompt| panic!("asked: {}", prompt.text));
        let refused = card.unlock(&cli).unwrap_err();
        assert!(matches!(refused, Failure::PinBlocked { .. }), "{refused:?}");
        assert_eq!(card.logins(), 0);
    }
}

user_test! {
    fn what_a_filesystem_asks_for_never_spends_the_final_try_through_pinentry(user) {
        let card = Counting::new(user, Scope::File, &with_pinentry(user));
        card.unlock(&user.cli()).unwrap();
        let mount = user.mount(card.volume);
        let header = mount.fresh().header;
        name_a_terminal(user);
        // With tries to spare pinentry is good enough.
        crash(&card, &mount, &header);
        mount.unwrap(&header).unwrap();
        crash(&card, &mount, &header);
        card.tries(1);
        let before = card.logins();
        let refused = mount.unwrap(&header).unwrap_err();
        assert!(matches!(refused, Failure::PinBlocked { .. }), "{refused:?}");
        assert_eq!(card.logins(), before);
    }
}

/// Ends the module, and with it the login.
fn crash(card: &Counting, mount: &crate::harness::Mount, header: &[u8]) {
    card.next_is("crash");
    let crashed = mount.unwrap(header).unwrap_err();
    assert!(matches!(crashed, Failure::Module { .. }), "{crashed:?}");
}

user_test! {
    fn a_blocked_card_is_sent_nothing(user) {
        let card = Counting::new(user, Scope::Volume, "");
        card.tries(0);
        let cli = user.cli().answering(|prompt| panic!("asked: {}", prompt.text));
        let refused = card.unlock(&cli).unwrap_err();
        assert!(matches!(refused, Failure::PinBlocked { .. }), "{refused:?}");
        assert_eq!(card.logins(), 0);
        let Reply::Tokens(tokens) = user.cli().run(Command::TokenList).unwrap() else { panic!() };
        let token = tokens.iter().find(|token| token.label == "counting card").unwrap();
        assert_eq!(token.pin_state, "blocked");
    }
}

user_test! {
    fn a_module_that_crashes_fails_one_request_and_the_next_works(user) {
        let card = Counting::new(user, Scope::Volume, "");
        card.next_is("crash");
        let crashed = card.unlock(&user.cli()).unwrap_err();
        assert!(matches!(crashed, Failure::Module { .. }), "{crashed:?}");
        card.unlock(&user.cli()).unwrap();
        let Reply::Status(status) = user.cli().run(Command::Status).unwrap() else { panic!() };
        let module = status.modules.iter().find(|module| module.module == "card").unwrap();
        assert_eq!(module.restarts, 1);
    }
}

user_test! {
    fn a_card_that_hangs_ends_in_a_timeout_and_can_be_used_again(user) {
        let card = Counting::new(user, Scope::Volume, "[policy]\ntoken-timeout-s = 1");
        card.next_is("hang");
        let hung = card.unlock(&user.cli()).unwrap_err();
        assert!(matches!(hung, Failure::TimedOut { .. }), "{hung:?}");
        wait_until("the module was replaced", || card.unlock(&user.cli()).is_ok());
    }
}

user_test! {
    fn a_card_that_takes_long_is_told_about(user) {
        let card = Counting::new(user, Scope::Volume, "");
        card.unlock(&user.cli()).unwrap();
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        card.next_is("slow");
        let cli = user.cli();
        let order = Command::Unlock { dir: card.dir.clone(), with: UnlockWith::AnyKey };
        let mut conversation = cli.connect(order);
        let mut notices = Vec::new();
        loop {
            match conversation.receive().unwrap() {
                FromDaemon::Prompt(prompt) => cli.reply(&mut conversation, &prompt),
                FromDaemon::Notice(text) => notices.push(text),
                FromDaemon::Done(result) => break drop(result.unwrap()),
                FromDaemon::Attached | FromDaemon::Withdrawn => panic!("not asked for"),
            }
        }
        let expected = |text: &String| text.starts_with("The token may be waiting for a touch");
        assert!(notices.iter().any(expected), "{notices:?}");
    }
}

user_test! {
    fn a_request_that_is_called_back_takes_its_prompt_off_the_screen(user) {
        let program = user.home.join("pinentry");
        let pid_file = user.home.join("pinentry.pid");
        let script = format!(
            "#!/bin/sh\necho OK\nwhile read -r word rest; do case $word in\n\
             GETPIN) echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600;; esac; echo OK; done\n",
            pid_file.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let settings = format!("[prompts]\npinentry = '{}'\n", program.display());
        let card = Counting::new(user, Scope::File, &settings);
        card.unlock(&user.cli()).unwrap();
        let mount = user.mount(card.volume);
        let header = mount.fresh().header;
        name_a_terminal(user);
        crash(&card, &mount, &header);

        let (ticket, answer) = mount.begin_unwrap(&header);
        wait_until("pinentry is asking", || pid_file.exists());
        mount.cancel(ticket);
        assert!(answer.recv().unwrap().is_err());
        let pid = fs::read_to_string(&pid_file).unwrap();
        let process = PathBuf::from(format!("/proc/{}", pid.trim()));
        wait_until("pinentry has gone", || !process.exists());
    }
}

user_test! {
    fn a_key_whose_pin_is_in_a_file_is_tried_before_a_card_that_needs_somebody(user) {
        let card = Counting::new(user, Scope::Volume, AND_TOKENS);
        let (dir, key) = card.and_a_token(user);
        let pin_file = user.home.join("pin");
        let write_pin = |pin: &str| {
            fs::write(&pin_file, pin).unwrap();
            fs::set_permissions(&pin_file, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write_pin(PIN);
        let uri = format!("{}?pin-source=file:{}", key.locator, pin_file.display());
        let add = Command::KeyAdd { key: KeyRef::Uri(uri), label: None };
        user.cli().run(add).unwrap();
        lock_all(user);

        let silent = user.cli().answering(|prompt| panic!("asked: {}", prompt.text));
        for tries in [3, 1, 0] {
            card.tries(tries);
            assert_eq!(opened_by(&silent, &dir), key.key_id, "{tries} tries");
            lock_all(user);
        }
        assert_eq!(card.logins(), 0);

        // A wrong PIN is told; one that was told, and is not sent again, keeps nobody out.
        write_pin("wrong-pin");
        let refused = silent.unlock(&dir, UnlockWith::AnyKey).unwrap_err();
        assert!(matches!(refused, Failure::PinWrong { .. }), "{refused:?}");
        let not_sent = silent.unlock(&dir, UnlockWith::AnyKey).unwrap_err();
        assert!(not_sent.to_string().contains("has not changed since"), "{not_sent}");
        card.tries(3);
        assert_eq!(opened_by(&user.cli(), &dir), card.key.key_id);
        assert_eq!(card.logins(), 1);
    }
}

user_test! {
    fn a_final_try_is_not_asked_for_while_another_key_may_do(user) {
        let card = Counting::new(user, Scope::Volume, AND_TOKENS);
        let (dir, key) = card.and_a_token(user);
        for tries in [1, 0] {
            card.tries(tries);
            let cli = user.cli().answering(|prompt| {
                assert!(prompt.text.starts_with("PIN of token \"token\""), "{}", prompt.text);
                Some(PIN.into())
            });
            assert_eq!(opened_by(&cli, &dir), key.key_id, "{tries} tries");
            lock_all(user);
        }
        assert_eq!(card.logins(), 0);
        user.move_all("tokens", "pulled");
        card.tries(1);
        assert_eq!(opened_by(&user.cli(), &dir), card.key.key_id);
    }
}

user_test! {
    fn a_line_of_a_descriptor_meant_for_a_blocked_card_is_not_given_to_another_token(user) {
        let card = Counting::new(user, Scope::Volume, AND_TOKENS);
        let (dir, _) = card.and_a_token(user);
        let mut cli = user.cli().answering(|prompt| panic!("asked: {}", prompt.text));
        cli.answers = Answers::Descriptor;
        for tries in [1, 0] {
            card.tries(tries);
            let refused = cli.unlock(&dir, UnlockWith::AnyKey).unwrap_err();
            assert!(matches!(refused, Failure::PinBlocked { .. }), "{refused:?}");
        }
    }
}
