//! The module: the tokens of one PKCS#11 library as a [`Module`].

use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::Instant;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::{
    Decapsulate, Generate, Key, Locator, Module, ModuleError, Provenance, Token,
};
use claviger_pki::p11_uri::Uri;
use claviger_pki::wire;
use cryptoki::context::Function;
use cryptoki::error::Error;
use zeroize::Zeroizing;

use crate::fault::Fault;
use crate::generate::{self, first_choice};
use crate::kem::{self, Steps, Verdict};
use crate::key::{self, EachUse, HeldKey, PrivateKey, token_uri};
use crate::library::{Library, Threads, backend, describe};
use crate::pin::{self, FinalTry, HeldPin};
use crate::settings::Settings;
use crate::sys::ContextLogin;
use crate::tokens::{self, Lease, Need, Seen, Tokens};

/// The tokens that one PKCS#11 library reaches.
///
/// Locators are PKCS#11 URIs with serial number and CKA_ID; selectors may be any PKCS#11 URI, and an
/// empty one means every token.
pub struct Store {
    tokens: Tokens,
    concurrency: usize,
}

impl Store {
    /// Loads the library that the settings name.
    ///
    /// # Errors
    /// `BadRequest` naming the library and what is wrong with it, or the setting.
    pub fn open(settings: &wire::Settings) -> Result<Self, ModuleError> {
        let settings = Settings::parse(settings)?;
        let library = Library::load(&settings.library)?;
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        let concurrency = match (library.threads(), settings.concurrency) {
            (Threads::One, _) => 1,
            (Threads::Several, Some(count)) => count.get(),
            (Threads::Several, None) => library.known_concurrency(processors),
        };
        Ok(Self {
            tokens: Tokens::new(library, concurrency),
            concurrency,
        })
    }
}

impl Module for Store {
    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn tokens(&self) -> Result<Vec<Token>, ModuleError> {
        let seen = self.tokens.present(&Uri::default())?;
        Ok(seen.into_iter().map(describe_token).collect())
    }

    fn keys(&self, selector: &str) -> Result<Vec<Key>, ModuleError> {
        let uri = if selector.is_empty() {
            Uri::default()
        } else {
            parse(selector)?
        };
        let seen = self.tokens.present(&uri)?;
        match &seen[..] {
            [] => Err(ModuleError::Absent(uri.to_string())),
            [one] => {
                let keys = self.keys_of(one, &uri)?;
                if keys.is_empty() && uri.names_one_object() {
                    return Err(ModuleError::NoSuchKey(uri.to_string()));
                }
                Ok(keys)
            }
            several => {
                let mut keys = Vec::new();
                for token in several {
                    match self.keys_of(token, &uri) {
                        Ok(found) => keys.extend(found),
                        Err(error) => {
                            let token = tokens::name(&token.facts);
                            tracing::info!(token, %error, "keys not listed");
                        }
                    }
                }
                Ok(keys)
            }
        }
    }

    fn generate(&self, order: &Generate) -> Result<Key, ModuleError> {
        if order.out.is_some() || order.pin.is_some() {
            let text = "a key in a PKCS#11 token has neither a file nor a PIN of its own";
            return Err(ModuleError::BadRequest(text.into()));
        }
        let mut uri = if order.token.is_empty() {
            Uri::default()
        } else {
            parse(&order.token)?
        };
        let lease = self.tokens.lease_to_write(&uri)?;
        let slot = lease
            .slot()
            .ok_or_else(|| ModuleError::Absent(uri.to_string()))?;
        let mechanisms = lease.library().context.get_mechanism_list(slot);
        let mechanisms = mechanisms.map_err(|error| backend(&error))?;
        let key_type = order
            .key_type
            .map_or_else(|| first_choice(&mechanisms), Ok)?;
        // A PIV card has fixed places for keys, which an id in the selector names.
        let id = uri.id.take().map_or_else(random_id, Ok)?;
        let pair = generate::generate(lease.session(), key_type, &id, &order.label)
            .map_err(|error| backend(&error))?;

        uri = token_uri(&lease.facts());
        uri.id = Some(id);
        let made = self
            .only_key(&lease, &uri)
            .and_then(|key| match key.provenance {
                Provenance::Extractable => Err(ModuleError::Unsupported(
                    "the token made a key that can leave it".into(),
                )),
                Provenance::Hardware | Provenance::Imported | Provenance::Software => Ok(key),
            });
        if made.is_err()
            && let Err(error) = pair.destroy(lease.session())
        {
            tracing::warn!(
                error = describe(&error),
                "a useless new key stays in the token"
            );
        }
        made
    }

