//! What every module promises, tested on the module program itself.
//!
//! A module crate says how to set up its key store, and gets one test a promise:
//!
//! ```ignore
//! fn fixture() -> claviger_pki::contract::Fixture { … }
//! claviger_pki::module_contract!(fixture);
//! ```
//!
//! It runs the program under a [`ModuleHost`], as `clavigerd` does, with real keys. A module that
//! hangs is made by stopping it with SIGSTOP, one that crashes by SIGKILL.

#![allow(clippy::unwrap_used)] // It is a test.

mod bench;

use std::any::Any;
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use crate::cancel::{self, Cancel};
use crate::contract::bench::{
    CONTEXT, PAYLOAD, another_key, identity, log_in, log_in_all, logged_in, open, opens, pkcs1_v15,
    soon, stop, wait_until, wants_its_pin, wrap,
};
use crate::host::identity::ModuleIdentity;
use crate::host::{HostConfig, ModuleHost};
use crate::key::{Kem, PublicKey};
use crate::module::{Decapsulate, DecryptPkcs1V15, Locator, ModuleError};
use crate::wrap::{Context, Identity, PublicKeyRecipient, Recipient, UnwrapError};

/// A module program and the keys it can use.
pub struct Fixture {
    /// How to run it.
    pub host: HostConfig,
    /// Keys in its store, one of each kind that it supports.
    pub subjects: Vec<Subject>,
    /// What must live as long as the store: temporary folders, simulators.
    pub keep: Box<dyn Any>,
}

/// A key to test with.
pub struct Subject {
    /// What [`Module::keys`](crate::module::Module::keys) finds it by.
    pub selector: String,
    /// Where it is.
    pub locator: Locator,
    /// Its public half.
    pub public_key: PublicKey,
    /// KEMs that the module must declare for it, and do.
    pub kems: Vec<Kem>,
    /// What opens it.
    pub pin: Pin,
}

/// What opens a key.
#[derive(Clone, Copy)]
pub enum Pin {
    /// Nothing is needed.
    None,
    /// A PIN, auth value or passphrase.
    Needed {
        /// The right one.
        right: &'static str,
        /// A wrong one that costs one try of those left; `None` where that would block the store.
        wrong: Option<&'static str>,
    },
}

/// One test for each promise; `$fixture` is a function that gives a [`Fixture`].
#[macro_export]
macro_rules! module_contract {
    ($fixture:path) => {
        $crate::module_contract!($fixture:
            a_key_is_found_by_its_selector_with_all_it_can_do
            what_was_wrapped_to_a_key_opens_by_every_kem_it_declares
            what_was_wrapped_to_another_key_does_not_open
            a_key_is_used_only_for_the_public_key_it_was_enrolled_as
            what_was_wrapped_for_another_context_does_not_open
            garbage_is_refused_and_the_module_lives_on
            a_fek_wrapped_by_pkcs1_v15_opens_where_a_module_is_made_to_and_garbage_never
            a_locator_that_leads_nowhere_is_an_error_that_names_no_secret
            a_key_with_a_pin_wants_it_before_it_opens_anything
            logging_out_forgets_the_pin
            calls_made_at_once_are_all_answered_right
            a_call_is_called_back_although_the_module_hangs
            a_module_that_hangs_past_its_deadline_is_replaced
            a_module_killed_in_mid_call_fails_that_call_and_the_next_one_works
            a_module_ends_when_its_host_does
        );
    };
    ($fixture:path: $($promise:ident)*) => {
        $(
            #[test]
            fn $promise() {
                $crate::contract::$promise(&$fixture());
            }
        )*
    };
}

/// A promise.
pub fn a_key_is_found_by_its_selector_with_all_it_can_do(fixture: &Fixture) {
    let host = logged_in(fixture);
    for subject in &fixture.subjects {
        let keys = host
            .keys(&subject.selector, soon(), &Cancel::never())
            .unwrap();
        let key = keys.iter().find(|key| key.public_key == subject.public_key);
        let key = key.expect("the key is among those found");
        assert_eq!(key.kems, subject.kems);
        // The locator found must lead to the key too.
        let wrapped = wrap(subject, subject.kems[0]);
        let opened = identity(&host, &key.locator, subject).unwrap(&wrapped, &CONTEXT);
        assert_eq!(opened.unwrap().as_slice(), PAYLOAD);
    }
}

/// A promise.
pub fn what_was_wrapped_to_a_key_opens_by_every_kem_it_declares(fixture: &Fixture) {
    let host = logged_in(fixture);
    for subject in &fixture.subjects {
        for &kem in &subject.kems {
            let opened = open(&host, subject, &wrap(subject, kem), &CONTEXT);
            assert_eq!(opened.unwrap().as_slice(), PAYLOAD, "{kem}");
        }
    }
}

/// A promise.
pub fn what_was_wrapped_to_another_key_does_not_open(fixture: &Fixture) {
    let host = logged_in(fixture);
    for subject in &fixture.subjects {
        for &kem in &subject.kems {
            let other = PublicKeyRecipient::new(another_key(&subject.public_key), kem).unwrap();
            let wrapped = other.wrap(&CONTEXT, PAYLOAD).unwrap();
            let opened = open(&host, subject, &wrapped, &CONTEXT);
            assert_eq!(opened, Err(UnwrapError::NotDecryptable), "{kem}");
        }
        opens(&host, subject);
    }
}

