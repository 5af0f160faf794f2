//! Making, enrolling and listing keys: the commands about tokens and keys.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process;
use std::sync::Arc;

use claviger_pki::auth_tok::enrolled::EnrolledKey;
use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::{Generate, Key, Provenance};
use claviger_protocol::Failure;
use claviger_protocol::control::{GenerateKey, KeyInfo, KeyRef, TokenInfo};
use zeroize::Zeroizing;

use crate::daemon::{Caller, Daemon};
use crate::errand::{Errand, Program, VolumeName};
use crate::failure;
use crate::modules::{OPENSSL, PKCS11, TPM};
use crate::own_keys::shown;
use crate::pin_source::Located;
use crate::prompt::Asker;
use crate::tokens::Request;
use crate::wait::Wait;

/// Largest key file that is looked into.
const KEY_FILE_MAX: u64 = 64 << 10;

/// What a key reference names.
#[derive(Debug)]
pub enum Named {
    /// A key that this user can use: in a token or a file of his.
    Private(Box<EnrolledKey>),
    /// A public key of somebody else, and what to call it.
    Public(PublicKey, Kem, String),
}

impl Daemon {
    /// Tokens that are present; modules that cannot say are told of as notices.
    pub fn token_list(&self, caller: &Caller) -> Vec<TokenInfo> {
        let wait = caller.wait.shortened(self.config.token_timeout);
        let (tokens, failures) = self.tokens.modules.tokens(&wait);
        for failure in failures {
            caller.asker.tell(&failure.to_string());
        }
        let shown = tokens.into_iter().map(|(module, token)| TokenInfo {
            module,
            label: token.label,
            uri: token.uri,
            model: token.model,
            serial: token.serial,
            pin_state: failure::pin_state_text(token.pin_state),
        });
        shown.collect()
    }

    /// Makes a key pair in a token or file, and enrols it.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn key_generate(&self, order: &GenerateKey, caller: &Caller) -> Result<KeyInfo, Failure> {
        self.tokens.modules.check(&order.module)?;
        let key_type = order.key_type.as_deref().map(str::parse).transpose();
        let key_type = key_type.map_err(|_| {
            Failure::Usage("key types are ec-p256, ec-p384, rsa2048, rsa3072, rsa4096".into())
        })?;
        let token = Located::parse(order.token.as_deref().unwrap_or_default())?;
        let label = order.label.clone().unwrap_or_else(|| "claviger".into());
        let out = self.key_file(order, &label)?;
        let make = || Generate {
            token: token.locator.0.clone(),
            key_type,
            label: label.clone(),
            out: out.clone(),
            pin: order
                .pin
                .as_ref()
                .map(|pin| Zeroizing::new(pin.expose().to_vec())),
        };
        let request = caller.request(None);
        let key = self
            .tokens
            .generate(&order.module, &token, make, &request)?;
        let enrolled = self.enrolled(&order.module, key, &token, order.label.clone())?;
        self.own_keys.add(&enrolled)?;
        tracing::info!(key_id = %enrolled.key_id(), module = order.module, "key made");
        Ok(self.own_keys.info(&enrolled))
    }

    /// Enrols a key that exists.
    ///
    /// # Errors
    /// [`Failure`]; [`Failure::Policy`] for a key in a token that could be read out of it.
    pub fn key_add(
        &self,
        key: &KeyRef,
        label: Option<String>,
        caller: &Caller,
    ) -> Result<KeyInfo, Failure> {
        let mut enrolled = match self.name(key, &caller.request(None))? {
            Named::Private(enrolled) => *enrolled,
            Named::Public(..) => {
                return Err(Failure::Usage(format!(
                    "{} holds no private key",
                    shown(key)
                )));
            }
        };
        enrolled.label = label.unwrap_or(enrolled.label);
        self.own_keys.add(&enrolled)?;
        Ok(self.own_keys.info(&enrolled))
    }

    /// Forgets an enrolled key.
    ///
    /// # Errors
    /// [`Failure::NotFound`].
    pub fn key_remove(&self, key: &KeyRef) -> Result<KeyInfo, Failure> {
        let enrolled = self.own_keys.find(key)?;
        let enrolled = enrolled.ok_or_else(|| no_such_key(key))?;
        self.own_keys.remove(enrolled.key_id())?;
        let mut info = self.own_keys.info(&enrolled);
        info.in_keyring = false;
        Ok(info)
    }

    /// All enrolled keys.
    pub fn key_list(&self) -> Vec<KeyInfo> {
        let keys = self.own_keys.enrolled();
        keys.iter().map(|key| self.own_keys.info(key)).collect()
    }

    /// Finds out what a key reference names: an enrolled key, one that a module finds, a public key.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn name(&self, key: &KeyRef, request: &Arc<Request>) -> Result<Named, Failure> {
        let (module, selector) = match key {
            KeyRef::Id(_) => {
                let enrolled = self.own_keys.find(key)?;
                return Ok(Named::Private(Box::new(
                    enrolled.ok_or_else(|| no_such_key(key))?,
                )));
            }
            KeyRef::Uri(uri) => match self.tokens.modules.reference(uri) {
                Some((module, selector)) => (module, Located::parse(selector)?),
                None => return self.name(&KeyRef::Id(uri.clone()), request),
            },
            KeyRef::File(path) => match in_file(path)? {
                InFile::PublicKey(public_key) => {
                    let kem = public_key.key_type().kems().first();
                    let kem = *kem.ok_or_else(|| no_such_key(key))?;
                    let label = path.file_stem().unwrap_or_default().to_string_lossy();
                    return Ok(Named::Public(public_key, kem, label.into_owned()));
                }
                InFile::TpmKey => (TPM, Located::parse(&path.to_string_lossy())?),
                InFile::Other => (OPENSSL, Located::parse(&path.to_string_lossy())?),
            },
        };
        // What is enrolled already needs no token.
        if let Some(mut enrolled) = self.own_keys.find(key)? {
            enrolled.locator = selector.over(&enrolled.locator)?;
            return Ok(Named::Private(Box::new(enrolled)));
        }
        let mut keys = match self.tokens.keys(module, &selector, request) {
            // So it is of a key that shall be used; this one is looked for.
            Err(Failure::NotARecipient(_)) => return Err(no_key_at(key)),
            found => found?,
        };
        let Some(found) = keys.pop() else {
            return Err(no_such_key(key));
        };
        if !keys.is_empty() {
            return Err(Failure::Usage(format!(
                "{} names {} keys: add an object or id attribute",
                shown(key),
                keys.len() + 1
            )));
        }
        let enrolled = self.enrolled(module, found, &selector, None)?;
        Ok(Named::Private(Box::new(enrolled)))
    }

    fn enrolled(
        &self,
        module: &str,
        key: Key,
        selector: &Located,
        label: Option<String>,
    ) -> Result<EnrolledKey, Failure> {
        if key.provenance == Provenance::Extractable {
            return Err(Failure::Policy(format!(
                "key {} can be read out of its token: it protects no better than a file",
                key.locator.0
            )));
        }
        let key_type = key.public_key.key_type();
        let mut enrolled = EnrolledKey::new(module.into(), key).ok_or_else(|| {
            Failure::Unsupported(format!(
                "the token can do none of the algorithms for {key_type}"
            ))
        })?;
        enrolled.label = label.unwrap_or(enrolled.label);
        enrolled.locator = selector.over(&enrolled.locator)?;
        Ok(enrolled)
    }

    /// Where a key file goes, for modules that keep keys in files.
    fn key_file(&self, order: &GenerateKey, label: &str) -> Result<Option<String>, Failure> {
        let in_files = [TPM, OPENSSL].contains(&order.module.as_str());
        let path = match &order.out {
            Some(_) if order.module == PKCS11 => {
                let text = "--out names a key file, and a key made in a token stays there";
                return Err(Failure::Usage(text.into()));
            }
            Some(path) => path.clone(),
            None if !in_files => return Ok(None),
            None => {
                let folder = self.places.config.join("private");
                crate::instance::private_folder(&folder)
                    .map_err(|error| Failure::Permission(error.to_string()))?;
                let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
                let name: String = label.chars().map(plain).take(64).collect();
                folder.join(format!("{}-{name}.pem", order.module))
            }
        };
        if path.exists() {
            return Err(Failure::Usage(format!("{} exists already", path.display())));
        }
        if !path.parent().is_some_and(Path::is_dir) {
            return Err(Failure::NotFound(format!(
                "{}: there is no such folder to make it in",
                path.display()
            )));
        }
        Ok(Some(path.to_string_lossy().into_owned()))
    }
}

