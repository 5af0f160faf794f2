//! RSA keys that FEKs are wrapped to, by their sigs.

use std::sync::Arc;

use claviger_pki::auth_tok::enrolled::EnrolledKey;
use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::{Decapsulate, Locator};
use claviger_pki::oaep;
use claviger_protocol::Failure;
use claviger_protocol::control::{KeyInfo, KeyRef};
use claviger_vault::ecryptfs::KeySig;
use claviger_vault::secret::random_array;
use zeroize::Zeroizing;

use super::{auth_tok, does_not_open, kernel_request, lock, not_encrypted};
use crate::config::{KernelEcryptfs, Pkcs1V15};
use crate::daemon::{Caller, Daemon};
use crate::enrol::Named;
use crate::own_keys::shown;
use crate::tokens::{Login, Request, TokenError};
use crate::wait::Wait;

/// An RSA key of this user's, and where its auth tok says now that its private half is.
pub(crate) struct RsaKey {
    pub(crate) enrolled: EnrolledKey,
    pub(crate) module: String,
    pub(crate) locator: Locator,
}

impl RsaKey {
    /// Wraps a FEK as the openssl module of ecryptfs-utils did.
    pub(crate) fn wrap(&self, session_key: &[u8]) -> Option<Vec<u8>> {
        oaep::encrypt_sha1(&self.enrolled.public_key, session_key)
    }
}

impl Daemon {
    /// Starts modules and logs in, where a file has the PIN, before the kernel waits for it.
    pub(super) fn prepare_kernel_keys(&self) {
        for key in self.own_keys.enrolled() {
            let Some(sig) = sig_of(&key.public_key).filter(|sig| auth_tok::is_put(*sig)) else {
                continue;
            };
            let wait = Wait::at_most(self.config.token_timeout);
            if let Err(failure) = self.prove(&key, &kernel_request(wait)) {
                tracing::warn!(%sig, %failure, "the kernel cannot be answered yet: run 'claviger ecryptfs add-key'");
            }
        }
    }

    /// Makes a key usable by the kernel's eCryptfs: enrols it, logs in to its token, tries it out, and puts
    /// its auth tok into the keyring.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] for a key that is not RSA.
    pub fn ecryptfs_add_key(
        self: &Arc<Self>,
        key: &KeyRef,
        caller: &Caller,
    ) -> Result<(KeyInfo, KeySig), Failure> {
        let request = caller.request(None);
        let (enrolled, sig) = self.name_rsa(key, &request)?;
        self.prove(&enrolled, &request)?;
        self.own_keys.add(&enrolled)?;
        auth_tok::put(sig, enrolled.key_id())?;
        match self.config.kernel_ecryptfs {
            KernelEcryptfs::Served => {
                if let Err(error) = self.kernel.serve(self) {
                    caller.asker.tell(&format!("The kernel is not served: {error}"));
                }
            }
            KernelEcryptfs::NotServed => caller.asker.tell(
                "The kernel is not served: set 'kernel = true' under [ecryptfs] in config.toml, then 'claviger stop'",
            ),
        }
        Ok((self.own_keys.info(&enrolled), sig))
    }

    /// The RSA key that a person means.
    pub(super) fn name_rsa(
        &self,
        key: &KeyRef,
        request: &Arc<Request>,
    ) -> Result<(EnrolledKey, KeySig), Failure> {
        let enrolled = match self.name(key, request)? {
            Named::Private(enrolled) => *enrolled,
            Named::Public(..) => {
                let text = format!("{} holds no private key", shown(key));
                return Err(Failure::Usage(text));
            }
        };
        let sig = sig_of(&enrolled.public_key).ok_or_else(|| {
            let key_type = enrolled.public_key.key_type();
            Failure::Unsupported(format!(
                "eCryptfs wraps to RSA keys, and this one is {key_type}"
            ))
        })?;
        Ok((enrolled, sig))
    }

    /// Has the token open something as it will be asked to: finds out now, with somebody there to enter
    /// a PIN, what would otherwise cost a file operation.
    pub(super) fn prove(&self, key: &EnrolledKey, request: &Arc<Request>) -> Result<(), Failure> {
        let key = RsaKey {
            enrolled: key.clone(),
            module: key.module.clone(),
            locator: key.locator.clone(),
        };
        let secret: [u8; 32] = random_array();
        let wrapped = key.wrap(&secret).ok_or_else(not_encrypted)?;
        let opened = self.unwrap_session_key(&key, wrapped, Login::IfNeeded, request)?;
        if opened.as_slice() != secret {
            return Err(Failure::Module {
                module: key.module,
                what: "it opened something else than was wrapped".into(),
            });
        }
        Ok(())
    }

    /// What was wrapped to a key: a FEK, as RFC 2440 codes it.
    pub(crate) fn unwrap_session_key(
        &self,
        key: &RsaKey,
        wrapped: Vec<u8>,
        login: Login,
        request: &Arc<Request>,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let public_key = &key.enrolled.public_key;
        if wrapped.len() != public_key.key_type().encapsulation_len() {
            return Err(TokenError::Failed(does_not_open()));
        }
        let call = Decapsulate {
            locator: key.locator.clone(),
            public_key: public_key.clone(),
            kem: Kem::RsaOaepSha1,
            encapsulation: wrapped,
        };
        let opened = self
            .tokens
            .decapsulate(&key.module, &call, login, request, None);
        match (&opened, self.config.pkcs1_v15) {
            (Err(TokenError::Failed(Failure::Integrity(_))), Pkcs1V15::Accepted) => {
                self.unwrap_pkcs1_v15(key, call.encapsulation, login, request)
            }
            _ => opened,
        }
    }

    /// The key of that sig, if it is enrolled and its auth tok is here now.
    pub(crate) fn rsa_key(&self, sig: KeySig) -> Result<RsaKey, Failure> {
        let known = lock(&self.kernel.keys).get(&sig).cloned();
        let found = known.or_else(|| {
            let mut enrolled = self.own_keys.enrolled().into_iter();
            enrolled.find(|key| sig_of(&key.public_key) == Some(sig))
        });
        let enrolled =
            found.ok_or_else(|| Failure::NotARecipient(format!("no key {sig} is enrolled")))?;
        lock(&self.kernel.keys).insert(sig, enrolled.clone());
        let own = self.own_keys.usable(enrolled.key_id())?.ok_or_else(|| {
            let key_id = enrolled.key_id();
            Failure::NotARecipient(format!("the auth tok of key {key_id} is not here"))
        })?;
        Ok(RsaKey {
            enrolled,
            module: own.module,
            locator: own.locator,
        })
    }
}

/// The sig of an RSA key; `None` for others, which eCryptfs knows nothing of.
fn sig_of(key: &PublicKey) -> Option<KeySig> {
    let (modulus, exponent) = key.rsa()?;
    Some(KeySig::of_rsa(modulus, exponent))
}
