//! From a locked volume to its keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use claviger_protocol::control::{
    Command, Conversation, KeyInfo, KeyRef, LockTarget, NewRecipient, Prompt, Recovery, Reply,
    ToDaemon, UnlockWith,
};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::Scope;

use crate::harness::{Cli, PIN, User, user_test, wait_until};

user_test! {
    fn a_volume_opens_with_the_pin_of_the_token_that_holds_its_key(user) {
        let (_daemon, key) = user.with_card();
        let (dir, volume, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        // Key generation logged in to the token; a lock of the last volume logs out.
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();

        let prompts = Mutex::new(Vec::new());
        let cli = user.cli().answering(|prompt| {
            prompts.lock().unwrap().push(prompt.text.clone());
            Some(PIN.into())
        });
        let Reply::Unlocked { volume: unlocked, by, .. } =
            cli.unlock(&dir, UnlockWith::AnyKey).unwrap() else { panic!() };
        assert_eq!(unlocked, volume);
        assert_eq!(by.unwrap().key_id, key.key_id);
        let prompts = prompts.lock().unwrap();
        let [text] = prompts.as_slice() else { panic!("{prompts:?}") };
        assert!(text.starts_with("PIN of token \"card\""), "{text}");
        assert!(text.contains(dir.to_str().unwrap()) && text.contains(&volume.to_string()), "{text}");
        assert!(!text.contains("UNKNOWN"), "{text}");
    }
}

user_test! {
    fn a_volume_that_this_machine_has_not_seen_is_named_as_unknown_before_the_pin(user) {
        let (_daemon, key) = user.with_card();
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        fs::remove_file(user.home.join("state/claviger/known_volumes")).unwrap();
        let cli = user.cli().answering(|prompt| {
            assert!(prompt.text.contains("UNKNOWN VOLUME"), "{}", prompt.text);
            None
        });
        assert_eq!(cli.unlock(&dir, UnlockWith::AnyKey).unwrap_err(), Failure::Declined);
    }
}

user_test! {
    fn of_two_who_unlock_at_once_one_is_asked(user) {
        let (_daemon, key) = user.with_card();
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        let order = || Command::Unlock { dir: dir.clone(), with: UnlockWith::AnyKey };

        // The first is being asked before the second comes; the second is never asked.
        let first = user.cli();
        let mut asked = first.connect(order());
        let prompt = Cli::next_prompt(&mut asked);
        let second_prompts = AtomicU32::new(0);
        thread::scope(|scope| {
            let second = scope.spawn(|| {
                let cli = user.cli().answering(|_| {
                    second_prompts.fetch_add(1, Ordering::SeqCst);
                    None
                });
                cli.run(order())
            });
            first.reply(&mut asked, &prompt);
            let Ok(Reply::Unlocked { .. }) = Cli::result(&mut asked) else { panic!() };
            let Ok(Reply::Unlocked { .. }) = second.join().unwrap() else { panic!() };
        });
        assert_eq!(second_prompts.load(Ordering::SeqCst), 0);
        assert_eq!(user.audited("unlock").len(), 1);
    }
}

/// A person who wants `dir` open.
struct Wants<'a> {
    cli: Cli<'a>,
    conversation: Conversation,
}

impl<'a> Wants<'a> {
    fn new(user: &'a User, dir: &Path, with: UnlockWith) -> Self {
        let dir = PathBuf::from(dir);
        let cli = user.cli();
        let conversation = cli.connect(Command::Unlock { dir, with });
        Self { cli, conversation }
    }

    fn is_asked(&mut self) -> Prompt {
        let prompt = Cli::next_prompt(&mut self.conversation);
        assert!(prompt.text.starts_with("PIN of token"), "{}", prompt.text);
        prompt
    }

    fn answers(&mut self, prompt: &Prompt) {
        self.cli.reply(&mut self.conversation, prompt);
    }

    fn says_no(mut self) {
        self.conversation.send(&ToDaemon::Answer(None)).unwrap();
        let declined = Cli::result(&mut self.conversation);
        assert_eq!(declined.unwrap_err(), Failure::Declined);
    }

    fn goes_away(self) {
        drop(self);
    }

    fn has_it_open(&mut self) {
        let result = Cli::result(&mut self.conversation);
        assert!(matches!(result, Ok(Reply::Unlocked { .. })), "{result:?}");
    }
}

/// One that the card's key opens, and others; locked.
fn locked(user: &User, name: &str, keys: &[&KeyInfo]) -> (PathBuf, Option<Secret>) {
    let cli = user.cli();
    let (dir, _, recovery) = cli.init(name, Scope::Volume, keys, Recovery::Make);
    cli.run(Command::Lock(LockTarget::All)).unwrap();
    (dir, recovery)
}

