//! Auth toks: which module holds the private half of which key.
//!
//! They live in the kernel's user keyring `@u`, which outlives every process of the user until the
//! machine restarts, and which `keyctl` shows and edits. Nothing is cached: what the keyring says at a
//! lookup counts. Where the kernel refuses keyctl(2), as under the default seccomp profile of
//! containers, they are held in this process.
//!
//! [`enrolled`] keeps the files that they are loaded from.

pub mod enrolled;

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use linux_keyutils::{KeyError, KeyRing, KeyRingIdentifier};
use serde::{Deserialize, Serialize};

use crate::key::KeyId;
use crate::module::Locator;
use crate::sys;

/// Which module holds the private half of a key, and where in it.
///
/// In the keyring: type `user`, description `claviger:` and the key id in hexadecimal, and as payload
/// the postcard encoding of (version 1 B, module, locator), each text with its length before it. It
/// holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthTok {
    /// Of which key.
    pub key_id: KeyId,
    /// The module's name: `pkcs11`, `tpm`, `openssl`.
    pub module: String,
    /// Where the module finds it.
    pub locator: Locator,
}

#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    version: u8,
    module: &'a str,
    locator: &'a str,
}

/// Longest locator, bytes: the kernel's quota is 20,000 bytes a uid.
pub const LOCATOR_MAX: usize = 512;

/// No payload of ours is longer. Not above a page: then the kernel reads a key twice.
const PAYLOAD_MAX: usize = 4096;

const VERSION: u8 = 1;

impl AuthTok {
    pub(crate) fn parse(key_id: KeyId, payload: &[u8]) -> Result<Self, AuthTokError> {
        let malformed = || AuthTokError::Malformed(key_id);
        let (payload, rest) =
            postcard::take_from_bytes::<Payload<'_>>(payload).map_err(|_| malformed())?;
        if payload.version != VERSION || !rest.is_empty() {
            return Err(malformed());
        }
        Ok(Self {
            key_id,
            module: payload.module.into(),
            locator: Locator(payload.locator.into()),
        })
    }

    fn write(&self) -> Result<Vec<u8>, AuthTokError> {
        if self.locator.0.len() > LOCATOR_MAX {
            return Err(AuthTokError::LocatorTooLong(self.locator.0.len()));
        }
        let payload = Payload {
            version: VERSION,
            module: &self.module,
            locator: &self.locator.0,
        };
        Ok(postcard::to_stdvec(&payload).expect("texts encode"))
    }
}

/// An auth tok could not be read, put or removed. That there is none is no error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthTokError {
    /// The user's keys take all the room the kernel gives them.
    #[error("the kernel's key quota of this user is used up (see /proc/key-users)")]
    Quota,
    /// A locator of more than [`LOCATOR_MAX`] bytes.
    #[error("a locator of {0} bytes is too long")]
    LocatorTooLong(usize),
    /// What the keyring has under this key's description is no auth tok.
    #[error("the auth tok of key {0} is malformed")]
    Malformed(KeyId),
    /// The kernel refused in another way.
    #[error("user keyring: {0}")]
    Kernel(String),
}

/// The auth toks of this user.
#[derive(Debug)]
pub struct AuthToks(Store);

#[derive(Debug)]
enum Store {
    Keyring(KeyRing),
    Memory {
        toks: Mutex<HashMap<KeyId, AuthTok>>,
        reason: String,
    },
}

/// Where auth toks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the user keyring.
    Keyring,
    /// In this process, because the kernel refused.
    Memory {
        /// What it said.
        reason: String,
    },
}

impl AuthToks {
    /// Joins a session keyring of this process's own and links the user keyring to it.
    ///
    /// Without that link a key of `@u` can be seen and not read (it is read by those who *possess*
    /// it), and the session keyring that the process came with may be revoked at logout. Call it before
    /// the process starts threads: a thread that runs already keeps the old one.
    pub fn join() -> Self {
        let joined = sys::join_session_keyring().and_then(|()| {
            let session = KeyRing::from_special_id(KeyRingIdentifier::Session, false);
            let user = KeyRing::from_special_id(KeyRingIdentifier::User, true);
            let (session, user) = (session.map_err(io_error)?, user.map_err(io_error)?);
            session.link_keyring(user).map_err(io_error)?;
            Ok(user)
        });
        match joined {
            Ok(user) => Self(Store::Keyring(user)),
            Err(error) => Self::in_memory(error.to_string()),
        }
    }

    /// Holds them in this process.
    pub fn in_memory(reason: String) -> Self {
        Self(Store::Memory {
            toks: Mutex::default(),
            reason,
        })
    }

    /// Where they are.
    pub fn place(&self) -> Place {
        match &self.0 {
            Store::Keyring(_) => Place::Keyring,
            Store::Memory { reason, .. } => Place::Memory {
                reason: reason.clone(),
            },
        }
    }

