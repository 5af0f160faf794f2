//! Opening one wrapped epoch key: by a token, a passphrase or the recovery key.

use std::sync::Arc;

use claviger_pki::auth_tok::enrolled::EnrolledKey;
use claviger_pki::key::{KeyId, PublicKey};
use claviger_pki::seed::{RecoveryKey, Seed, SeededKey};
use claviger_pki::wrap::{Context, Identity, Purpose, Wrapped};
use claviger_protocol::control::{PromptKind, UnlockWith};
use claviger_protocol::{Failure, Secret};
use claviger_vault::epoch::EpochKey;
use claviger_vault::manifest::{Enrolled, Manifest, RecipientKind};
use zeroize::Zeroizing;

use crate::audit::UsedKey;
use crate::daemon::Daemon;
use crate::enrol::Named;
use crate::failure;
use crate::opener::{Candidate, OpenError};
use crate::prompt::Question;
use crate::tokens::Request;
use crate::wait::Wait;

use super::recipient::{kdf, public_key};

/// The epoch key, and whose wrap gave it.
pub(super) struct Opened<'a> {
    pub(super) key: EpochKey,
    pub(super) by: &'a Enrolled,
    /// What the private key is made of, where no token holds it.
    pub(super) seed: Option<Seed>,
    /// Who unwrapped it.
    module: String,
}

impl Opened<'_> {
    /// For the audit log.
    pub(super) fn used_key(&self) -> UsedKey {
        UsedKey {
            key_id: Some(self.by.recipient.key_id().to_string()),
            module: Some(self.module.clone()),
        }
    }
}

/// Unwraps the current epoch key of what `claims` to be a volume, by what the person named.
pub(super) fn open<'a>(
    daemon: &Daemon,
    claims: &'a Manifest,
    with: &UnlockWith,
    request: &Arc<Request>,
) -> Result<Opened<'a>, Failure> {
    match with {
        UnlockWith::AnyKey => by_any(daemon, claims, request),
        UnlockWith::Key(key) => {
            let no_recipient = |label: &str| {
                Failure::NotARecipient(format!("key {label} does not open this volume"))
            };
            let own = match daemon.name(key, request)? {
                Named::Private(own) => *own,
                Named::Public(_, _, label) => return Err(no_recipient(&label)),
            };
            let label = own.label.clone();
            let opened = by_tokens(daemon, claims, &Which::Only(own), request);
            opened.map_err(|error| error.or(|| no_recipient(&label)))
        }
        UnlockWith::RecoveryKey(text) => by_recovery_key(claims, text),
        UnlockWith::Passphrase(passphrase) => {
            by_passphrase(claims, passphrase.expose(), &request.wait)
        }
    }
}

/// By whatever is here: the keys in tokens and files, then a passphrase.
fn by_any<'a>(
    daemon: &Daemon,
    claims: &'a Manifest,
    request: &Arc<Request>,
) -> Result<Opened<'a>, Failure> {
    let worst = match by_tokens(daemon, claims, &Which::Any, request) {
        Ok(opened) => return Ok(opened),
        // Who does not touch a token is not there to be asked for something else.
        Err(OpenError::Ended(failure) | OpenError::Failed(failure @ Failure::TimedOut { .. })) => {
            return Err(failure);
        }
        Err(error) => error.or(|| nobody_opens(claims)),
    };
    let mut recipients = claims
        .recipients()
        .iter()
        .map(|enrolled| enrolled.recipient.kind());
    if recipients.any(|kind| matches!(kind, RecipientKind::Passphrase(_))) {
        match ask_passphrase(daemon, request) {
            Ok(passphrase) => return by_passphrase(claims, &passphrase, &request.wait),
            // What keeps a token from opening it tells more.
            Err(Failure::NobodyToAsk { .. }) if !matches!(worst, Failure::NotARecipient(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(worst)
}

/// Which of this user's keys are tried.
enum Which {
    Any,
    /// With the locator that the person gave.
    Only(EnrolledKey),
}

fn by_tokens<'a>(
    daemon: &Daemon,
    claims: &'a Manifest,
    which: &Which,
    request: &Arc<Request>,
) -> Result<Opened<'a>, OpenError> {
    let mut recipients = Vec::new();
    let mut candidates = Vec::new();
    for by in claims.recipients() {
        let key_id = KeyId(by.recipient.key_id().0);
        let Some(mut own) = daemon.own_keys.usable(key_id)? else {
            continue;
        };
        match which {
            Which::Any => {}
            Which::Only(only) if only.key_id() == key_id => own.locator = only.locator.clone(),
            Which::Only(_) => continue,
        }
        let public_key = public_key(&by.recipient)?;
        let wrapped = wrapped(by, &public_key)?;
        recipients.push((by, own.module.clone()));
        candidates.push(Candidate {
            own,
            public_key,
            wrapped,
        });
    }
    let (number, payload) = daemon
        .tokens
        .open_any(&candidates, &context(claims), request, None)?;
    let (by, module) = recipients
        .into_iter()
        .nth(number)
        .ok_or(OpenError::NoCandidate)?;
    Ok(Opened {
        key: epoch_key(&payload)?,
        by,
        seed: None,
        module,
    })
}

fn by_recovery_key<'a>(claims: &'a Manifest, text: &Secret) -> Result<Opened<'a>, Failure> {
    let text = core::str::from_utf8(text.expose()).unwrap_or_default();
    let recovery = RecoveryKey::parse(text)
        .map_err(|_| Failure::Usage("that is not a recovery key: check what was typed".into()))?;
    let key = recovery.derive();
    let by = of_key(claims, key.public_key()).ok_or_else(|| {
        Failure::NotARecipient("this recovery key does not open this volume".into())
    })?;
    Ok(Opened {
        key: by_seed(claims, by, &key)?,
        by,
        seed: Some(recovery.into_seed()),
        module: by.recipient.kind().word().into(),
    })
}

