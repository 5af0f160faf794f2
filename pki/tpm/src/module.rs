//! What `clavigerd` asks of a TPM.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use claviger_pki::key::{Kem, KeyType};
use claviger_pki::module::{
    Decapsulate, DecryptPkcs1V15, Generate, Key, Locator, Module, ModuleError, PinState,
    Provenance, Token,
};
use claviger_pki::wire::Settings;
use tss_esapi::Error;
use tss_esapi::attributes::ObjectAttributes;
use zeroize::Zeroizing;

use crate::connection::{Connection, Lockout};
use crate::error::{Cause, backend, cause};
use crate::held::Held;
use crate::kem;
use crate::key_file::{KeyFile, OWNER};
use crate::locator::KeyPlace;
use crate::template::{self, Auth};

/// The TPM of this machine, through the kernel's resource manager.
const DEFAULT_TCTI: &str = "device:/dev/tpmrm0";

/// Longest auth value of a key whose names are SHA-256 (TPM 2.0 part 2, TPM2B_AUTH), bytes.
const PIN_MAX: usize = 32;

/// The module.
pub struct TpmModule(Arc<Held>);

impl TpmModule {
    /// With the setting `tcti`; connects at the first call.
    ///
    /// # Errors
    /// Never now; what is wrong with a TCTI shows at the first call.
    pub fn open(settings: &Settings) -> Result<Self, ModuleError> {
        let tcti = settings.get("tcti").map_or(DEFAULT_TCTI, String::as_str);
        Ok(Self(Held::start(tcti.into())?))
    }

    fn token_name(&self) -> String {
        format!("TPM ({})", self.0.tcti())
    }

    /// Reads the state of the dictionary-attack protection before anything that may count as a try.
    fn check_lockout(&self, connection: &mut Connection) -> Result<Lockout, ModuleError> {
        let lockout = connection
            .lockout()
            .map_err(|error| backend("Esys_GetCapability", error))?;
        match lockout.tries_left() {
            0 => Err(ModuleError::Lockout(lockout.advice())),
            _ => Ok(lockout),
        }
    }

    fn refused(&self, lockout: Option<Lockout>) -> ModuleError {
        let state = lockout.map_or(PinState::Ok, pin_state);
        ModuleError::PinWrong {
            token: self.token_name(),
            state,
        }
    }
}

impl Drop for TpmModule {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Module for TpmModule {
    fn concurrency(&self) -> usize {
        1
    }