user_test! {
    fn who_waits_for_somebody_who_gives_up_is_asked_himself(user) {
        let (_daemon, key) = user.with_card();
        let (dir, _) = locked(user, "Private", &[&key]);
        let (other, _) = locked(user, "Other", &[&key]);
        // For the volume, and for the PIN of the token.
        for second in [&dir, &other] {
            for gives_up in [Wants::says_no, Wants::goes_away] {
                let mut first = Wants::new(user, &dir, UnlockWith::AnyKey);
                first.is_asked();
                let waiting = || {
                    let log = fs::read_to_string(user.home.join("daemon.log")).unwrap();
                    log.matches("waits for another request").count()
                };
                let before = waiting();
                let mut second = Wants::new(user, second, UnlockWith::AnyKey);
                wait_until("the second waits", || waiting() > before);
                gives_up(first);
                let prompt = second.is_asked();
                second.answers(&prompt);
                second.has_it_open();
                user.cli().run(Command::Lock(LockTarget::All)).unwrap();
            }
        }
    }
}

user_test! {
    fn who_has_something_else_to_unlock_with_waits_for_nobodys_pin(user) {
        let (_daemon, key) = user.with_card();
        let in_file = user.software_key();
        let (dir, recovery) = locked(user, "Private", &[&key, &in_file]);
        let by_card = || UnlockWith::Key(KeyRef::Id(key.key_id.clone()));
        for with in [UnlockWith::AnyKey, UnlockWith::RecoveryKey(recovery.unwrap())] {
            let mut first = Wants::new(user, &dir, by_card());
            let prompt = first.is_asked();
            Wants::new(user, &dir, with).has_it_open();
            // It is open by the time that the PIN is given, and stays so.
            first.answers(&prompt);
            first.has_it_open();
            let Reply::Status(status) = user.cli().run(Command::Status).unwrap() else { panic!() };
            assert_ne!(status.volumes[0].opened_by.as_ref().unwrap().key_id, key.key_id);
            user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        }
    }
}

user_test! {
    fn a_pin_that_the_token_refused_is_asked_for_anew_and_told_about(user) {
        let (_daemon, key) = user.with_card();
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();
        let wrong = user.cli().answering(|_| Some("wrong-pin".into()));
        let refused = wrong.unlock(&dir, UnlockWith::AnyKey).unwrap_err();
        assert!(matches!(refused, Failure::PinWrong { .. }), "{refused:?}");
        let Reply::Unlocked { by, .. } =
            user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap() else { panic!() };
        assert!(by.is_some());
    }
}

user_test! {
    fn the_recovery_key_opens_a_volume_whose_token_is_gone(user) {
        let (daemon, key) = user.with_card();
        let (dir, volume, recovery) =
            user.cli().init("Private", Scope::Volume, &[&key], Recovery::Make);
        drop(daemon);
        user.move_all("tokens", "pulled");
        let _daemon = user.start();

        let absent = user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap_err();
        assert!(matches!(absent, Failure::TokenAbsent { .. }), "{absent:?}");
        let with = UnlockWith::RecoveryKey(recovery.unwrap());
        let Reply::Unlocked { volume: unlocked, by, .. } =
            user.cli().unlock(&dir, with).unwrap() else { panic!() };
        assert_eq!((unlocked, by.unwrap().kind.as_str()), (volume, "recovery"));
    }
}

user_test! {
    fn an_older_manifest_put_back_is_refused_before_anybody_is_asked(user) {
        let (_daemon, key) = user.with_card();
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        let manifest = dir.join(".claviger/volume.toml");
        let old = fs::read(&manifest).unwrap();
        user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap();
        let recipient = NewRecipient::Recovery;
        user.cli().run(Command::RecipientAdd { dir: dir.clone(), recipient }).unwrap();
        user.cli().run(Command::Lock(LockTarget::All)).unwrap();

        fs::write(&manifest, old).unwrap();
        let cli = user.cli().answering(|prompt| panic!("asked: {}", prompt.text));
        let refused = cli.unlock(&dir, UnlockWith::AnyKey).unwrap_err();
        assert!(matches!(refused, Failure::Identity(_)), "{refused:?}");
    }
}

user_test! {
    fn a_manifest_changed_without_the_volumes_key_is_refused(user) {
        let (_daemon, key) = user.with_card();
        let (dir, _, _) = user.cli().init("Private", Scope::Volume, &[&key], Recovery::None);
        let manifest = dir.join(".claviger/volume.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("card key", "Card key")).unwrap();
        let refused = user.cli().unlock(&dir, UnlockWith::AnyKey).unwrap_err();
        assert!(matches!(refused, Failure::Integrity(_)), "{refused:?}");
    }
}

user_test! {
    fn a_folder_without_a_volume_is_not_found(user) {
        let _daemon = user.start();
        let missing = user.cli().unlock(&user.home.join("nothing"), UnlockWith::AnyKey);
        assert!(matches!(missing, Err(Failure::NotFound(_))), "{missing:?}");
        let empty = user.cli().unlock(&user.home.join("state"), UnlockWith::AnyKey);
        assert!(matches!(empty, Err(Failure::NotFound(_))), "{empty:?}");
    }
}
