//! An RSA key in a PEM file, used through the module for such files.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use claviger_pki::cancel::Cancel;
use claviger_pki::host::{GRACE, HostConfig, ModuleHost};
use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::{Decapsulate, Locator, ModuleError};
use claviger_protocol::failure::ExitCode;
use claviger_protocol::paths;
use claviger_vault::ecryptfs::{Fek, KeySig, Tag1};
use zeroize::Zeroizing;

use super::failed;
use super::keys::ask;
use crate::Failed;
use crate::prompter::Prompter;

/// How long the module may take for one answer; it waits for nobody.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An RSA key that can be used.
///
/// The module runs as a child of this program, not of the daemon: nothing of the key is kept when the
/// command ends.
pub(super) struct PemKey {
    module: ModuleHost,
    locator: Locator,
    public_key: PublicKey,
    sig: KeySig,
}

impl PemKey {
    /// Opens the file; asks for its passphrase if it has one.
    pub(super) fn open(path: &Path, prompter: &mut Prompter) -> Result<Self, Failed> {
        let path = path
            .canonicalize()
            .map_err(|error| Failed::file(path, &error))?;
        let locator = path.to_str().map(|text| Locator(text.into()));
        let locator = locator
            .ok_or_else(|| Failed::usage(format!("{}: the path is not UTF-8", path.display())))?;
        let module = ModuleHost::new(HostConfig {
            name: "openssl".into(),
            program: paths::program("claviger-pki-openssl"),
            settings: BTreeMap::new(),
            grace: GRACE,
        });
        let keys = || module.keys(&locator.0, deadline(), &Cancel::never());
        let keys = match keys() {
            Err(ModuleError::PinNeeded { .. }) => {
                let pin = ask(prompter, format!("Passphrase of {}", path.display()))?;
                let pin = Zeroizing::new(pin.expose().to_vec());
                module
                    .login(&locator, pin, deadline(), &Cancel::never())
                    .map_err(|error| refused(&path, &error))?;
                keys()
            }
            keys => keys,
        };
        let keys = keys.map_err(|error| refused(&path, &error))?;
        let public_key = keys.into_iter().next().map(|key| key.public_key);
        let rsa = public_key.as_ref().and_then(PublicKey::rsa);
        let sig = rsa.map(|(modulus, exponent)| KeySig::of_rsa(modulus, exponent));
        let (Some(public_key), Some(sig)) = (public_key, sig) else {
            let what = format!("{} holds no RSA key; eCryptfs has no other", path.display());
            return Err(Failed::usage(what));
        };
        Ok(Self {
            module,
            locator,
            public_key,
            sig,
        })
    }

    pub(super) fn sig(&self) -> KeySig {
        self.sig
    }

    /// Unwraps as the openssl module of ecryptfs-utils wraps.
    pub(super) fn unwrap(&self, packet: &Tag1, path: &Path) -> Result<Fek, Failed> {
        let call = Decapsulate {
            locator: self.locator.clone(),
            public_key: self.public_key.clone(),
            kem: Kem::RsaOaepSha1,
            encapsulation: packet.wrapped_fek.clone(),
        };
        let session_key = self.module.decapsulate(call, deadline(), &Cancel::never());
        let session_key = session_key.map_err(|error| refused(path, &error))?;
        Fek::from_session_key(&session_key).map_err(|error| failed(path, &error))
    }
}

fn deadline() -> Instant {
    Instant::now() + TIMEOUT
}

fn refused(path: &Path, error: &ModuleError) -> Failed {
    let code = match error {
        ModuleError::Absent(_) | ModuleError::NoSuchKey(_) => ExitCode::NotFound,
        ModuleError::PinNeeded { .. } | ModuleError::PinWrong { .. } => ExitCode::PinWrong,
        ModuleError::PinBlocked { .. } => ExitCode::PinBlocked,
        ModuleError::Lockout(_) => ExitCode::TpmLockout,
        ModuleError::NotDecryptable => ExitCode::Integrity,
        ModuleError::Unsupported(_) => ExitCode::Unsupported,
        ModuleError::BadRequest(_) => ExitCode::Usage,
        ModuleError::TimedOut | ModuleError::Cancelled => ExitCode::Declined,
        ModuleError::Backend { .. } | ModuleError::Process(_) => ExitCode::Internal,
    };
    Failed::new(code, format!("{}: {error}", path.display()))
}