/// A promise.
pub fn a_key_is_used_only_for_the_public_key_it_was_enrolled_as(fixture: &Fixture) {
    let host = logged_in(fixture);
    for subject in &fixture.subjects {
        let wrapped = wrap(subject, subject.kems[0]);
        let call = Decapsulate {
            public_key: another_key(&subject.public_key),
            ..wrapped
                .step(&subject.public_key, subject.locator.clone())
                .unwrap()
        };
        let result = host.decapsulate(call, soon(), &Cancel::never());
        assert!(
            matches!(result, Err(ModuleError::NoSuchKey(_))),
            "{:?}",
            result.map(drop)
        );
        opens(&host, subject);
    }
}

/// A promise.
pub fn what_was_wrapped_for_another_context_does_not_open(fixture: &Fixture) {
    let host = logged_in(fixture);
    let other = Context {
        epoch: CONTEXT.epoch + 1,
        ..CONTEXT
    };
    for subject in &fixture.subjects {
        let wrapped = wrap(subject, subject.kems[0]);
        let opened = open(&host, subject, &wrapped, &other);
        assert_eq!(opened, Err(UnwrapError::NotDecryptable));
    }
}

/// A promise.
pub fn garbage_is_refused_and_the_module_lives_on(fixture: &Fixture) {
    let host = logged_in(fixture);
    let pid = host.status().pid;
    for subject in &fixture.subjects {
        for &kem in &subject.kems {
            let right_len = subject.public_key.key_type().encapsulation_len();
            for len in [0, 1, right_len - 1, right_len, right_len + 1, 4096] {
                let mut encapsulation = vec![0; len];
                rand::fill(&mut encapsulation).unwrap();
                let call = Decapsulate {
                    locator: subject.locator.clone(),
                    public_key: subject.public_key.clone(),
                    kem,
                    encapsulation,
                };
                let refused = host.decapsulate(call, soon(), &Cancel::never());
                assert_eq!(
                    refused,
                    Err(ModuleError::NotDecryptable),
                    "{kem}, {len} bytes"
                );
            }
        }
        let mut wrapped = wrap(subject, subject.kems[0]);
        wrapped.sealed[0] ^= 1;
        let opened = open(&host, subject, &wrapped, &CONTEXT);
        assert_eq!(opened, Err(UnwrapError::NotDecryptable));
        opens(&host, subject);
    }
    assert_eq!(host.status().pid, pid);
}

/// A promise.
pub fn a_fek_wrapped_by_pkcs1_v15_opens_where_a_module_is_made_to_and_garbage_never(
    fixture: &Fixture,
) {
    let host = logged_in(fixture);
    let rsa = |subject: &&Subject| subject.public_key.rsa().is_some();
    for subject in fixture.subjects.iter().filter(rsa) {
        let decrypt = |ciphertext: Vec<u8>| {
            let call = DecryptPkcs1V15 {
                locator: subject.locator.clone(),
                public_key: subject.public_key.clone(),
                ciphertext,
            };
            host.decrypt_pkcs1_v15(call, soon(), &Cancel::never())
        };
        let fek = [7; 35];
        let wrapped = pkcs1_v15(&subject.public_key, &fek);
        match decrypt(wrapped.clone()) {
            Ok(opened) => assert_eq!(opened.as_slice(), fek),
            Err(ModuleError::Unsupported(_)) => continue,
            Err(other) => panic!("{other}"),
        }
        for place in [0, wrapped.len() - 1] {
            let mut garbage = wrapped.clone();
            garbage[place] ^= 1;
            // A token may answer bad padding with something made up.
            let opened = decrypt(garbage);
            let refused = matches!(opened, Err(ModuleError::NotDecryptable));
            assert!(refused || opened.is_ok_and(|opened| opened.as_slice() != fek));
        }
        let short = decrypt(wrapped.get(1..).unwrap_or_default().to_vec());
        assert_eq!(short, Err(ModuleError::NotDecryptable));
        opens(&host, subject);
    }
}

/// A promise.
pub fn a_locator_that_leads_nowhere_is_an_error_that_names_no_secret(fixture: &Fixture) {
    let host = logged_in(fixture);
    let subject = &fixture.subjects[0];
    for locator in [
        "",
        "\0",
        "/nonexistent/key.pem",
        "pkcs11:token=nonexistent;id=%99",
        "%%%",
    ] {
        let locator = Locator(locator.into());
        let wrapped = wrap(subject, subject.kems[0]);
        let error = identity(&host, &locator, subject).unwrap(&wrapped, &CONTEXT);
        assert!(
            matches!(
                error,
                Err(UnwrapError::Module(
                    ModuleError::Absent(_) | ModuleError::NoSuchKey(_) | ModuleError::BadRequest(_)
                ))
            ),
            "{locator:?}: {:?}",
            error.map(drop)
        );
    }
    opens(&host, subject);
}

