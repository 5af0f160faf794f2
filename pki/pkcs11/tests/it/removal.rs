//! A token's folder moved away is the nearest SoftHSM has to a card that is pulled.

use std::thread;

use claviger_pki::key::KeyType;
use claviger_pki::module::ModuleError;

use crate::softhsm::{PIN, SoftHsm, TOKEN};

#[test]
fn a_token_pulled_while_in_use_is_absent_until_it_is_put_back_and_then_wants_its_pin() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::Rsa2048).unwrap();
    module.use_key(&key).unwrap();
    for _ in 0..3 {
        softhsm.pull();
        for _ in 0..2 {
            let absent = module.use_key(&key).unwrap_err();
            assert!(matches!(absent, ModuleError::Absent(_)), "{absent:?}");
            assert_eq!(module.tokens().unwrap(), []);
        }
        softhsm.put_back();
        let wanting = module.use_key(&key).unwrap_err();
        assert!(
            matches!(wanting, ModuleError::PinNeeded { .. }),
            "{wanting:?}"
        );
        module.login(&key.locator.0, PIN).unwrap();
        module.use_key(&key).unwrap();
    }
}

#[test]
fn a_token_pulled_and_put_back_unseen_is_found_again() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::EcP256).unwrap();
    module.logout();
    softhsm.pull();
    assert_eq!(module.tokens().unwrap(), []);
    softhsm.put_back();
    module.login(TOKEN, PIN).unwrap();
    module.use_key(&key).unwrap();
}

#[test]
fn a_token_that_comes_after_the_module_has_started_is_seen() {
    let softhsm = SoftHsm::empty();
    let module = softhsm.module();
    assert_eq!(module.tokens().unwrap(), []);
    let absent = module.login(TOKEN, PIN).unwrap_err();
    assert_eq!(absent, ModuleError::Absent(TOKEN.into()));
    softhsm.add_token("card");
    module.login(TOKEN, PIN).unwrap();
    assert_eq!(module.tokens().unwrap().len(), 1);
}

#[test]
fn a_token_that_is_absent_costs_another_one_no_login() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::EcP256).unwrap();
    let mut elsewhere = key.clone();
    elsewhere.locator.0 = "pkcs11:serial=ffff;id=%01".into();
    for _ in 0..3 {
        assert!(matches!(
            module.use_key(&elsewhere),
            Err(ModuleError::Absent(_))
        ));
        module.use_key(&key).unwrap();
    }
}

#[test]
fn a_token_pulled_under_load_fails_all_callers_alike_and_comes_back() {
    let softhsm = SoftHsm::with_token();
    let module = softhsm.logged_in();
    let key = module.generate(TOKEN, KeyType::Rsa2048).unwrap();
    for _ in 0..5 {
        thread::scope(|scope| {
            let callers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| module.use_until_it_fails(&key)))
                .collect();
            softhsm.pull();
            for caller in callers {
                let error = caller.join().unwrap();
                assert!(matches!(error, ModuleError::Absent(_)), "{error:?}");
            }
        });
        softhsm.put_back();
        module.login(&key.locator.0, PIN).unwrap();
        module.use_key(&key).unwrap();
    }
    assert_eq!(module.0.status().restarts, 0);
}
