use std::fs;
use std::thread;

use claviger_pki::key::KeyType;
use claviger_pki::module::ModuleError;

use crate::library::opensc;
use crate::softhsm::{PIN, SoftHsm, TOKEN, WRONG_PIN};

/// SoftHSM behind a library of OpenSC's that logs every call and hands it on.
fn watched() -> SoftHsm {
    let spy = opensc("pkcs11-spy.so");
    let spy = spy.to_str().unwrap();
    let mut softhsm = SoftHsm::with_token().through(spy, "PKCS11SPY");
    softhsm.set("PKCS11SPY_OUTPUT", &softhsm.path("calls"));
    softhsm
}

/// How often the library was called with `function`.
fn calls(softhsm: &SoftHsm, function: &str) -> usize {
    let log = fs::read_to_string(softhsm.path("calls")).unwrap();
    log.lines()
        .filter(|line| line.ends_with(&format!(": {function}")))
        .count()
}

#[test]
fn a_refused_pin_is_never_sent_again() {
    let softhsm = watched();
    let module = softhsm.module();
    for _ in 0..3 {
        let refused = module.login(TOKEN, WRONG_PIN);
        assert!(
            matches!(refused, Err(ModuleError::PinWrong { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(calls(&softhsm, "C_Login"), 1);

    // Not even after the token was looked for anew.
    module.tokens().unwrap();
    assert!(matches!(
        module.login(TOKEN, WRONG_PIN),
        Err(ModuleError::PinWrong { .. })
    ));
    assert_eq!(calls(&softhsm, "C_Login"), 1);

    module.login(TOKEN, PIN).unwrap();
    assert_eq!(calls(&softhsm, "C_Login"), 2);
}

#[test]
fn one_login_serves_all_and_no_operation_looks_anything_up() {
    let softhsm = watched();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::Rsa2048).unwrap();
    module.use_key(&key).unwrap();
    module.login(TOKEN, PIN).unwrap();
    assert_eq!(calls(&softhsm, "C_Login"), 1);

    let count = |function| calls(&softhsm, function);
    let functions = [
        "C_OpenSession",
        "C_FindObjectsInit",
        "C_GetSlotList",
        "C_GetAttributeValue",
    ];
    let before = functions.map(count);
    let decrypted = count("C_Decrypt");
    for _ in 0..10 {
        module.use_key(&key).unwrap();
    }
    assert_eq!(functions.map(count), before);
    // One call an operation: none to ask for the length.
    assert_eq!(count("C_Decrypt"), decrypted + 10 * key.kems.len());
}

#[test]
fn an_empty_pin_is_not_sent_to_a_token_without_a_pad() {
    let softhsm = watched();
    let module = softhsm.module();
    let refused = module.login(TOKEN, "");
    assert!(
        matches!(refused, Err(ModuleError::PinNeeded { .. })),
        "{refused:?}"
    );
    assert_eq!(calls(&softhsm, "C_Login"), 0);
}

#[test]
fn keys_are_not_told_of_nor_used_before_a_login_nor_after_a_logout() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::EcP256).unwrap();
    module.logout();
    for _ in 0..2 {
        let wanting = module.use_key(&key).unwrap_err();
        assert!(
            matches!(wanting, ModuleError::PinNeeded { .. }),
            "{wanting:?}"
        );
        let wanting = module.keys(TOKEN).unwrap_err();
        assert!(
            matches!(wanting, ModuleError::PinNeeded { .. }),
            "{wanting:?}"
        );
        let wanting = module.generate(TOKEN, KeyType::EcP256).unwrap_err();
        assert!(
            matches!(wanting, ModuleError::PinNeeded { .. }),
            "{wanting:?}"
        );
    }
    module.login(&key.locator.0, PIN).unwrap();
    module.use_key(&key).unwrap();
}

#[test]
fn a_logout_in_the_middle_of_work_leaves_nothing_behind_that_spoils_the_next_login() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::Rsa2048).unwrap();
    for _ in 0..10 {
        thread::scope(|scope| {
            let callers: Vec<_> = (0..6)
                .map(|_| scope.spawn(|| module.use_until_it_fails(&key)))
                .collect();
            module.use_key(&key).unwrap();
            module.logout();
            for caller in callers {
                let error = caller.join().unwrap();
                assert!(matches!(error, ModuleError::PinNeeded { .. }), "{error:?}");
            }
        });
        module.login(TOKEN, PIN).unwrap();
        for _ in 0..4 {
            module.use_key(&key).unwrap();
        }
    }
}
