//! One connection to the TPM: the SRK, a salted session, and keys as saved contexts.
//!
//! A TPM without a resource manager serves one connection, holds three objects and three sessions. So
//! there is one connection, with the SRK and one session loaded, and each key is loaded for one command
//! from its saved context, which costs a fourteenth of loading it from its file.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use claviger_pki::module::ModuleError;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::{CapabilityType, PropertyTag, SessionType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Auth as AuthValue, CapabilityData, CreateKeyResult, Public, SymmetricDefinition,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::utils::TpmsContext;
use tss_esapi::{Context, Error};
use zeroize::Zeroizing;

use crate::error::{Cause, backend, cause};
use crate::key_file::{KeyFile, OWNER};
use crate::template;

/// Where transient objects and loaded sessions begin (TPM 2.0 part 2, TPM_HT).
const TRANSIENT_FIRST: u32 = 0x8000_0000;
const LOADED_SESSION_FIRST: u32 = 0x0200_0000;

/// State of the dictionary-attack protection (TPM 2.0 part 1, 19.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lockout {
    /// Failures counted now.
    pub(crate) failed: u32,
    /// Failures that lock.
    pub(crate) limit: u32,
    /// Seconds until one is forgiven; 0: at a reboot only.
    pub(crate) interval_s: u32,
}

impl Lockout {
    /// Tries left before the TPM locks.
    pub(crate) fn tries_left(self) -> u32 {
        self.limit.saturating_sub(self.failed)
    }

    /// How long to wait, for people.
    pub(crate) fn advice(self) -> String {
        match self.interval_s {
            0 => "restart the machine to be given another try".into(),
            seconds => format!("one more try in at most {} minutes", seconds.div_ceil(60)),
        }
    }
}

/// An open connection.
pub(crate) struct Connection {
    context: Context,
    srk: KeyHandle,
    srk_name: Vec<u8>,
    session: AuthSession,
    /// Keys that were loaded once, by file.
    saved: HashMap<PathBuf, TpmsContext>,
}

impl Connection {
    /// Connects to `tcti`, such as `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`.
    ///
    /// # Errors
    /// [`ModuleError::Absent`] if there is no TPM, [`ModuleError::Backend`] if it does not work.
    pub(crate) fn open(tcti: &str) -> Result<Self, ModuleError> {
        let conf = TctiNameConf::from_str(tcti)
            .map_err(|error| ModuleError::BadRequest(format!("tcti '{tcti}': {error}")))?;
        let mut context = Context::new(conf).map_err(|_| absent(tcti))?;
        flush_left_behind(&mut context).map_err(|error| backend("Esys_FlushContext", error))?;
        let srk = create_srk(&mut context).map_err(|error| backend("Esys_CreatePrimary", error))?;
        let srk_name = context
            .tr_get_name(srk.into())
            .map_err(|error| backend("Esys_TR_GetName", error))?
            .value()
            .to_vec();
        let session = salted_session(&mut context, srk)
            .map_err(|error| backend("Esys_StartAuthSession", error))?;
        Ok(Self {
            context,
            srk,
            srk_name,
            session,
            saved: HashMap::new(),
        })
    }

    /// Name of the SRK.
    pub(crate) fn srk_name(&self) -> &[u8] {
        &self.srk_name
    }

    /// State of the dictionary-attack protection.
    pub(crate) fn lockout(&mut self) -> Result<Lockout, Error> {
        // Not get_tpm_property(): tss-esapi 7.7 caches what it read once, and this counter counts.
        let first = PropertyTag::LockoutCounter.into();
        let (capability, _more) = self.context.execute_without_session(|context| {
            context.get_capability(CapabilityType::TpmProperties, first, 3)
        })?;
        let value = |tag| match &capability {
            CapabilityData::TpmProperties(list) => list.find(tag).map_or(0, |found| found.value()),
            _ => 0,
        };
        Ok(Lockout {
            failed: value(PropertyTag::LockoutCounter),
            limit: value(PropertyTag::MaxAuthFail),
            interval_s: value(PropertyTag::LockoutInterval),
        })
    }

    /// Manufacturer and vendor string.
    pub(crate) fn model(&mut self) -> Result<String, Error> {
        let mut text = String::new();
        let tags = [
            PropertyTag::Manufacturer,
            PropertyTag::VendorString1,
            PropertyTag::VendorString2,
            PropertyTag::VendorString3,
            PropertyTag::VendorString4,
        ];
        for (index, tag) in tags.into_iter().enumerate() {
            let value = self
                .context
                .get_tpm_property(tag)?
                .unwrap_or(0)
                .to_be_bytes();
            if index == 1 {
                text.push(' ');
            }
            text.extend(
                value
                    .iter()
                    .map(|byte| char::from(*byte))
                    .filter(char::is_ascii_graphic),
            );
        }
        Ok(text.trim().into())
    }