    fn login(&self, locator: &Locator, pin: &Zeroizing<Vec<u8>>) -> Result<(), ModuleError> {
        let uri = parse(&locator.0)?;
        self.tokens.login(&uri, pin)?;
        if !uri.names_one_object() || pin.is_empty() {
            return Ok(());
        }
        let lease = self.tokens.lease(&uri, Need::Login)?;
        let keys = key::private_keys(lease.session(), &uri).map_err(|error| backend(&error))?;
        if keys.iter().any(|key| key.held.login == EachUse::Login) {
            let final_try = FinalTry::asked_for(&uri);
            let held = HeldPin {
                key_id: uri.id.clone(),
                final_try,
                pin: pin.clone(),
            };
            self.tokens.hold_pin(&lease, held);
        }
        Ok(())
    }

    fn logout(&self) {
        self.tokens.logout();
    }

    fn decapsulate(
        &self,
        call: &Decapsulate,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        let uri = parse(&call.locator.0)?;
        let key_type = call.public_key.key_type();
        if !key_type.kems().contains(&call.kem) {
            let text = format!("{} is not for keys of type {key_type}", call.kem);
            return Err(ModuleError::BadRequest(text));
        }
        if call.encapsulation.len() != key_type.encapsulation_len() {
            return Err(ModuleError::NotDecryptable);
        }
        match self.attempt(call, &uri, deadline) {
            Ok(secret) => Ok(secret),
            Err(Failed::ForGood(error)) => Err(error),
            // Everything was closed. Opened anew it works, or says what is missing: token or PIN.
            Err(Failed::Lost(_)) => {
                self.attempt(call, &uri, deadline)
                    .map_err(|failed| match failed {
                        Failed::ForGood(error) => error,
                        Failed::Lost(error) => backend(&error),
                    })
            }
        }
    }
}

/// Why an attempt at an operation failed.
enum Failed {
    /// Trying again would not help.
    ForGood(ModuleError),
    /// The token or its session was lost; all of its sessions are closed.
    Lost(Error),
}

impl From<ModuleError> for Failed {
    fn from(error: ModuleError) -> Self {
        Self::ForGood(error)
    }
}

impl Store {
    fn attempt(
        &self,
        call: &Decapsulate,
        uri: &Uri,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        if Instant::now() >= deadline {
            return Err(ModuleError::TimedOut.into());
        }
        let mut lease = self.tokens.lease(uri, Need::Login)?;
        let key = match find(&mut lease, uri, &call.public_key, call.kem) {
            Ok(Some(key)) => key,
            Ok(None) => return Err(ModuleError::NoSuchKey(uri.to_string()).into()),
            Err(error) => {
                lease.lost(&error);
                return Err(Failed::Lost(error));
            }
        };
        let held = match (key.login, kem::steps(call.kem)) {
            (EachUse::Login, Steps::Decrypt(_)) => {
                Some(self.tokens.take_pin(&lease, uri.id.as_deref())?)
            }
            // C_DeriveKey has no place for a login of its own (PKCS #11 v2.40 section 4.4).
            (EachUse::Login, Steps::Derive { .. }) | (EachUse::NoLogin, _) => None,
        };
        let login = match &held {
            None => ContextLogin::NotNeeded,
            Some(None) => ContextLogin::PinPad,
            Some(Some(held)) => ContextLogin::Pin(&held.pin),
        };
        let functions = &lease.library().functions;
        let opened = kem::open(
            functions,
            lease.session(),
            key.handle,
            call.kem,
            &call.encapsulation,
            login,
        );
        let error = match opened {
            Ok(secret) => return Ok(secret),
            Err(error) => error,
        };

        tracing::debug!(error = describe(&error), "decapsulation");
        if matches!(error, Error::Pkcs11(_, Function::Login)) {
            let pin = held
                .flatten()
                .map_or_else(Zeroizing::default, |held| held.pin);
            let refused = self.tokens.context_login_refused(&lease, &pin, &error);
            lease.spoil();
            return Err(refused.into());
        }
        match Fault::of(&error) {
            Fault::Ciphertext => {
                lease.spoil();
                Err(ModuleError::NotDecryptable.into())
            }
            Fault::Mechanism => {
                lease.spoil();
                Err(ModuleError::Unsupported(describe(&error)).into())
            }
            Fault::Gone => {
                lease.lost(&error);
                Err(Failed::Lost(error))
            }
            Fault::Unclear => {
                lease.spoil();
                self.judge(call, uri, error)
            }
        }
    }

