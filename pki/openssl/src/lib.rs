//! The module for private keys in PEM files.
//!
//! A locator is the absolute path of a file with one RSA or EC private key: PKCS#8 or the traditional
//! form, encrypted with a passphrase or not. Such keys are weaker than a token's: whoever copies the
//! file and has the passphrase, has the key.

mod create;
mod file;
pub mod fuzzing;
mod kem;
mod pbes2;
mod pkcs1_v15;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use claviger_pki::key::PublicKey;
use claviger_pki::module::{
    Decapsulate, DecryptPkcs1V15, Generate, Key, Locator, Module, ModuleError, PinState,
    Provenance, Token,
};
use claviger_pki::wire::Settings;
use zeroize::Zeroizing;

use crate::file::{KeyFile, PrivateKey};

/// The key files that were used so far.
#[derive(Default)]
pub struct KeyFiles {
    /// Encrypted ones stay here from login to logout, the others too: parsing costs as much as using
    /// them. Each use looks whether the file is still there and the same.
    loaded: Mutex<HashMap<PathBuf, Arc<PrivateKey>>>,
}

impl KeyFiles {
    /// Has none yet.
    ///
    /// # Errors
    /// [`ModuleError::BadRequest`], since no setting is known.
    pub fn open(settings: &Settings) -> Result<Self, ModuleError> {
        if let Some(name) = settings.keys().next() {
            let what = format!("the openssl module has no setting {name:?}");
            return Err(ModuleError::BadRequest(what));
        }
        Ok(Self::default())
    }

    /// The key at `path`, if it can be used now.
    fn usable(&self, path: &Path) -> Result<Arc<PrivateKey>, ModuleError> {
        let file = KeyFile::open(path).inspect_err(|_| {
            self.lock().remove(path);
        })?;
        if let Some(key) = self.lock().get(path)
            && key.is_of(&file)
        {
            return Ok(Arc::clone(key));
        }
        self.lock().remove(path);
        let Some(key) = file.parse_plain()? else {
            return Err(ModuleError::PinNeeded {
                token: path.display().to_string(),
                state: PinState::Ok,
            });
        };
        Ok(self.keep(path, key))
    }

    /// The key at `locator`, if it is the one of `public_key`.
    fn usable_as(
        &self,
        locator: &Locator,
        public_key: &PublicKey,
    ) -> Result<Arc<PrivateKey>, ModuleError> {
        let path = absolute(&locator.0)?;
        let key = self.usable(path)?;
        if key.public_key != *public_key {
            let what = format!("{} holds another key", path.display());
            return Err(ModuleError::NoSuchKey(what));
        }
        Ok(key)
    }

    fn keep(&self, path: &Path, key: PrivateKey) -> Arc<PrivateKey> {
        let key = Arc::new(key);
        self.lock().insert(path.into(), Arc::clone(&key));
        key
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<PrivateKey>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Module for KeyFiles {
    /// OpenSSL's keys may be used from any number of threads.
    fn concurrency(&self) -> usize {
        thread::available_parallelism().map_or(1, usize::from)
    }

    /// Files are no tokens.
    fn tokens(&self) -> Result<Vec<Token>, ModuleError> {
        Ok(Vec::new())
    }

    /// The key in the file that `selector` is the path of. An encrypted one wants a login first, since
    /// its public half is encrypted too.
    fn keys(&self, selector: &str) -> Result<Vec<Key>, ModuleError> {
        let path = absolute(selector)?;
        let key = self.usable(path)?;
        Ok(vec![describe(path, &key)])
    }

    fn generate(&self, order: &Generate) -> Result<Key, ModuleError> {
        let Some(out) = &order.out else {
            let what = "the openssl module needs a path for the new key file (--out)";
            return Err(ModuleError::BadRequest(what.into()));
        };
        let path = absolute(out)?;
        create::create(path, order.key_type, order.pin.as_ref())?;
        let file = KeyFile::open(path)?;
        let key = match &order.pin {
            None => file.parse_plain()?,
            Some(pin) => file.parse_encrypted(pin)?,
        };
        let Some(key) = key else {
            let what = format!("{} does not read back", path.display());
            return Err(ModuleError::BadRequest(what));
        };
        let mut described = describe(path, &key);
        if !order.label.is_empty() {
            described.label.clone_from(&order.label);
        }
        Ok(described)
    }

    fn login(&self, locator: &Locator, pin: &Zeroizing<Vec<u8>>) -> Result<(), ModuleError> {
        let path = absolute(&locator.0)?;
        let Some(key) = KeyFile::open(path)?.parse_encrypted(pin)? else {
            return Err(ModuleError::PinWrong {
                token: path.display().to_string(),
                state: PinState::Ok,
            });
        };
        self.keep(path, key);
        Ok(())
    }

    fn logout(&self) {
        self.lock().clear();
    }

    fn decapsulate(
        &self,
        call: &Decapsulate,
        _deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        let key = self.usable_as(&call.locator, &call.public_key)?;
        kem::decapsulate(&key, call.kem, &call.encapsulation)
    }

    fn decrypt_pkcs1_v15(
        &self,
        call: &DecryptPkcs1V15,
        _deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        let key = self.usable_as(&call.locator, &call.public_key)?;
        pkcs1_v15::decrypt(&key, &call.ciphertext)
    }
}

fn absolute(locator: &str) -> Result<&Path, ModuleError> {
    let path = Path::new(locator);
    if !path.is_absolute() || locator.contains('\0') {
        let what = format!("{locator:?} is not the absolute path of a key file");
        return Err(ModuleError::BadRequest(what));
    }
    Ok(path)
}

fn describe(path: &Path, key: &PrivateKey) -> Key {
    let name = path.file_name().unwrap_or(path.as_os_str());
    Key {
        locator: Locator(path.display().to_string()),
        public_key: key.public_key.clone(),
        label: name.to_string_lossy().into_owned(),
        kems: key.public_key.key_type().kems().to_vec(),
        provenance: Provenance::Software,
    }
}
