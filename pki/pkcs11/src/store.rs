//! The module: the tokens of one PKCS#11 library as a [`Module`].

mod listing;
mod opening;

use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::Instant;

use aws_lc_rs::rand;
use claviger_pki::module::{
    Decapsulate, DecryptPkcs1V15, Generate, Key, Locator, Module, ModuleError, Provenance, Token,
};
use claviger_pki::p11_uri::Uri;
use claviger_pki::wire;
use zeroize::Zeroizing;

use self::listing::describe_token;
use self::opening::Failed;
use crate::generate::{self, first_choice};
use crate::key::{self, EachUse, token_uri};
use crate::library::{Library, Threads, backend, describe};
use crate::pin::{FinalTry, HeldPin};
use crate::settings::Settings;
use crate::tokens::{Need, Tokens};

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
        let uri = parse_selector(selector)?;
        let seen = self.tokens.present(&uri)?;
        let mut keys = match &seen[..] {
            [] => return Err(ModuleError::Absent(uri.to_string())),
            [one] => self.keys_of(one, &uri)?,
            several => self.keys_of_those_open(several, &uri),
        };
        if keys.is_empty() && uri.names_one_object() {
            return Err(ModuleError::NoSuchKey(uri.to_string()));
        }
        keys.sort_by(|a, b| (&a.label, &a.locator.0).cmp(&(&b.label, &b.locator.0)));
        Ok(keys)
    }

    fn generate(&self, order: &Generate) -> Result<Key, ModuleError> {
        if order.out.is_some() || order.pin.is_some() {
            let text = "a key in a PKCS#11 token has neither a file nor a PIN of its own";
            return Err(ModuleError::BadRequest(text.into()));
        }
        let mut uri = parse_selector(&order.token)?;
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
        uri = token_uri(&lease.facts());
        uri.id = Some(id.clone());
        let there = key::private_keys(lease.session(), &uri).map_err(|error| backend(&error))?;
        // On a PIV card the old key would be overwritten, and with it what only it opens.
        if !there.is_empty() {
            let text = format!("there is a key already: {uri}");
            return Err(ModuleError::BadRequest(text));
        }
        let pair = generate::generate(lease.session(), key_type, &id, &order.label)
            .map_err(|error| backend(&error))?;

        let made = self
            .only_key(&lease, &uri)
            .and_then(|key| match key.provenance {
                Provenance::Extractable => Err(ModuleError::Unsupported(
                    "the token made a key that can leave it".into(),
                )),
                Provenance::InToken | Provenance::Imported | Provenance::Software => Ok(key),
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
        let attempt = || match self.attempt(call.into(), &uri, deadline) {
            Err(Failed::Unclear(error)) => self.judge(call.into(), &uri, error),
            result => result,
        };
        // Once lost, everything was closed. Opened anew it works, or says what is missing: the token or
        // its PIN.
        let result = match attempt() {
            Err(Failed::Lost(_)) => attempt(),
            result => result,
        };
        result.map_err(|failed| match failed {
            Failed::ForGood(error) => error,
            Failed::Lost(error) | Failed::Unclear(error) => backend(&error),
        })
    }

    fn decrypt_pkcs1_v15(
        &self,
        call: &DecryptPkcs1V15,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        let uri = parse(&call.locator.0)?;
        let attempt = || self.attempt(call.into(), &uri, deadline);
        let result = match attempt() {
            Err(Failed::Lost(_)) => attempt(),
            result => result,
        };
        result.map_err(|failed| match failed {
            Failed::ForGood(error) => error,
            Failed::Lost(error) => backend(&error),
            // What the token says of bad padding is not looked into: that would take time, and tell.
            Failed::Unclear(_) => ModuleError::NotDecryptable,
        })
    }
}

/// An empty selector means every token.
fn parse_selector(text: &str) -> Result<Uri, ModuleError> {
    if text.is_empty() {
        return Ok(Uri::default());
    }
    parse(text)
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
    rand::fill(&mut id).map_err(|_| ModuleError::Backend {
        call: "rand::fill".into(),
        detail: "no randomness to be had".into(),
    })?;
    Ok(id)
}
