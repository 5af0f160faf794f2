//! Sessions in use.

use claviger_pki::key::PublicKey;
use claviger_pki::module::ModuleError;
use claviger_pki::p11_uri::{TokenFacts, Uri};
use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::shelf::Shelf;
use super::{Need, Tokens, absent};
use crate::key::HeldKey;
use crate::library::{Library, backend};
use crate::seat::Era;

/// A session and what has been found over it.
pub(crate) struct OpenSession {
    pub(super) session: Session,
    /// Few: a linear search beats hashing a public key.
    keys: Vec<(KeyName, HeldKey)>,
}

/// What a held key was found by.
#[derive(PartialEq, Eq)]
struct KeyName {
    id: Option<Vec<u8>>,
    object: Option<String>,
    public_key: PublicKey,
}

impl OpenSession {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            keys: Vec::new(),
        }
    }
}

impl Tokens {
    /// A session that may write, with a token that is logged in. It is closed afterwards.
    pub(crate) fn lease_to_write(&self, uri: &Uri) -> Result<Lease<'_>, ModuleError> {
        let mut lease = self.lease(uri, Need::Login)?;
        let slot = self.slot(lease.index).ok_or_else(|| absent(uri))?;
        let session = self
            .library
            .context
            .open_rw_session(slot)
            .map_err(|e| backend(&e))?;
        let old = lease.open.replace(OpenSession::new(session));
        lease.fate = Fate::Close;
        drop(old);
        Ok(lease)
    }

    pub(super) fn lend(&self, shelf: &mut Shelf, index: usize) -> Result<Lease<'_>, Error> {
        let place = shelf.place(index);
        let sessions = place.seat.sessions().ok_or_else(gone)?;
        let open = match sessions.idle.pop() {
            Some(open) => open,
            None => OpenSession::new(self.library.context.open_ro_session(sessions.slot)?),
        };
        let era = sessions.era;
        shelf.lent += 1;
        Ok(Lease {
            tokens: self,
            index,
            era,
            open: Some(open),
            fate: Fate::Keep,
        })
    }
}

/// A session in use. Goes back to its token when dropped, unless an operation failed over it.
pub(crate) struct Lease<'a> {
    tokens: &'a Tokens,
    pub(super) index: usize,
    era: Era,
    /// There until it is dropped.
    open: Option<OpenSession>,
    fate: Fate,
}

#[derive(PartialEq, Eq)]
enum Fate {
    Keep,
    Close,
}

impl Lease<'_> {
    pub(crate) fn session(&self) -> &Session {
        &self
            .open
            .as_ref()
            .expect("until the lease is dropped")
            .session
    }

    pub(crate) fn library(&self) -> &Library {
        &self.tokens.library
    }

    pub(crate) fn facts(&self) -> TokenFacts {
        self.tokens.lock().place(self.index).facts.clone()
    }

    pub(crate) fn slot(&self) -> Option<Slot> {
        self.tokens.slot(self.index)
    }

    /// Whether the token still says what it is.
    pub(crate) fn check_token(&self) -> Result<(), Error> {
        match self.slot() {
            Some(slot) => self.library().context.get_token_info(slot).map(drop),
            None => Err(gone()),
        }
    }

    /// The key that was found over this session before.
    pub(crate) fn known_key(&self, uri: &Uri, public_key: &PublicKey) -> Option<HeldKey> {
        let open = self.open.as_ref()?;
        let named = |name: &KeyName| {
            name.id == uri.id && name.object == uri.object && name.public_key == *public_key
        };
        open.keys
            .iter()
            .find(|(name, _)| named(name))
            .map(|(_, key)| *key)
    }

    pub(crate) fn remember_key(&mut self, uri: &Uri, public_key: &PublicKey, key: HeldKey) {
        if let Some(open) = &mut self.open {
            let public_key = public_key.clone();
            let name = KeyName {
                id: uri.id.clone(),
                object: uri.object.clone(),
                public_key,
            };
            open.keys.push((name, key));
        }
    }

    /// The session is to be closed: an operation failed over it and may still be active.
    pub(crate) fn spoil(mut self) {
        self.fate = Fate::Close;
    }

    /// The same, and the token's other sessions too.
    pub(crate) fn lost(mut self, error: &Error) {
        self.fate = Fate::Close;
        let (tokens, index, era) = (self.tokens, self.index, self.era);
        drop(self);
        let mut shelf = tokens.lock();
        // Another thread may have recovered it already.
        if shelf
            .place(index)
            .seat
            .sessions()
            .is_some_and(|sessions| sessions.era == era)
        {
            tokens.recover(&mut shelf, index, error);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut shelf = self.tokens.lock();
        shelf.lent -= 1;
        let idle_max = self.tokens.idle_max;
        let sessions = shelf.place(self.index).seat.sessions();
        let open = self.open.take();
        match sessions.filter(|sessions| sessions.era == self.era && sessions.idle.len() < idle_max)
        {
            Some(sessions) if self.fate == Fate::Keep => {
                sessions.idle.extend(open);
                shelf.recoveries = 0;
            }
            // Closed with the shelf held: after it, the library may be started anew, and a handle of
            // before could name a session of somebody else.
            _ => drop(open),
        }
    }
}

fn gone() -> Error {
    Error::Pkcs11(RvError::TokenNotPresent, Function::GetTokenInfo)
}
