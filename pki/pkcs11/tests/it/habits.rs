//! Habits of cards that SoftHSM does not have: see `examples/card_habits.rs`.

use std::fs;
use std::path::PathBuf;
use std::thread;

use claviger_pki::key::{Kem, KeyType};
use claviger_pki::module::{Key, ModuleError, PinState};

use crate::softhsm::{Module, PIN, SoftHsm, TOKEN, WRONG_PIN};

/// A card, and the folder in which its habits are switched.
struct Card {
    softhsm: SoftHsm,
    habits: PathBuf,
}

impl Card {
    fn new() -> Self {
        let library = PathBuf::from(env!("CARGO_BIN_EXE_claviger-pki-pkcs11"))
            .with_file_name("examples")
            .join("libcard_habits.so");
        assert!(
            library.exists(),
            "cargo builds examples for tests, unless told which to build"
        );
        let library = library.to_str().unwrap();
        let mut softhsm = SoftHsm::with_token().through(library, "CARD_HABITS_LIBRARY");
        let habits = softhsm.path("habits");
        fs::create_dir(&habits).unwrap();
        softhsm.set("CARD_HABITS", &habits);
        Self { softhsm, habits }
    }

    fn begin(&self, habit: &str, value: &str) {
        fs::write(self.habits.join(habit), value).unwrap();
    }

    fn end(&self, habit: &str) {
        fs::remove_file(self.habits.join(habit)).unwrap();
    }

