//! Telling what keys there are and what they can do.

use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::{Key, ModuleError, Token};
use claviger_pki::p11_uri::Uri;

use super::Store;
use super::opening::find;
use crate::fault::Fault;
use crate::kem::{self, Steps, Verdict};
use crate::key::{self, EachUse, PrivateKey, token_uri};
use crate::library::{backend, describe};
use crate::pin;
use crate::sys::Padding;
use crate::tokens::{self, Lease, Need, Seen};

impl Store {
    /// Keys of those tokens that are logged in; the others are passed over, and the log says so.
    pub(super) fn keys_of_those_open(&self, tokens: &[Seen], uri: &Uri) -> Vec<Key> {
        let mut keys = Vec::new();
        for token in tokens {
            match self.keys_of(token, uri) {
                Ok(found) => keys.extend(found),
                Err(error) => {
                    let token = tokens::name(&token.facts);
                    tracing::info!(token, %error, "keys not listed");
                }
            }
        }
        keys
    }

    /// Keys of one token. It must be logged in: what its keys are good for cannot be told otherwise.
    pub(super) fn keys_of(&self, token: &Seen, uri: &Uri) -> Result<Vec<Key>, ModuleError> {
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
    pub(super) fn only_key(&self, lease: &Lease<'_>, uri: &Uri) -> Result<Key, ModuleError> {
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
        let library = lease.library();
        let may_open = private.may_open || library.understates_keys();
        let Some(slot) = lease.slot().filter(|_| may_open) else {
            return Ok(Vec::new());
        };
        let mechanisms = library
            .context
            .get_mechanism_list(slot)
            .map_err(|error| backend(&error))?;
        let mut kems = Vec::new();
        for &kem in public_key.key_type().kems() {
            if mechanisms.contains(&kem::mechanism(kem))
                && self.does(uri, private, public_key, kem, depth)?
            {
                kems.push(kem);
            }
        }
        Ok(kems)
    }

    /// Whether the token does `kem` with this key, as far as `depth` goes.
    fn does(
        &self,
        uri: &Uri,
        private: &PrivateKey,
        public_key: &PublicKey,
        kem: Kem,
        depth: Depth,
    ) -> Result<bool, ModuleError> {
        let trial = match (depth, kem::steps(kem), private.held.login) {
            (Depth::Ask, Steps::Derive { .. }, _) => return Ok(true),
            (Depth::Ask, Steps::Decrypt(padding), _)
            | (Depth::SelfTest, Steps::Decrypt(padding), EachUse::Login) => Trial::Begin(padding),
            (Depth::SelfTest, _, _) => Trial::Whole,
        };
        // Over a session of its own: after a failure, that is of no further use.
        let mut probe = self.tokens.lease(uri, Need::Login)?;
        let tested = find(&mut probe, uri, public_key, kem).and_then(|key| {
            let (functions, session) = (&probe.library().functions, probe.session());
            match (key, &trial) {
                (None, _) => Ok(Verdict::Wrong),
                (Some(key), Trial::Begin(padding)) => functions
                    .decrypt_init(session, key.handle, *padding)
                    .map(|()| Verdict::Right),
                (Some(key), Trial::Whole) => {
                    kem::self_test(functions, session, key.handle, public_key, kem)
                }
            }
        });
        match (tested, trial) {
            (Ok(verdict), Trial::Whole) => Ok(verdict == Verdict::Right),
            (Ok(verdict), Trial::Begin(_)) => {
                probe.spoil();
                Ok(verdict == Verdict::Right)
            }
            (Err(error), _) if Fault::of(&error) == Fault::Gone => {
                probe.lost(&error);
                Err(backend(&error))
            }
            (Err(error), _) => {
                tracing::debug!(%kem, error = describe(&error), "not done by the token");
                probe.spoil();
                Ok(false)
            }
        }
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

/// What is done to find out.
enum Trial {
    /// C_DecryptInit only; the operation stays active.
    Begin(Padding),
    /// Something is opened.
    Whole,
}

pub(super) fn describe_token(token: Seen) -> Token {
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
