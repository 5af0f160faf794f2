//! What the promises are tested with.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{
    KeySize, Pkcs1PublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use crate::cancel::Cancel;
use crate::contract::{Fixture, Pin, Subject};
use crate::dhkem::Dhkem;
use crate::host::ModuleHost;
use crate::host::identity::ModuleIdentity;
use crate::key::{Kem, KeyType, PublicKey};
use crate::module::{Locator, ModuleError};
use crate::seed::RecoveryKey;
use crate::wrap::{
    Context, Identity, PublicKeyRecipient, Purpose, Recipient, UnwrapError, Wrapped,
};

pub(super) fn logged_in(fixture: &Fixture) -> ModuleHost {
    let host = ModuleHost::new(fixture.host.clone());
    log_in_all(&host, fixture);
    host
}

/// Starts the module too, where there is nothing to log in to.
pub(super) fn log_in_all(host: &ModuleHost, fixture: &Fixture) {
    host.tokens(soon(), &Cancel::never()).unwrap();
    for subject in &fixture.subjects {
        log_in(host, subject);
    }
}

pub(super) fn log_in(host: &ModuleHost, subject: &Subject) {
    if let Pin::Needed { right, .. } = subject.pin {
        let pin = Zeroizing::new(right.as_bytes().to_vec());
        host.login(&subject.locator, pin, soon(), &Cancel::never())
            .unwrap();
    }
}

pub(super) fn wrap(subject: &Subject, kem: Kem) -> Wrapped {
    let recipient = PublicKeyRecipient::new(subject.public_key.clone(), kem).unwrap();
    recipient.wrap(&CONTEXT, PAYLOAD).unwrap()
}

pub(super) fn identity<'a>(
    host: &'a ModuleHost,
    locator: &'a Locator,
    subject: &'a Subject,
) -> ModuleIdentity<'a> {
    static NEVER: LazyLock<Cancel> = LazyLock::new(Cancel::never);
    ModuleIdentity {
        host,
        locator,
        public_key: &subject.public_key,
        deadline: soon(),
        cancel: &NEVER,
    }
}

pub(super) fn open(
    host: &ModuleHost,
    subject: &Subject,
    wrapped: &Wrapped,
    context: &Context,
) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
    identity(host, &subject.locator, subject).unwrap(wrapped, context)
}

/// What eCryptfs' `pkcs11-helper` module made of a FEK.
pub(super) fn pkcs1_v15(key: &PublicKey, fek: &[u8]) -> Vec<u8> {
    let key = PublicEncryptingKey::from_der(key.spki()).unwrap();
    let key = Pkcs1PublicEncryptingKey::new(key).unwrap();
    let mut ciphertext = vec![0; key.ciphertext_size()];
    key.encrypt(fek, &mut ciphertext).unwrap();
    ciphertext
}

pub(super) fn opens(host: &ModuleHost, subject: &Subject) {
    let opened = open(host, subject, &wrap(subject, subject.kems[0]), &CONTEXT);
    assert_eq!(opened.unwrap().as_slice(), PAYLOAD);
}

pub(super) fn wants_its_pin(host: &ModuleHost, subject: &Subject) {
    let wanting = open(host, subject, &wrap(subject, subject.kems[0]), &CONTEXT);
    let Err(UnwrapError::Module(ModuleError::PinNeeded { .. })) = wanting else {
        panic!("{:?}", wanting.map(drop));
    };
}

/// Stops the running module, as if it hung.
pub(super) fn stop(host: &ModuleHost) -> Pid {
    let pid = host.status().pid.expect("it was just called");
    let pid = Pid::from_raw(pid.cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    pid
}

pub(super) fn wait_until(condition: impl Fn() -> bool) {
    let end = soon();
    while !condition() {
        assert!(Instant::now() < end, "waited in vain");
        thread::yield_now();
    }
}

/// Another key of the same kind.
pub(super) fn another_key(key: &PublicKey) -> PublicKey {
    let rsa = |size| {
        let key = PrivateDecryptingKey::generate(size).unwrap().public_key();
        PublicKey::from_spki(key.as_der().unwrap().as_ref()).unwrap()
    };
    match key.key_type() {
        KeyType::EcP256 => RecoveryKey::generate().derive().public_key().clone(),
        KeyType::EcP384 => Dhkem::P384.derive_key_pair(&[3; 48]).1,
        KeyType::Rsa2048 => rsa(KeySize::Rsa2048),
        KeyType::Rsa3072 => rsa(KeySize::Rsa3072),
        KeyType::Rsa4096 => rsa(KeySize::Rsa4096),
    }
}

/// Enough for any token, and for a loaded machine.
pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(super) const CONTEXT: Context = Context {
    volume: [1; 16],
    epoch: 7,
    purpose: Purpose::EpochKey,
    file: None,
};

pub(super) const PAYLOAD: &[u8] = &[0x5a; 32];