/// Each try takes seconds if the manifest says so, and an enemy's may list thousands: whoever asked
/// can call it off between two.
fn by_passphrase<'a>(
    claims: &'a Manifest,
    passphrase: &[u8],
    wait: &Wait,
) -> Result<Opened<'a>, Failure> {
    for by in claims.recipients() {
        let RecipientKind::Passphrase(parameters) = by.recipient.kind() else {
            continue;
        };
        wait.check("the passphrase")?;
        let seed = kdf(parameters)?.seed(passphrase);
        let key = seed.derive();
        if key.public_key().spki() == by.recipient.spki() {
            return Ok(Opened {
                key: by_seed(claims, by, &key)?,
                by,
                seed: Some(seed),
                module: by.recipient.kind().word().into(),
            });
        }
    }
    Err(Failure::NotARecipient(
        "this passphrase does not open this volume".into(),
    ))
}

fn by_seed(claims: &Manifest, by: &Enrolled, key: &SeededKey) -> Result<EpochKey, Failure> {
    let wrapped = wrapped(by, key.public_key())?;
    let payload = key.unwrap(&wrapped, &context(claims));
    epoch_key(&payload.map_err(|error| failure::of_unwrap("passphrase", error))?)
}

fn ask_passphrase(daemon: &Daemon, request: &Request) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let question = Question {
        kind: PromptKind::Passphrase,
        subject: "passphrase".into(),
        text: format!("Passphrase\n{}", request.errand),
    };
    let wait = request.wait.shortened(daemon.prompts.timeout());
    request.asker.ask(&question, &wait)
}

fn nobody_opens(claims: &Manifest) -> Failure {
    let labels = claims.recipients().iter().map(|enrolled| {
        let recipient = &enrolled.recipient;
        format!("{} ({})", recipient.label(), recipient.kind().word())
    });
    let labels: Vec<_> = labels.collect();
    Failure::NotARecipient(format!(
        "no enrolled key opens volume {}; it opens with {}",
        claims.volume(),
        labels.join(", ")
    ))
}

fn of_key<'a>(claims: &'a Manifest, key: &PublicKey) -> Option<&'a Enrolled> {
    let mut recipients = claims.recipients().iter();
    recipients.find(|enrolled| enrolled.recipient.spki() == key.spki())
}

fn wrapped(enrolled: &Enrolled, key: &PublicKey) -> Result<Wrapped, Failure> {
    Wrapped::parse(enrolled.wrap.algorithm, &enrolled.wrap.body, key)
        .map_err(|error| failure::of_unwrap("manifest", error))
}

/// What wraps of the current epoch key are bound to.
fn context(claims: &Manifest) -> Context {
    Context {
        volume: claims.volume().0,
        epoch: claims.epoch().0,
        purpose: Purpose::EpochKey,
        file: None,
    }
}

fn epoch_key(payload: &[u8]) -> Result<EpochKey, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    if payload.len() != bytes.len() {
        return Err(Failure::Integrity(
            "a wrapped epoch key has the wrong size".into(),
        ));
    }
    bytes.copy_from_slice(payload);
    EpochKey::new(&mut bytes).map_err(|error| Failure::Internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use core::convert::Infallible;
    use core::time::Duration;

    use claviger_pki::key::Kem;
    use claviger_vault::ids::Scope;
    use claviger_vault::manifest::{Argon2id, Recipient, Wrap};

    use super::*;

    #[test]
    fn a_manifest_of_many_passphrases_is_given_up_when_the_time_is_over() {
        let costly = |number| {
            let argon2id = Argon2id {
                salt: [number; 16],
                memory_kib: 2 << 20,
                passes: 2,
                lanes: 1,
            };
            Recipient::new(RecipientKind::Passphrase(argon2id), "", vec![number])
        };
        let wrap = |_: &Recipient, _: claviger_vault::manifest::ToWrap<'_>| {
            Ok::<_, Infallible>(Wrap {
                algorithm: Kem::DhkemP256.number(),
                body: Vec::new(),
            })
        };
        let recipients = (0..200).map(costly).collect();
        let (claims, _) = Manifest::create(Scope::Volume, recipients, wrap).unwrap();
        let given_up = by_passphrase(&claims, b"passphrase", &Wait::at_most(Duration::ZERO));
        assert!(matches!(given_up, Err(Failure::TimedOut { .. })));
    }
}
