//! What is open until it is locked: volumes, and folders of eCryptfs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use claviger_protocol::Failure;
use claviger_protocol::control::RecipientInfo;
use claviger_vault::ids::VolumeId;

/// One that was unlocked, with its keys. Who holds it may find it locked at any time.
pub struct Lockable<K> {
    id: VolumeId,
    dir: PathBuf,
    opened_by: RecipientInfo,
    /// `None` once it is locked: whoever comes then finds no key, and the lock waits for those that
    /// are using one.
    keys: RwLock<Option<K>>,
}

/// The keys are being changed or wiped: whoever may wait shall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupied;

impl<K> Lockable<K> {
    pub(crate) fn new(id: VolumeId, dir: &Path, opened_by: RecipientInfo, keys: K) -> Self {
        Self {
            id,
            dir: dir.into(),
            opened_by,
            keys: RwLock::new(Some(keys)),
        }
    }

    /// Its id.
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// The lower folder it was unlocked in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who opened it.
    pub fn opened_by(&self) -> &RecipientInfo {
        &self.opened_by
    }

    /// Lets `work` use the keys; a lock waits for it, so it must not wait for anything.
    ///
    /// # Errors
    /// [`Failure::Locked`].
    pub fn with_keys<T>(&self, work: impl FnOnce(&K) -> T) -> Result<T, Failure> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.as_ref().map(work).ok_or(Failure::Locked)
    }

    /// The same without any waiting.
    ///
    /// # Errors
    /// [`Occupied`] while they are being changed, which may be remembered in the state folder, or wiped.
    pub fn with_keys_at_once<T>(
        &self,
        work: impl FnOnce(&K) -> T,
    ) -> Result<Result<T, Failure>, Occupied> {
        let keys = match self.keys.try_read() {
            Ok(keys) => keys,
            Err(TryLockError::Poisoned(keys)) => keys.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Occupied),
        };
        Ok(keys.as_ref().map(work).ok_or(Failure::Locked))
    }

    /// Lets `work` change the keys. It must not wait for the lower folder, whose disk may hang: a lock waits for
    /// it.
    pub(crate) fn change_keys<T>(&self, work: impl FnOnce(&mut K) -> T) -> Result<T, Failure> {
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

/// All that are unlocked, of one kind.
pub(crate) struct Lockables<K>(RwLock<Held<K>>);

struct Held<K> {
    all: HashMap<VolumeId, Arc<Lockable<K>>>,
    admission: Admission,
}

/// Whether another one may be unlocked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    Open,
    /// The daemon ends: nobody would ever lock it.
    Closed,
}

impl<K> Lockables<K> {
    pub(crate) fn get(&self, id: VolumeId) -> Result<Arc<Lockable<K>>, Failure> {
        self.read().all.get(&id).cloned().ok_or(Failure::Locked)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Lockable<K>>> {
        self.read().all.values().cloned().collect()
    }

    /// Takes one in.
    ///
    /// # Errors
    /// [`Failure::Busy`] once the daemon ends.
    pub(crate) fn insert(&self, lockable: Lockable<K>) -> Result<(), Failure> {
        let replaced = {
            let mut held = self.write();
            if held.admission == Admission::Closed {
                return Err(ending());
            }
            held.all.insert(lockable.id, Arc::new(lockable))
        };
        if let Some(old) = replaced {
            old.forget();
        }
        Ok(())
    }

    /// Takes no more in.
    pub(crate) fn close(&self) {
        self.write().admission = Admission::Closed;
    }

    /// Whether [`Self::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.read().admission == Admission::Closed
    }

    /// Takes one out and wipes its keys; the folder it was in, if it was there.
    pub(crate) fn remove(&self, id: VolumeId) -> Option<PathBuf> {
        let lockable = self.write().all.remove(&id)?;
        lockable.forget();
        Some(lockable.dir.clone())
    }

    fn read(&self) -> RwLockReadGuard<'_, Held<K>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held<K>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Lockables<K> {
    fn default() -> Self {
        Self(RwLock::new(Held {
            all: HashMap::new(),
            admission: Admission::Open,
        }))
    }
}

/// Why nothing is unlocked any more.
pub(crate) fn ending() -> Failure {
    Failure::Busy("clavigerd is ending: give the command again in a moment".into())
}
