//! This user's keys: enrolled in files, found by their auth toks.
//!
//! The files in `~/.config/claviger/keys` say which keys there are; at each start, and when one is added,
//! their auth toks go into the kernel keyring. Whether a key may be used, and where it is, is what the
//! keyring says at that moment: an auth tok that was unlinked with keyctl(1) is gone.

use claviger_pki::auth_tok::enrolled::{EnrolledKey, KeyFolder};
use claviger_pki::auth_tok::{AuthTok, AuthToks, Place};
use claviger_pki::key::KeyId;
use claviger_pki::module::Locator;
use claviger_protocol::Failure;
use claviger_protocol::control::{KeyInfo, KeyRef};

use crate::failure;
use crate::pin_source::Located;

/// All of them.
#[derive(Debug)]
pub struct OwnKeys {
    auth_toks: AuthToks,
    folder: KeyFolder,
}

/// A key whose auth tok is here.
#[derive(Clone, Debug)]
pub struct OwnKey {
    /// Which.
    pub key_id: KeyId,
    /// The module that holds its private half.
    pub module: String,
    /// Where the module finds it; a `pin-source` may be with it.
    pub locator: Locator,
}

impl OwnKeys {
    /// The keys in `folder`, with their auth toks in `auth_toks`.
    pub fn new(auth_toks: AuthToks, folder: KeyFolder) -> Self {
        Self { auth_toks, folder }
    }

    /// Puts the auth toks of all enrolled keys where they belong: at the start of the daemon.
    ///
    /// A key whose file or auth tok is bad is told of in the log and left out.
    pub fn load(&self) {
        let (keys, errors) = self.folder.load();
        for error in errors {
            tracing::warn!(%error, "enrolled key left out");
        }
        for key in keys {
            if let Err(error) = self.auth_toks.put(&key.auth_tok()) {
                tracing::warn!(key_id = %key.key_id(), %error, "no auth tok for an enrolled key");
            }
        }
    }

    /// Where auth toks are.
    pub fn place(&self) -> Place {
        self.auth_toks.place()
    }

    /// The key of that id, if its auth tok is here now.
    ///
    /// # Errors
    /// [`Failure`] if the keyring cannot be read, or what it has is no auth tok.
    pub fn usable(&self, key_id: KeyId) -> Result<Option<OwnKey>, Failure> {
        let tok = self.auth_toks.find(key_id).map_err(failure::of_auth_tok)?;
        Ok(tok.map(
            |AuthTok {
                 key_id,
                 module,
                 locator,
             }| OwnKey {
                key_id,
                module,
                locator,
            },
        ))
    }

    /// All enrolled keys.
    pub fn enrolled(&self) -> Vec<EnrolledKey> {
        self.folder.load().0
    }

    /// The enrolled key that a person means, `None` if there is none.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the beginning of an id, or a label, fits several.
    pub fn find(&self, key: &KeyRef) -> Result<Option<EnrolledKey>, Failure> {
        let fits: Box<dyn Fn(&EnrolledKey) -> bool> = match key {
            KeyRef::Id(text) => {
                let id = text.to_ascii_lowercase();
                let text = text.clone();
                Box::new(move |key| {
                    let of_id = !id.is_empty() && key.key_id().to_string().starts_with(&id);
                    of_id || key.label == text
                })
            }
            KeyRef::Uri(uri) => {
                let (wanted, label) = (Located::parse(uri)?.locator, uri.clone());
                Box::new(move |key| {
                    let located = Located::parse(&key.locator.0);
                    located.is_ok_and(|located| located.locator == wanted)
                        || wanted.0.split_once(':') == Some((&key.module, &key.locator.0))
                        || key.label == label
                })
            }
            KeyRef::File(path) => {
                let path = path.to_string_lossy().into_owned();
                Box::new(move |key| key.locator.0 == path)
            }
        };
        let mut found = self.enrolled().into_iter().filter(|key| fits(key));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(Failure::Usage(format!(
                "{} fits several keys: see 'claviger key list'",
                shown(key)
            ))),
            (found, _) => Ok(found),
        }
    }

    /// Enrols a key: its file, then its auth tok.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn add(&self, key: &EnrolledKey) -> Result<(), Failure> {
        // First what may be refused: a locator that is too long, the quota.
        self.auth_toks
            .put(&key.auth_tok())
            .map_err(failure::of_auth_tok)?;
        self.folder.store(key).map_err(failure::of_enrolled)
    }

    /// Forgets a key; the token keeps it.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn remove(&self, key_id: KeyId) -> Result<(), Failure> {
        self.folder.remove(key_id).map_err(failure::of_enrolled)?;
        self.auth_toks.remove(key_id).map_err(failure::of_auth_tok)
    }

    /// An enrolled key, as it is shown.
    pub fn info(&self, key: &EnrolledKey) -> KeyInfo {
        let key_id = key.key_id();
        KeyInfo {
            key_id: key_id.to_string(),
            module: key.module.clone(),
            label: key.label.clone(),
            key_type: key.public_key.key_type().to_string(),
            locator: key.locator.0.clone(),
            in_keyring: matches!(self.auth_toks.find(key_id), Ok(Some(_))),
            provenance: key.provenance.to_string(),
        }
    }
}

/// A key reference as the person wrote it.
pub fn shown(key: &KeyRef) -> String {
    match key {
        KeyRef::Uri(uri) => format!("'{uri}'"),
        KeyRef::File(path) => format!("'{}'", path.display()),
        KeyRef::Id(id) => format!("'{id}'"),
    }
}
