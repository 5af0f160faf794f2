//! The keys that the kernel may ask for.

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

use super::{auth_tok, kernel_request, lock, not_encrypted};
use crate::config::KernelEcryptfs;
use crate::daemon::{Caller, Daemon};
use crate::enrol::Named;
use crate::own_keys::shown;
use crate::tokens::{Login, Request};
use crate::wait::Wait;

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
        let enrolled = match self.name(key, &request)? {
            Named::Private(enrolled) => *enrolled,
            Named::Public(..) => {
                return Err(Failure::Usage(format!(
                    "{} holds no private key",
                    shown(key)
                )));
            }
        };
        let sig = sig_of(&enrolled.public_key).ok_or_else(|| {
            let key_type = enrolled.public_key.key_type();
            Failure::Unsupported(format!(
                "eCryptfs wraps to RSA keys, and this one is {key_type}"
            ))
        })?;
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

    /// Has the token open something as the kernel will ask for it: finds out now, with somebody there to
    /// enter a PIN, what would otherwise cost a file operation.
    fn prove(&self, key: &EnrolledKey, request: &Arc<Request>) -> Result<(), Failure> {
        let secret: [u8; 32] = random_array();
        let encapsulation =
            oaep::encrypt_sha1(&key.public_key, &secret).ok_or_else(not_encrypted)?;
        let opened =
            self.open_for_kernel(key, &key.module, &key.locator, encapsulation, request)?;
        if opened.as_slice() != secret {
            return Err(Failure::Module {
                module: key.module.clone(),
                what: "it opened something else than was wrapped".into(),
            });
        }
        Ok(())
    }

    pub(super) fn open_for_kernel(
        &self,
        key: &EnrolledKey,
        module: &str,
        locator: &Locator,
        encapsulation: Vec<u8>,
        request: &Arc<Request>,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let call = Decapsulate {
            locator: locator.clone(),
            public_key: key.public_key.clone(),
            kem: Kem::RsaOaepSha1,
            encapsulation,
        };
        let opened = self
            .tokens
            .decapsulate(module, &call, Login::IfNeeded, request);
        Ok(opened?)
    }

    /// The enrolled key of that sig.
    fn kernel_key(&self, sig: KeySig) -> Result<EnrolledKey, Failure> {
        let known = lock(&self.kernel.keys).get(&sig).cloned();
        let found = known.or_else(|| {
            let mut enrolled = self.own_keys.enrolled().into_iter();
            enrolled.find(|key| sig_of(&key.public_key) == Some(sig))
        });
        let key =
            found.ok_or_else(|| Failure::NotARecipient(format!("no key {sig} is enrolled")))?;
        lock(&self.kernel.keys).insert(sig, key.clone());
        Ok(key)
    }

    /// A key, and where its auth tok says now that its private half is.
    pub(super) fn usable_kernel_key(
        &self,
        sig: KeySig,
    ) -> Result<(EnrolledKey, String, Locator), Failure> {
        let key = self.kernel_key(sig)?;
        let own = self.own_keys.usable(key.key_id())?.ok_or_else(|| {
            Failure::NotARecipient(format!("the auth tok of key {} is not here", key.key_id()))
        })?;
        Ok((key, own.module, own.locator))
    }
}

/// The sig of an RSA key; `None` for others, which eCryptfs knows nothing of.
fn sig_of(key: &PublicKey) -> Option<KeySig> {
    let (modulus, exponent) = key.rsa()?;
    Some(KeySig::of_rsa(modulus, exponent))
}
