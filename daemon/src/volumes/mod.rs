//! The volumes whose keys are here.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use claviger_pki::seed::SeededKey;
use claviger_protocol::Failure;
use claviger_protocol::control::RecipientInfo;
use claviger_vault::epoch::EpochKeys;
use claviger_vault::ids::{Scope, VolumeId};
use claviger_vault::manifest::Manifest;

use self::acknowledgements::Acknowledgements;
use crate::single_flight::SingleFlight;

/// How long mounts may take to take up new keys before nobody waits for them any more.
const KEYS_TIME: Duration = Duration::from_secs(2);

mod acknowledgements;
mod init;
mod lock;
mod open;
pub(crate) mod recipient;
mod recipients;
mod unlock;

pub use init::NewVolume;
pub use unlock::Unlocked;

/// All of them.
#[derive(Default)]
pub struct Volumes {
    open: RwLock<HashMap<VolumeId, Arc<Volume>>>,
    unlocking: SingleFlight<VolumeId, Result<Unlocked, Failure>>,
    /// Events that mounts have not acknowledged yet.
    pub(crate) acknowledgements: Acknowledgements,
}

/// One unlocked volume. Who holds it may find it locked at any time.
pub struct Volume {
    id: VolumeId,
    dir: PathBuf,
    scope: Scope,
    opened_by: RecipientInfo,
    /// `None` once it is locked: whoever comes then finds no key, and the lock waits for those that
    /// are using one.
    keys: RwLock<Option<Keys>>,
}

/// What an unlocked volume is.
pub struct Keys {
    /// Verified under the current epoch key.
    pub manifest: Manifest,
    /// All epoch keys, in locked memory.
    pub epochs: EpochKeys,
    /// The private key that opened it, where a passphrase or recovery key gave it: in file scope the
    /// files need it too.
    pub seed: Option<SeededKey>,
}

impl Volumes {
    /// The volume, if it is unlocked.
    ///
    /// # Errors
    /// [`Failure::Locked`].
    pub fn get(&self, id: VolumeId) -> Result<Arc<Volume>, Failure> {
        self.read().get(&id).cloned().ok_or(Failure::Locked)
    }

    /// All that are unlocked.
    pub fn all(&self) -> Vec<Arc<Volume>> {
        self.read().values().cloned().collect()
    }

    fn insert(&self, volume: Volume) {
        let replaced = self.write().insert(volume.id, Arc::new(volume));
        if let Some(old) = replaced {
            old.forget();
        }
    }

    /// Takes the volume out and wipes its keys; whether there was one.
    fn remove(&self, id: VolumeId) -> Option<Arc<Volume>> {
        let volume = self.write().remove(&id)?;
        volume.forget();
        Some(volume)
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<VolumeId, Arc<Volume>>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<VolumeId, Arc<Volume>>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    /// Its id.
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// The lower folder it was unlocked in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What one token operation opens.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Who opened it.
    pub fn opened_by(&self) -> &RecipientInfo {
        &self.opened_by
    }

    /// Lets `work` use the keys; a lock waits for it, so it must not wait for anything.
    ///
    /// # Errors
    /// [`Failure::Locked`].
    pub fn with_keys<T>(&self, work: impl FnOnce(&Keys) -> T) -> Result<T, Failure> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.as_ref().map(work).ok_or(Failure::Locked)
    }

    fn change_keys<T>(&self, work: impl FnOnce(&mut Keys) -> T) -> Result<T, Failure> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.as_mut().map(work).ok_or(Failure::Locked)
    }

    fn forget(&self) {
        self.keys
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// Opens a lower folder, and says what it is really called.
fn open_lower(dir: &Path) -> Result<(File, PathBuf), Failure> {
    let failed = |error: io::Error| {
        let text = format!("{}: {error}", dir.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Permission(text),
            _ => Failure::NotFound(text),
        }
    };
    let dir = dir.canonicalize().map_err(failed)?;
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(&dir);
    Ok((opened.map_err(failed)?, dir))
}