/// A promise.
pub fn a_key_with_a_pin_wants_it_before_it_opens_anything(fixture: &Fixture) {
    let host = ModuleHost::new(fixture.host.clone());
    for subject in &fixture.subjects {
        let Pin::Needed { wrong, .. } = subject.pin else {
            opens(&host, subject);
            continue;
        };
        host.logout(soon()).unwrap();
        wants_its_pin(&host, subject);
        if let Some(wrong) = wrong {
            let pin = Zeroizing::new(wrong.as_bytes().to_vec());
            let refused = host.login(&subject.locator, pin, soon(), &Cancel::never());
            assert!(
                matches!(refused, Err(ModuleError::PinWrong { .. })),
                "{refused:?}"
            );
            wants_its_pin(&host, subject);
        }
        log_in(&host, subject);
        opens(&host, subject);
    }
}

/// A promise.
pub fn logging_out_forgets_the_pin(fixture: &Fixture) {
    let host = logged_in(fixture);
    host.logout(soon()).unwrap();
    for subject in &fixture.subjects {
        if let Pin::Needed { .. } = subject.pin {
            wants_its_pin(&host, subject);
        }
    }
}

/// A promise.
pub fn calls_made_at_once_are_all_answered_right(fixture: &Fixture) {
    let host = &logged_in(fixture);
    thread::scope(|scope| {
        for number in 0..16_u8 {
            let subject = &fixture.subjects[usize::from(number) % fixture.subjects.len()];
            scope.spawn(move || {
                let payload = [number; 32];
                let recipient =
                    PublicKeyRecipient::new(subject.public_key.clone(), subject.kems[0]).unwrap();
                let wrapped = recipient.wrap(&CONTEXT, &payload).unwrap();
                let opened = open(host, subject, &wrapped, &CONTEXT).unwrap();
                assert_eq!(opened.as_slice(), payload);
            });
        }
    });
}

/// A promise.
pub fn a_call_is_called_back_although_the_module_hangs(fixture: &Fixture) {
    let host = &logged_in(fixture);
    let subject = &fixture.subjects[0];
    let pid = stop(host);
    let (canceller, cancel) = cancel::pair();
    thread::scope(|scope| {
        let call = scope.spawn(move || {
            let wrapped = wrap(subject, subject.kems[0]);
            let identity = ModuleIdentity {
                cancel: &cancel,
                ..identity(host, &subject.locator, subject)
            };
            identity.unwrap(&wrapped, &CONTEXT)
        });
        wait_until(|| host.status().in_flight == 1);
        canceller.cancel();
        let called_back = call.join().unwrap();
        let expected = Err(UnwrapError::Module(ModuleError::Cancelled));
        assert_eq!(called_back, expected);
    });
    kill(pid, Signal::SIGCONT).unwrap();
    opens(host, subject);
    assert_eq!(host.status().restarts, 0);
}

/// A promise.
pub fn a_module_that_hangs_past_its_deadline_is_replaced(fixture: &Fixture) {
    let config = HostConfig {
        grace: Duration::from_millis(200),
        ..fixture.host.clone()
    };
    let host = ModuleHost::new(config);
    log_in_all(&host, fixture);
    let subject = &fixture.subjects[0];
    let pid = stop(&host);
    let wrapped = wrap(subject, subject.kems[0]);
    let started = Instant::now();
    let identity = ModuleIdentity {
        deadline: started + Duration::from_millis(300),
        ..identity(&host, &subject.locator, subject)
    };
    let late = identity.unwrap(&wrapped, &CONTEXT);
    assert_eq!(late, Err(UnwrapError::Module(ModuleError::TimedOut)));
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );

    wait_until(|| host.status().pid.is_none());
    log_in_all(&host, fixture);
    opens(&host, subject);
    let status = host.status();
    assert_eq!(status.restarts, 1);
    assert_ne!(status.pid, u32::try_from(pid.as_raw()).ok());
}

/// A promise.
pub fn a_module_killed_in_mid_call_fails_that_call_and_the_next_one_works(fixture: &Fixture) {
    let host = &logged_in(fixture);
    let subject = &fixture.subjects[0];
    let pid = stop(host);
    thread::scope(|scope| {
        let call = scope.spawn(|| open(host, subject, &wrap(subject, subject.kems[0]), &CONTEXT));
        wait_until(|| host.status().in_flight == 1);
        kill(pid, Signal::SIGKILL).unwrap();
        let failed = call.join().unwrap();
        let Err(UnwrapError::Module(ModuleError::Process(how))) = failed else {
            panic!("{failed:?}");
        };
        assert_eq!(how, "ended: signal: 9 (SIGKILL)");
    });
    log_in_all(host, fixture);
    opens(host, subject);
    assert_eq!(host.status().restarts, 1);
}

/// A promise.
pub fn a_module_ends_when_its_host_does(fixture: &Fixture) {
    let host = logged_in(fixture);
    let pid = host.status().pid.expect("it was just called");
    drop(host);
    let raw = Pid::from_raw(pid.cast_signed());
    assert_eq!(kill(raw, None), Err(Errno::ESRCH));
}