impl Caller {
    /// A request for a token, on behalf of this caller.
    pub fn request(&self, volume: Option<VolumeName>) -> Arc<Request> {
        Arc::new(Request {
            errand: Errand {
                volume,
                lower_path: None,
                program: self.program.clone(),
            },
            asker: self.asker.clone(),
            wait: self.wait.clone(),
            waits_for: Box::new(|_| ()),
        })
    }

    /// Someone who can neither be asked nor wait long: the daemon itself.
    pub fn nobody(wait: Wait) -> Self {
        Self {
            asker: Asker::Nobody,
            program: Program::of_pid(process::id()),
            wait,
        }
    }
}

/// What kind of key is in a file, as far as the daemon looks.
enum InFile {
    PublicKey(PublicKey),
    TpmKey,
    /// A private key, or something that the module will refuse.
    Other,
}

/// Looks at the PEM labels only: what is in a private key is the module's business.
fn in_file(path: &Path) -> Result<InFile, Failure> {
    let failed = |error: io::Error| {
        let text = format!("{}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Permission(text),
            _ => Failure::NotFound(text),
        }
    };
    // Does not wait for the writer of a FIFO: nobody could call that off.
    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Failure::Usage(format!("{} is not a file", path.display())));
    }
    // It may be a private key: read into memory that is wiped, and sized first.
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_MAX as usize + 1));
    file.take(KEY_FILE_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let has = |label: &[u8]| bytes.windows(label.len()).any(|window| window == label);
    if has(b"-----BEGIN TSS2 PRIVATE KEY-----") {
        return Ok(InFile::TpmKey);
    }
    if has(b"PRIVATE KEY-----") || !has(b"-----BEGIN PUBLIC KEY-----") {
        return Ok(InFile::Other);
    }
    let text = core::str::from_utf8(&bytes)
        .map_err(|_| Failure::Usage(format!("{}: not PEM", path.display())))?;
    let key = PublicKey::from_pem(text)
        .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    Ok(InFile::PublicKey(key))
}

fn no_key_at(key: &KeyRef) -> Failure {
    Failure::NotFound(format!(
        "{} holds no key that can be used: 'claviger key generate' makes one",
        shown(key)
    ))
}

fn no_such_key(key: &KeyRef) -> Failure {
    Failure::NotFound(format!(
        "there is no key {}: see 'claviger key list'",
        shown(key)
    ))
}