    fn logins(&self) -> Vec<String> {
        let text = fs::read_to_string(self.habits.join("logins")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// An RSA key with CKA_ALWAYS_AUTHENTICATE, which SoftHSM honours. The log of logins is empty then.
    fn key_with_pin_each_time(&self) -> Key {
        self.softhsm.pkcs11_tool(&[
            "--keypairgen",
            "--key-type=rsa:2048",
            "--usage-decrypt",
            "--sensitive",
            "--always-auth",
            "--id=07",
            "--label=each time",
        ]);
        let keys = self.softhsm.logged_in().keys("pkcs11:id=%07").unwrap();
        self.end("logins");
        let [mut key] = <[Key; 1]>::try_from(keys).unwrap();
        key.kems.truncate(1);
        key
    }

    /// Logged in, with an RSA key.
    fn in_use(&self) -> (Module, Key) {
        let module = self.softhsm.logged_in();
        let key = module.generate(TOKEN, KeyType::Rsa2048).unwrap();
        (module, key)
    }
}

fn token(error: &ModuleError) -> &str {
    match error {
        ModuleError::PinNeeded { token, .. }
        | ModuleError::PinWrong { token, .. }
        | ModuleError::PinBlocked { token } => token,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_final_try_is_not_spent_unless_asked_for() {
    let card = Card::new();
    card.begin("tries", "2");
    let module = card.softhsm.module();
    let error = module.login(TOKEN, WRONG_PIN).unwrap_err();
    assert!(
        matches!(
            error,
            ModuleError::PinWrong {
                state: PinState::FinalTry,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(token(&error).starts_with("token \"card\" (serial "));
    assert_eq!(module.tokens().unwrap()[0].pin_state, PinState::FinalTry);

    // Neither the right PIN nor another wrong one is sent.
    for pin in [PIN, "000000"] {
        let error = module.login(TOKEN, pin).unwrap_err();
        assert!(
            matches!(
                error,
                ModuleError::PinNeeded {
                    state: PinState::FinalTry,
                    ..
                }
            ),
            "{error:?}"
        );
    }
    assert_eq!(card.logins().len(), 1);

    module
        .login(&format!("{TOKEN}?final-try=allow"), PIN)
        .unwrap();
    assert_eq!(module.tokens().unwrap()[0].pin_state, PinState::Ok);
}

#[test]
fn a_blocked_pin_is_said_to_be_blocked_and_nothing_is_sent() {
    let card = Card::new();
    card.begin("tries", "1");
    let module = card.softhsm.module();
    let locator = format!("{TOKEN}?final-try=allow");
    let error = module.login(&locator, WRONG_PIN).unwrap_err();
    assert!(
        matches!(
            error,
            ModuleError::PinWrong {
                state: PinState::Blocked,
                ..
            }
        ),
        "{error:?}"
    );
    let error = module.login(&locator, PIN).unwrap_err();
    assert!(matches!(error, ModuleError::PinBlocked { .. }), "{error:?}");
    let error = module.keys(TOKEN).unwrap_err();
    assert!(matches!(error, ModuleError::PinBlocked { .. }), "{error:?}");
    assert_eq!(card.logins().len(), 1);
}

#[test]
fn on_a_reader_with_a_pad_an_empty_pin_is_typed_there() {
    let card = Card::new();
    card.begin("pad", PIN);
    let module = card.softhsm.module();
    module.login(TOKEN, "").unwrap();
    let key = module.generate(TOKEN, KeyType::EcP256).unwrap();
    module.use_key(&key).unwrap();
}

#[test]
fn what_is_typed_on_a_pad_may_be_wrong_and_tried_again() {
    let card = Card::new();
    card.begin("pad", WRONG_PIN);
    let module = card.softhsm.module();
    for _ in 0..2 {
        let error = module.login(TOKEN, "").unwrap_err();
        assert!(matches!(error, ModuleError::PinWrong { .. }), "{error:?}");
    }
    card.begin("pad", PIN);
    module.login(TOKEN, "").unwrap();
}

#[test]
fn whoever_presses_cancel_on_the_pad_may_do_so_often() {
    let card = Card::new();
    card.begin("pad", "cancel");
    let module = card.softhsm.module();
    let cancelled = ModuleError::Backend {
        call: "C_Login".into(),
        detail: "CKR_FUNCTION_CANCELED".into(),
    };
    for _ in 0..6 {
        assert_eq!(module.login(TOKEN, ""), Err(cancelled.clone()));
    }
    card.begin("pad", PIN);
    module.login(TOKEN, "").unwrap();
    assert_eq!(module.0.status().restarts, 0);
}

#[test]
fn a_key_that_wants_its_pin_each_time_gets_it_for_one_operation() {
    let card = Card::new();
    let key = card.key_with_pin_each_time();
    let module = card.softhsm.module();
    for _ in 0..2 {
        let error = module.use_key(&key).unwrap_err();
        assert!(matches!(error, ModuleError::PinNeeded { .. }), "{error:?}");
        module.login(&key.locator.0, PIN).unwrap();
        module.use_key(&key).unwrap();
    }
    assert_eq!(card.logins(), ["user", "context", "context"]);
}

#[test]
fn a_wrong_pin_for_one_operation_is_forgotten_too() {
    let card = Card::new();
    let key = card.key_with_pin_each_time();
    let module = card.softhsm.logged_in();

    module.login(&key.locator.0, WRONG_PIN).unwrap();
    let error = module.use_key(&key).unwrap_err();
    assert!(matches!(error, ModuleError::PinWrong { .. }), "{error:?}");
    // It is gone, and given again it is not sent.
    let error = module.use_key(&key).unwrap_err();
    assert!(matches!(error, ModuleError::PinNeeded { .. }), "{error:?}");
    module.login(&key.locator.0, WRONG_PIN).unwrap();
    let error = module.use_key(&key).unwrap_err();
    assert!(matches!(error, ModuleError::PinWrong { .. }), "{error:?}");
    assert_eq!(card.logins(), ["user", "context"]);

    module.login(&key.locator.0, PIN).unwrap();
    module.use_key(&key).unwrap();
}

#[test]
fn a_card_pulled_and_put_back_is_absent_then_wants_its_pin_then_works() {
    let card = Card::new();
    let (module, key) = card.in_use();
    for _ in 0..2 {
        module.use_key(&key).unwrap();
        card.begin("removed", "");
        let error = module.use_key(&key).unwrap_err();
        assert!(matches!(error, ModuleError::Absent(_)), "{error:?}");
        assert_eq!(module.tokens().unwrap(), []);
        card.end("removed");
        let error = module.use_key(&key).unwrap_err();
        assert!(matches!(error, ModuleError::PinNeeded { .. }), "{error:?}");
        module.login(&key.locator.0, PIN).unwrap();
    }
    assert_eq!(module.0.status().restarts, 0);
}

#[test]
fn a_failed_decryption_that_leaves_its_session_stuck_spoils_no_other() {
    let card = Card::new();
    let (module, key) = card.in_use();
    card.begin("stuck", "");
    for _ in 0..3 {
        let garbage = vec![0x11; 256];
        let refused = module.open(&key, Kem::RsaOaepSha1, garbage);
        assert_eq!(refused, Err(ModuleError::NotDecryptable));
        module.use_key(&key).unwrap();
    }
    assert_eq!(card.logins(), ["user"]);
}

#[test]
fn a_library_that_lists_no_slots_any_more_is_given_a_new_process() {
    let card = Card::new();
    let (module, key) = card.in_use();
    module.logout();
    card.begin("wedged", "");
    let error = module.tokens().unwrap_err();
    assert_eq!(error, ModuleError::Process("ended: exit status: 70".into()));
    card.end("wedged");
    module.login(&key.locator.0, PIN).unwrap();
    module.use_key(&key).unwrap();
    assert_eq!(module.0.status().restarts, 1);
}

#[test]
fn a_library_that_opens_no_session_is_given_a_new_process_after_a_few_tries() {
    let card = Card::new();
    let module = card.softhsm.module();
    card.begin("deaf", "");
    let errors: Vec<_> = (0..4)
        .map(|_| module.login(TOKEN, PIN).unwrap_err())
        .collect();
    let deaf = ModuleError::Backend {
        call: "C_OpenSession".into(),
        detail: "CKR_DEVICE_ERROR".into(),
    };
    assert_eq!(errors[..3], [deaf.clone(), deaf.clone(), deaf]);
    assert_eq!(
        errors[3],
        ModuleError::Process("ended: exit status: 70".into())
    );
    card.end("deaf");
    module.login(TOKEN, PIN).unwrap();
    assert_eq!(card.logins(), ["user"]);
}

#[test]
fn a_card_pulled_under_load_is_never_taken_for_a_bad_ciphertext() {
    let card = Card::new();
    let (module, key) = card.in_use();
    for _ in 0..5 {
        thread::scope(|scope| {
            let callers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| module.use_until_it_fails(&key)))
                .collect();
            card.begin("removed", "");
            for caller in callers {
                let error = caller.join().unwrap();
                assert!(matches!(error, ModuleError::Absent(_)), "{error:?}");
            }
        });
        card.end("removed");
        module.login(&key.locator.0, PIN).unwrap();
        module.use_key(&key).unwrap();
    }
    assert_eq!(module.0.status().restarts, 0);
}

#[test]
fn a_library_that_never_listed_a_slot_says_why_and_is_asked_again() {
    let card = Card::new();
    card.begin("wedged", "");
    let module = card.softhsm.module();
    let unlisted = ModuleError::Backend {
        call: "C_GetSlotList".into(),
        detail: "CKR_GENERAL_ERROR".into(),
    };
    for _ in 0..5 {
        assert_eq!(module.tokens(), Err(unlisted.clone()));
    }
    assert_eq!(module.0.status().restarts, 0);
}
