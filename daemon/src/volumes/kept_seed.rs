//! The passphrase or recovery key of a volume of file scope, kept while it is unlocked.

use claviger_pki::key::KeyId;
use claviger_pki::seed::{Seed, SeededKey};
use claviger_pki::wrap::Identity as _;
use claviger_protocol::Failure;
use claviger_vault::locked::LockedKey;
use zeroize::Zeroizing;

/// A [`Seed`] in locked memory. Its private key is made for each unwrap: aws-lc keeps those in
/// ordinary memory.
pub(crate) struct KeptSeed {
    seed: LockedKey,
    key_id: KeyId,
}

impl KeptSeed {
    /// # Errors
    /// [`Failure::Internal`] if no memory can be locked.
    pub(super) fn new(seed: &Seed) -> Result<Self, Failure> {
        let key_id = seed.derive().public_key().key_id();
        let seed = LockedKey::new(&mut Zeroizing::new(*seed.expose()))
            .map_err(|error| Failure::Internal(error.to_string()))?;
        Ok(Self { seed, key_id })
    }

    /// What names the key pair.
    pub(crate) fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The key pair, for one unwrap.
    pub(crate) fn lend(&self) -> SeededKey {
        Seed::new(self.seed.expose()).derive()
    }
}
