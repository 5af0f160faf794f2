//! Opening one wrapped epoch key: by a token, a passphrase or the recovery key.

use std::sync::Arc;

use claviger_pki::key::PublicKey;
use claviger_pki::seed::{PassphraseKdf, RecoveryKey, SeededKey};
use claviger_pki::wrap::{self, Context, Identity, Purpose, UnwrapError, Wrapped};
use claviger_protocol::control::{PromptKind, UnlockWith};
use claviger_protocol::{Failure, Secret};
use claviger_vault::epoch::EpochKey;
use claviger_vault::manifest::{Argon2id, Enrolled, Manifest, RecipientKind};
use zeroize::Zeroizing;

use crate::daemon::Daemon;
use crate::enrol::OwnKey;
use crate::failure;
use crate::prompt::Question;
use crate::tokens::{Login, Request, TokenError};

/// The epoch key, and whose wrap gave it.
pub(super) struct Opened<'a> {
    pub(super) key: EpochKey,
    pub(super) by: &'a Enrolled,
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
            let own = daemon.own_keys.find(key)?;
            let recipient = claims.recipients().iter().find(|enrolled| is_of(enrolled, &own));
            let by = recipient.ok_or_else(|| {
                Failure::NotARecipient(format!("key {} does not open this volume", own.label))
            })?;
            let key = by_token(daemon, claims, by, &own, Login::IfNeeded, request);
            Ok(Opened { key: key.map_err(plain)?, by })
        }
        UnlockWith::RecoveryKey(text) => by_recovery_key(claims, text),
        UnlockWith::Passphrase(passphrase) => by_passphrase(claims, passphrase.expose()),
    }
}

/// By whatever is here: first what needs nobody, then what needs a PIN, then a passphrase.
fn by_any<'a>(
    daemon: &Daemon,
    claims: &'a Manifest,
    request: &Arc<Request>,
) -> Result<Opened<'a>, Failure> {
    let own = daemon.own_keys.usable()?;
    let mine = claims.recipients().iter().filter_map(|enrolled| {
        let own = own.iter().find(|own| is_of(enrolled, own))?;
        Some((enrolled, own))
    });
    let mut need_pin = Vec::new();
    let mut worst = None;
    for (by, own) in mine {
        match by_token(daemon, claims, by, own, Login::Never, request) {
            Ok(key) => return Ok(Opened { key, by }),
            Err(TokenError::PinNeeded) => need_pin.push((by, own)),
            Err(TokenError::Failed(failure)) => keep_telling(&mut worst, failure),
        }
        request.wait.check("a token")?;
    }
    for (by, own) in need_pin {
        match by_token(daemon, claims, by, own, Login::IfNeeded, request) {
            Ok(key) => return Ok(Opened { key, by }),
            // Gone since the first round: the next one may be here.
            Err(TokenError::Failed(failure @ Failure::TokenAbsent { .. })) => {
                keep_telling(&mut worst, failure);
            }
            Err(error) => return Err(plain(error)),
        }
    }
    let has_passphrase = |enrolled: &Enrolled| {
        matches!(enrolled.recipient.kind(), RecipientKind::Passphrase(_))
    };
    if claims.recipients().iter().any(has_passphrase) {
        match ask_passphrase(daemon, request) {
            Ok(passphrase) => return by_passphrase(claims, &passphrase),
            // What keeps the tokens from opening it tells more.
            Err(Failure::NobodyToAsk { .. }) if worst.is_some() => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(worst.unwrap_or_else(|| nobody_opens(claims)))
}

fn by_token(
    daemon: &Daemon,
    claims: &Manifest,
    enrolled: &Enrolled,
    own: &OwnKey,
    login: Login,
    request: &Arc<Request>,
) -> Result<EpochKey, TokenError> {
    let failed = |error: UnwrapError| TokenError::Failed(failure::of_unwrap(&own.module, error));
    let key = public_key(enrolled).map_err(TokenError::Failed)?;
    let wrapped = wrapped(enrolled, &key).map_err(TokenError::Failed)?;
    let step = wrapped.step(&key, own.locator.clone()).map_err(failed)?;
    let secret = daemon.tokens.decapsulate(&own.module, &step, login, request)?;
    let payload = wrap::open(&wrapped, &key, &context(claims), &secret).map_err(failed)?;
    epoch_key(&payload).map_err(TokenError::Failed)
}

fn by_recovery_key<'a>(claims: &'a Manifest, text: &Secret) -> Result<Opened<'a>, Failure> {
    let text = core::str::from_utf8(text.expose()).unwrap_or_default();
    let recovery = RecoveryKey::parse(text)
        .map_err(|_| Failure::Usage("that is not a recovery key: check what was typed".into()))?;
    let key = recovery.derive();
    let by = of_key(claims, key.public_key()).ok_or_else(|| {
        Failure::NotARecipient("this recovery key does not open this volume".into())
    })?;
    Ok(Opened { key: by_seed(claims, by, &key)?, by })
}

fn by_passphrase<'a>(claims: &'a Manifest, passphrase: &[u8]) -> Result<Opened<'a>, Failure> {
    for by in claims.recipients() {
        let RecipientKind::Passphrase(parameters) = by.recipient.kind() else {
            continue;
        };
        let key = kdf(parameters)?.derive(passphrase);
        if key.public_key().spki() == by.recipient.spki() {
            return Ok(Opened { key: by_seed(claims, by, &key)?, by });
        }
    }
    Err(Failure::NotARecipient("this passphrase does not open this volume".into()))
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

/// Keeps what tells more: that a token is not here is the least.
fn keep_telling(worst: &mut Option<Failure>, failure: Failure) {
    if matches!(worst, None | Some(Failure::TokenAbsent { .. })) {
        *worst = Some(failure);
    }
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

fn is_of(enrolled: &Enrolled, own: &OwnKey) -> bool {
    enrolled.recipient.key_id().0 == own.key_id.0
}

fn of_key<'a>(claims: &'a Manifest, key: &PublicKey) -> Option<&'a Enrolled> {
    let mut recipients = claims.recipients().iter();
    recipients.find(|enrolled| enrolled.recipient.spki() == key.spki())
}

fn public_key(enrolled: &Enrolled) -> Result<PublicKey, Failure> {
    PublicKey::from_spki(enrolled.recipient.spki())
        .map_err(|error| Failure::Integrity(format!("manifest: {error}")))
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
        return Err(Failure::Integrity("a wrapped epoch key has the wrong size".into()));
    }
    bytes.copy_from_slice(payload);
    EpochKey::new(&mut bytes).map_err(|error| Failure::Internal(error.to_string()))
}

/// The parameters as they stand in a manifest, for the one who derives.
pub(super) fn kdf(parameters: &Argon2id) -> Result<PassphraseKdf, Failure> {
    let _ = parameters;
    unimplemented!("adapted when seed has landed")
}

fn plain(error: TokenError) -> Failure {
    match error {
        TokenError::Failed(failure) => failure,
        TokenError::PinNeeded => Failure::NobodyToAsk { what: "PIN".into() },
    }
}