    /// The auth tok of a key, as the keyring has it now.
    ///
    /// # Errors
    /// [`AuthTokError`].
    pub fn find(&self, key_id: KeyId) -> Result<Option<AuthTok>, AuthTokError> {
        match &self.0 {
            Store::Keyring(ring) => {
                let mut buffer = [0; PAYLOAD_MAX];
                let length = ring
                    .search(&description(key_id))
                    .and_then(|key| key.read(&mut buffer));
                match length {
                    // Of a longer one the kernel gives the length and nothing more.
                    Ok(length) => match buffer.get(..length) {
                        Some(payload) => AuthTok::parse(key_id, payload).map(Some),
                        None => Err(AuthTokError::Malformed(key_id)),
                    },
                    Err(error) if is_gone(error) => Ok(None),
                    Err(error) => Err(kernel(error)),
                }
            }
            Store::Memory { toks, .. } => Ok(lock(toks).get(&key_id).cloned()),
        }
    }

    /// Puts an auth tok there, in place of the one its key may have had.
    ///
    /// # Errors
    /// [`AuthTokError`].
    pub fn put(&self, tok: &AuthTok) -> Result<(), AuthTokError> {
        let payload = tok.write()?;
        match &self.0 {
            Store::Keyring(ring) => {
                let added = ring.add_key(&description(tok.key_id), &payload);
                added.map(drop).map_err(kernel)
            }
            Store::Memory { toks, .. } => {
                lock(toks).insert(tok.key_id, tok.clone());
                Ok(())
            }
        }
    }

    /// Takes the auth tok of a key away; that there was none is no error.
    ///
    /// # Errors
    /// [`AuthTokError`].
    pub fn remove(&self, key_id: KeyId) -> Result<(), AuthTokError> {
        match &self.0 {
            Store::Keyring(ring) => {
                let removed = ring
                    .search(&description(key_id))
                    .and_then(|key| ring.unlink_key(key));
                match removed {
                    Err(error) if !is_gone(error) => Err(kernel(error)),
                    _ => Ok(()),
                }
            }
            Store::Memory { toks, .. } => {
                lock(toks).remove(&key_id);
                Ok(())
            }
        }
    }
}

/// The description of a key's auth tok in the keyring.
pub fn description(key_id: KeyId) -> String {
    format!("claviger:{key_id}")
}

fn lock(toks: &Mutex<HashMap<KeyId, AuthTok>>) -> MutexGuard<'_, HashMap<KeyId, AuthTok>> {
    toks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A key that was revoked or has expired opens nothing, like one that was unlinked.
fn is_gone(error: KeyError) -> bool {
    matches!(
        error,
        KeyError::KeyDoesNotExist | KeyError::KeyRevoked | KeyError::KeyExpired
    )
}

fn kernel(error: KeyError) -> AuthTokError {
    match error {
        KeyError::QuotaExceeded => AuthTokError::Quota,
        other => AuthTokError::Kernel(other.to_string()),
    }
}

fn io_error(error: KeyError) -> io::Error {
    io::Error::other(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tok() -> AuthTok {
        AuthTok {
            key_id: KeyId([7; 32]),
            module: "pkcs11".into(),
            locator: Locator("pkcs11:token=T;id=%01".into()),
        }
    }

    #[test]
    fn a_payload_is_read_back_and_its_octets_are_known() {
        let payload = tok().write().unwrap();
        let mut expected = vec![1, 6];
        expected.extend(b"pkcs11");
        expected.push(21);
        expected.extend(b"pkcs11:token=T;id=%01");
        assert_eq!(payload, expected);
        assert_eq!(AuthTok::parse(tok().key_id, &payload), Ok(tok()));
    }

    #[test]
    fn a_payload_cut_short_or_of_another_version_is_refused() {
        let mut payload = tok().write().unwrap();
        let malformed = Err(AuthTokError::Malformed(tok().key_id));
        for length in 0..payload.len() {
            assert_eq!(AuthTok::parse(tok().key_id, &payload[..length]), malformed);
        }
        payload[0] = 2;
        assert_eq!(AuthTok::parse(tok().key_id, &payload), malformed);
    }

    #[test]
    fn a_locator_that_would_eat_the_quota_is_refused() {
        let long = AuthTok {
            locator: Locator("x".repeat(LOCATOR_MAX + 1)),
            ..tok()
        };
        let toks = AuthToks::in_memory("test".into());
        assert_eq!(toks.put(&long), Err(AuthTokError::LocatorTooLong(513)));
    }

    #[test]
    fn in_memory_an_auth_tok_is_found_until_it_is_removed() {
        let toks = AuthToks::in_memory("keyctl: EPERM".into());
        assert_eq!(toks.find(tok().key_id), Ok(None));
        toks.put(&tok()).unwrap();
        assert_eq!(toks.find(tok().key_id), Ok(Some(tok())));
        toks.remove(tok().key_id).unwrap();
        assert_eq!(toks.find(tok().key_id), Ok(None));
        toks.remove(tok().key_id).unwrap();
    }
}