    /// Makes a key under the SRK; its auth value crosses the bus encrypted.
    pub(crate) fn create(
        &mut self,
        public: Public,
        auth: Option<&Zeroizing<Vec<u8>>>,
    ) -> Result<CreateKeyResult, Error> {
        let auth = auth.map(auth_value).transpose()?;
        let (srk, session) = (self.srk, self.session);
        self.context.execute_with_session(Some(session), |context| {
            context.create(srk, public, auth, None, None, None)
        })
    }

    /// Loads a key, runs `command` with it over the salted session, and flushes it.
    ///
    /// A saved context that has gone stale is replaced by loading the file anew, once.
    pub(crate) fn with_key<T>(
        &mut self,
        path: &Path,
        file: &KeyFile,
        auth: Option<&Zeroizing<Vec<u8>>>,
        command: impl FnOnce(&mut Context, KeyHandle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let key = self.load(path, file)?;
        let outcome = self.run_with(key, auth, command);
        let flushed = self.context.flush_context(key.into());
        let value = outcome?;
        flushed?;
        Ok(value)
    }

    fn run_with<T>(
        &mut self,
        key: KeyHandle,
        auth: Option<&Zeroizing<Vec<u8>>>,
        command: impl FnOnce(&mut Context, KeyHandle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if let Some(auth) = auth {
            self.context.tr_set_auth(key.into(), auth_value(auth)?)?;
        }
        let session = self.session;
        self.context
            .execute_with_session(Some(session), |context| command(context, key))
    }

    fn load(&mut self, path: &Path, file: &KeyFile) -> Result<KeyHandle, Error> {
        if let Some(saved) = self.saved.get(path) {
            match self.context.context_load(saved.clone()) {
                Ok(handle) => return Ok(KeyHandle::from(handle)),
                Err(error) if cause(error) == Cause::Stale => {
                    self.saved.remove(path);
                }
                Err(error) => return Err(error),
            }
        }
        let parent = self.parent(file.parent)?;
        let session = self.session;
        let (private, public) = (file.private.clone(), file.public.clone());
        let key = self
            .context
            .execute_with_session(Some(session), |context| {
                context.load(parent, private, public)
            })?;
        let saved = self.context.context_save(key.into())?;
        self.saved.insert(path.to_owned(), saved);
        Ok(key)
    }

    fn parent(&mut self, handle: u32) -> Result<KeyHandle, Error> {
        if handle == OWNER {
            return Ok(self.srk);
        }
        let handle = TpmHandle::Persistent(PersistentTpmHandle::new(handle)?);
        let parent = self
            .context
            .execute_without_session(|context| context.tr_from_tpm_public(handle))?;
        Ok(parent.into())
    }
}

/// Without a resource manager, objects of clients that died stay loaded and fill the TPM; nobody else is
/// connected now, so they are nobody's. With one, a connection sees its own only: none yet.
fn flush_left_behind(context: &mut Context) -> Result<(), Error> {
    for first in [TRANSIENT_FIRST, LOADED_SESSION_FIRST] {
        let (capability, _more) = context.execute_without_session(|context| {
            context.get_capability(CapabilityType::Handles, first, 16)
        })?;
        let CapabilityData::Handles(handles) = capability else {
            continue;
        };
        for handle in handles.into_inner() {
            let object =
                context.execute_without_session(|context| context.tr_from_tpm_public(handle));
            match object {
                Ok(object) => context.flush_context(object)?,
                Err(error) => tracing::debug!(%error, "cannot name a handle left behind"),
            }
        }
    }
    Ok(())
}

/// The TSS has no words for what its transports meet; of a device, opening it tells.
fn absent(tcti: &str) -> ModuleError {
    let why = tcti
        .strip_prefix("device:")
        .and_then(|device| OpenOptions::new().read(true).write(true).open(device).err())
        .map(|error| format!(": {error}"));
    ModuleError::Absent(format!("TPM at {tcti}{}", why.unwrap_or_default()))
}

fn create_srk(context: &mut Context) -> Result<KeyHandle, Error> {
    let public = template::srk()?;
    let created = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.create_primary(Hierarchy::Owner, public, None, None, None, None)
    })?;
    Ok(created.key_handle)
}

/// Salted to the SRK, so that only the TPM that holds it can follow; both directions encrypted.
fn salted_session(context: &mut Context, srk: KeyHandle) -> Result<AuthSession, Error> {
    let session = context.execute_without_session(|context| {
        context.start_auth_session(
            Some(srk),
            None::<ObjectHandle>,
            None,
            SessionType::Hmac,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )
    })?;
    let session = session.expect("ESAPI gives a handle where it reports success");
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_continue_session(true)
        .with_decrypt(true)
        .with_encrypt(true)
        .build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    Ok(session)
}

fn auth_value(pin: &Zeroizing<Vec<u8>>) -> Result<AuthValue, Error> {
    AuthValue::try_from(pin.to_vec())
}
