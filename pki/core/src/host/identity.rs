//! A private key in a module, as an [`Identity`].

use std::time::Instant;

use zeroize::Zeroizing;

use crate::cancel::Cancel;
use crate::host::ModuleHost;
use crate::key::PublicKey;
use crate::module::Locator;
use crate::wrap::{Context, Identity, UnwrapError, Wrapped, open};

/// The private half of `public_key`, at `locator` in a module; for one unwrap.
#[derive(Debug)]
pub struct ModuleIdentity<'a> {
    /// The module.
    pub host: &'a ModuleHost,
    /// Where in it.
    pub locator: &'a Locator,
    /// The public half.
    pub public_key: &'a PublicKey,
    /// How long to wait.
    pub deadline: Instant,
    /// Calls it back.
    pub cancel: &'a Cancel,
}

impl Identity for ModuleIdentity<'_> {
    fn public_key(&self) -> &PublicKey {
        self.public_key
    }

    fn unwrap(
        &self,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        let step = wrapped.step(self.public_key, self.locator.clone())?;
        let secret = self.host.decapsulate(step, self.deadline, self.cancel)?;
        open(wrapped, self.public_key, context, &secret)
    }
}