    /// After an error that may mean a bad ciphertext or a broken device: a token that opens what is
    /// known to be good has judged the ciphertext.
    fn judge(
        &self,
        call: &Decapsulate,
        uri: &Uri,
        error: Error,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let mut lease = self.tokens.lease(uri, Need::Login)?;
        let tested = find(&mut lease, uri, &call.public_key, call.kem).and_then(|key| match key {
            None => Ok(Verdict::Wrong),
            // Not worth a second PIN. That it is found over a new session has to do.
            Some(HeldKey {
                login: EachUse::Login,
                ..
            }) => Ok(Verdict::Right),
            Some(HeldKey {
                login: EachUse::NoLogin,
                handle,
            }) => {
                let functions = &lease.library().functions;
                kem::self_test(
                    functions,
                    lease.session(),
                    handle,
                    &call.public_key,
                    call.kem,
                )
            }
        });
        match tested {
            Ok(Verdict::Right) => Err(ModuleError::NotDecryptable.into()),
            Ok(Verdict::Wrong) | Err(_) => {
                lease.lost(&error);
                Err(Failed::Lost(error))
            }
        }
    }

    /// Keys of one token. It must be logged in: what its keys are good for cannot be told otherwise.
    fn keys_of(&self, token: &Seen, uri: &Uri) -> Result<Vec<Key>, ModuleError> {
        let mut token_only = token_uri(&token.facts);
        let lease = self.tokens.lease(&token_only, Need::Login)?;
        let found = key::private_keys(lease.session(), uri).map_err(|error| backend(&error))?;
        let depth = if uri.names_one_object() {
            Depth::SelfTest
        } else {
            Depth::Ask
        };
        let mut keys = Vec::new();
        for private in found {
            token_only.id = (!private.id.is_empty()).then(|| private.id.clone());
            token_only.object = private.id.is_empty().then(|| private.label.clone());
            let Some(key) = self.describe_key(&lease, &token_only, &private, depth)? else {
                continue;
            };
            if key.kems.is_empty() && depth == Depth::SelfTest {
                let text = format!("{} has no KEM for {uri}", tokens::name(&token.facts));
                return Err(ModuleError::Unsupported(text));
            }
            if !key.kems.is_empty() {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// The one key that `uri` means, tested.
    fn only_key(&self, lease: &Lease<'_>, uri: &Uri) -> Result<Key, ModuleError> {
        let found = key::private_keys(lease.session(), uri).map_err(|error| backend(&error))?;
        let [private] = &found[..] else {
            return Err(ModuleError::NoSuchKey(uri.to_string()));
        };
        match self.describe_key(lease, uri, private, Depth::SelfTest)? {
            Some(key) if !key.kems.is_empty() => Ok(key),
            _ => Err(ModuleError::Unsupported(format!(
                "the token has no KEM for {uri}"
            ))),
        }
    }

    /// What is to be told of a key; nothing if its public half is not to be had.
    fn describe_key(
        &self,
        lease: &Lease<'_>,
        uri: &Uri,
        private: &PrivateKey,
        depth: Depth,
    ) -> Result<Option<Key>, ModuleError> {
        let public_key = private
            .public_key(lease.session())
            .map_err(|error| backend(&error))?;
        let Some(public_key) = public_key else {
            return Ok(None);
        };
        let kems = self.kems(lease, uri, private, &public_key, depth)?;
        Ok(Some(Key {
            locator: private.locator(&lease.facts()),
            label: private.label.clone(),
            provenance: private.provenance(),
            kems,
            public_key,
        }))
    }

    /// KEMs that the token has shown to do with this key.
    fn kems(
        &self,
        lease: &Lease<'_>,
        uri: &Uri,
        private: &PrivateKey,
        public_key: &PublicKey,
        depth: Depth,
    ) -> Result<Vec<Kem>, ModuleError> {
        let Some(slot) = lease.slot().filter(|_| private.may_open) else {
            return Ok(Vec::new());
        };
        let context = &lease.library().context;
        let mechanisms = context
            .get_mechanism_list(slot)
            .map_err(|error| backend(&error))?;
        let mut kems = Vec::new();
        for &kem in public_key.key_type().kems() {
            if !mechanisms.contains(&kem::mechanism(kem)) {
                continue;
            }
            // A session for each: after a failure it is of no further use.
            let mut probe = self.tokens.lease(uri, Need::Login)?;
            let tested = find(&mut probe, uri, public_key, kem).and_then(|key| match key {
                None => Ok(Verdict::Wrong),
                Some(key) => try_kem(&probe, key, public_key, kem, depth),
            });
            match tested {
                Ok(verdict) => {
                    if verdict == Verdict::Right {
                        kems.push(kem);
                    }
                    probe.spoil();
                }
                Err(error) if Fault::of(&error) == Fault::Gone => {
                    probe.lost(&error);
                    return Err(backend(&error));
                }
                Err(error) => {
                    tracing::debug!(%kem, error = describe(&error), "not done by the token");
                    probe.spoil();
                }
            }
        }
        Ok(kems)
    }
}

/// How far a KEM is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// As far as costs neither time nor a touch: for lists.
    Ask,
    /// By opening something: for a key that is about to be enrolled.
    SelfTest,
}

fn try_kem(
    probe: &Lease<'_>,
    key: HeldKey,
    public_key: &PublicKey,
    kem: Kem,
    depth: Depth,
) -> Result<Verdict, Error> {
    let functions = &probe.library().functions;
    match (depth, kem::steps(kem), key.login) {
        (Depth::Ask, Steps::Derive { .. }, _) => Ok(Verdict::Right),
        (Depth::Ask, Steps::Decrypt(oaep), _)
        | (Depth::SelfTest, Steps::Decrypt(oaep), EachUse::Login) => functions
            .decrypt_init(probe.session(), key.handle, oaep)
            .map(|()| Verdict::Right),
        (Depth::SelfTest, _, _) => {
            kem::self_test(functions, probe.session(), key.handle, public_key, kem)
        }
    }
}

/// The private key that `uri` names and that belongs to `public_key`, over the lease's session.
fn find(
    lease: &mut Lease<'_>,
    uri: &Uri,
    public_key: &PublicKey,
    kem: Kem,
) -> Result<Option<HeldKey>, Error> {
    if let Some(key) = lease.known_key(uri, public_key) {
        return Ok(Some(key));
    }
    for private in key::private_keys(lease.session(), uri)? {
        let matches = match private.public_key(lease.session())? {
            Some(found) => found == *public_key,
            // No public half in the token: that it opens what is wrapped to this one is proof.
            None => {
                let functions = &lease.library().functions;
                let handle = private.held.handle;
                let tested = kem::self_test(functions, lease.session(), handle, public_key, kem);
                tested? == Verdict::Right
            }
        };
        if matches {
            lease.remember_key(uri, public_key, private.held);
            return Ok(Some(private.held));
        }
    }
    Ok(None)
}

fn describe_token(token: Seen) -> Token {
    let Seen { facts, info, .. } = token;
    let model = format!("{} {}", facts.manufacturer, facts.model);
    let uri = Uri {
        model: Some(facts.model),
        manufacturer: Some(facts.manufacturer),
        serial: Some(facts.serial.clone()),
        token: Some(facts.label.clone()),
        ..Uri::default()
    };
    Token {
        label: facts.label,
        uri: uri.to_string(),
        model,
        serial: facts.serial,
        pin_state: pin::state(&info),
    }
}

fn parse(text: &str) -> Result<Uri, ModuleError> {
    let uri = Uri::parse(text).map_err(|error| ModuleError::BadRequest(error.to_string()))?;
    match uri.vendor_path.first() {
        None => Ok(uri),
        Some((name, _)) => {
            let text = format!("attribute \"{name}\" of the PKCS#11 URI is not known here");
            Err(ModuleError::BadRequest(text))
        }
    }
}

fn random_id() -> Result<Vec<u8>, ModuleError> {
    let mut id = vec![0; 16];
    let filled = SystemRandom::new().fill(&mut id);
    filled.map_err(|_| ModuleError::Backend {
        call: "random".into(),
        detail: "no randomness to be had".into(),
    })?;
    Ok(id)
}