    fn tokens(&self) -> Result<Vec<Token>, ModuleError> {
        let token = self.0.with_connection(|connection, _| {
            let model = connection
                .model()
                .map_err(|error| backend("Esys_GetCapability", error))?;
            let lockout = connection
                .lockout()
                .map_err(|error| backend("Esys_GetCapability", error))?;
            // A TPM has no serial number that an unprivileged user may read; its SRK's name tells it apart.
            let name = data_encoding::HEXLOWER.encode(connection.srk_name());
            Ok(Token {
                label: "TPM".into(),
                uri: self.0.tcti().into(),
                model,
                serial: name.chars().skip(4).take(16).collect(),
                pin_state: pin_state(lockout),
            })
        });
        match token {
            Ok(token) => Ok(vec![token]),
            Err(ModuleError::Absent(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn keys(&self, selector: &str) -> Result<Vec<Key>, ModuleError> {
        let (path, pinned) = match KeyPlace::parse(&Locator(selector.into())) {
            Ok(place) => (place.file, Some(place.srk_name)),
            Err(_) => (PathBuf::from(selector), None),
        };
        if !path.is_absolute() {
            return Err(ModuleError::BadRequest(format!(
                "'{selector}' is not the path of a key file"
            )));
        }
        let file = KeyFile::read(&path)?;
        self.0.with_connection(|connection, _| {
            if let Some(pinned) = &pinned {
                check_srk(connection, pinned)?;
            }
            // Only this TPM loads it: a file of another machine is refused now, not when it is needed.
            connection
                .with_key(&path, &file, None, |_, _| Ok(()))
                .map_err(|error| foreign(&path, error))?;
            Ok(vec![key(&path, &file, connection.srk_name())?])
        })
    }

    fn generate(&self, order: &Generate) -> Result<Key, ModuleError> {
        let path = order
            .out
            .as_deref()
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let path = path.ok_or_else(|| {
            ModuleError::BadRequest("a TPM key needs an absolute path for its file".into())
        })?;
        if let Some(pin) = &order.pin {
            check_pin_length(pin)?;
        }
        let auth = if order.pin.is_some() {
            Auth::Pin
        } else {
            Auth::Empty
        };
        let public = template::key(order.key_type.unwrap_or(KeyType::EcP256), auth)?;
        self.0.with_connection(|connection, pins| {
            let created = connection
                .create(public, order.pin.as_ref())
                .map_err(|error| {
                    // TPM_RC_CURVE, TPM_RC_VALUE: this TPM does not have the size or curve.
                    match cause(error) {
                        Cause::Input => ModuleError::Unsupported(format!(
                            "the TPM refuses this kind of key: {error}"
                        )),
                        _ => backend("Esys_Create", error),
                    }
                })?;
            let file = KeyFile {
                parent: OWNER,
                public: created.out_public,
                private: created.out_private,
                auth,
            };
            let mut key = key(&path, &file, connection.srk_name())?;
            file.create(&path)?;
            if let Some(pin) = &order.pin {
                pins.insert(path.clone(), pin.clone());
            }
            if !order.label.is_empty() {
                key.label.clone_from(&order.label);
            }
            Ok(key)
        })
    }

    fn login(&self, locator: &Locator, pin: &Zeroizing<Vec<u8>>) -> Result<(), ModuleError> {
        let place = KeyPlace::parse(locator)?;
        check_pin_length(pin)?;
        let file = KeyFile::read(&place.file)?;
        self.0.with_connection(|connection, pins| {
            check_srk(connection, &place.srk_name)?;
            self.check_lockout(connection)?;
            pins.remove(&place.file);
            let tried = connection.with_key(&place.file, &file, Some(pin), |context, key| {
                kem::prove_use(context, key, &file.public)
            });
            match tried {
                Ok(()) => {
                    pins.insert(place.file.clone(), pin.clone());
                    Ok(())
                }
                Err(error) => Err(match cause(error) {
                    Cause::AuthRefused => self.refused(connection.lockout().ok()),
                    Cause::Lockout => lockout(connection),
                    _ => foreign(&place.file, error),
                }),
            }
        })
    }

    fn logout(&self) {
        self.0.let_go();
    }

    /// No key of this module is older than this module: eCryptfs had none of them.
    fn decrypt_pkcs1_v15(
        &self,
        _call: &DecryptPkcs1V15,
        _deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        Err(ModuleError::Unsupported("PKCS#1 v1.5".into()))
    }

    fn decapsulate(
        &self,
        call: &Decapsulate,
        _deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        let place = KeyPlace::parse(&call.locator)?;
        let file = KeyFile::read(&place.file)?;
        if template::public_key(&file.public)? != call.public_key {
            return Err(ModuleError::NoSuchKey(format!(
                "{} holds another key",
                place.file.display()
            )));
        }
        self.0.with_connection(|connection, pins| {
            check_srk(connection, &place.srk_name)?;
            let pin = pins.get(&place.file);
            if file.auth == Auth::Pin && pin.is_none() {
                let state = self.check_lockout(connection).map(pin_state)?;
                return Err(ModuleError::PinNeeded {
                    token: self.token_name(),
                    state,
                });
            }
            let opened = connection.with_key(&place.file, &file, pin, |context, key| {
                kem::open(context, key, call.kem, &call.encapsulation)
            });
            opened.map_err(|error| match cause(error) {
                Cause::AuthRefused => {
                    pins.remove(&place.file);
                    self.refused(connection.lockout().ok())
                }
                Cause::Lockout => lockout(connection),
                Cause::Input => ModuleError::NotDecryptable,
                Cause::Stale | Cause::Full | Cause::Other => foreign(&place.file, error),
            })
        })
    }
}

/// A TPM whose SRK is another is another TPM, or an impostor between us and ours.
fn check_srk(connection: &Connection, pinned: &[u8]) -> Result<(), ModuleError> {
    if connection.srk_name() == pinned {
        return Ok(());
    }
    Err(ModuleError::Absent(
        "the TPM that this key was made in: its storage root key is another".into(),
    ))
}

fn key(path: &Path, file: &KeyFile, srk_name: &[u8]) -> Result<Key, ModuleError> {
    let public_key = template::public_key(&file.public)?;
    let kems = match public_key.key_type() {
        KeyType::EcP256 => vec![Kem::DhkemP256],
        KeyType::EcP384 => vec![Kem::DhkemP384],
        KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => {
            vec![Kem::RsaOaepSha256, Kem::RsaOaepSha1]
        }
    };
    let place = KeyPlace {
        srk_name: srk_name.to_vec(),
        file: path.to_owned(),
    };
    Ok(Key {
        locator: place.locator()?,
        public_key,
        label: KeyPlace::label(path),
        kems,
        provenance: provenance(file.public.object_attributes()),
    })
}

fn provenance(attributes: ObjectAttributes) -> Provenance {
    match (
        attributes.fixed_tpm() && attributes.fixed_parent(),
        attributes.sensitive_data_origin(),
    ) {
        (true, true) => Provenance::InToken,
        (true, false) => Provenance::Imported,
        (false, _) => Provenance::Extractable,
    }
}

fn pin_state(lockout: Lockout) -> PinState {
    match lockout.tries_left() {
        0 => PinState::Blocked,
        1 => PinState::FinalTry,
        left if lockout.failed > 0 => PinState::TriesLeft(left),
        _ => PinState::Ok,
    }
}

fn lockout(connection: &mut Connection) -> ModuleError {
    let advice = connection
        .lockout()
        .map_or_else(|_| "wait and try again".into(), Lockout::advice);
    ModuleError::Lockout(advice)
}

/// A file that this TPM does not load was made in another one.
fn foreign(path: &Path, error: Error) -> ModuleError {
    match cause(error) {
        Cause::Stale | Cause::Input => ModuleError::Absent(format!(
            "the TPM that {} was made in ({error})",
            path.display()
        )),
        _ => backend("Esys_Load", error),
    }
}

fn check_pin_length(pin: &[u8]) -> Result<(), ModuleError> {
    match pin.len() {
        1..=PIN_MAX => Ok(()),
        0 => Err(ModuleError::BadRequest(
            "an empty PIN protects nothing".into(),
        )),
        _ => Err(ModuleError::BadRequest(format!(
            "a TPM takes PINs of at most {PIN_MAX} bytes"
        ))),
    }
}
