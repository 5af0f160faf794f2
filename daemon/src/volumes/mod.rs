//! The volumes whose keys are here, and the folders of eCryptfs.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use claviger_protocol::Failure;
use claviger_vault::epoch::EpochKeys;
use claviger_vault::ids::VolumeId;
use claviger_vault::manifest::Manifest;

use self::acknowledgements::Acknowledgements;
use self::lockable::Lockables;
use self::unlock::Attempt;
use crate::ecryptfs::folder::FolderKeys;
use crate::single_flight::SingleFlight;
use crate::turns::{Turn, Turns};
use crate::wait::Wait;

/// How long mounts may take to take up new keys before nobody waits for them any more.
const KEYS_TIME: Duration = Duration::from_secs(2);

mod acknowledgements;
mod init;
mod kept_seed;
mod lock;
mod lockable;
mod open;
pub(crate) mod recipient;
mod recipients;
mod root;
mod unlock;

pub use init::NewVolume;
pub(crate) use kept_seed::KeptSeed;
pub(crate) use lockable::ending;
pub use lockable::{Lockable, Occupied};
pub use unlock::Unlocked;

/// One unlocked volume.
pub type Volume = Lockable<Keys>;

/// One unlocked folder of eCryptfs.
pub type Folder = Lockable<FolderKeys>;

/// All of them.
#[derive(Default)]
pub struct Volumes {
    native: Lockables<Keys>,
    /// Their ids are those of [`folder_id`](claviger_vault::ecryptfs::folder_id).
    folders: Lockables<FolderKeys>,
    unlocking: SingleFlight<Attempt, Result<Unlocked, Failure>>,
    /// Of those who change a volume below, or take it in. Not a lock on its keys: the lower disk may hang, and
    /// then the volume is still to be locked, and others are to be unlocked.
    changing: Turns<VolumeId>,
    /// Events that mounts have not acknowledged yet.
    pub(crate) acknowledgements: Acknowledgements,
}

/// What an unlocked volume is.
pub struct Keys {
    /// Verified under the current epoch key.
    pub manifest: Manifest,
    /// All epoch keys, in locked memory.
    pub epochs: EpochKeys,
    /// In file scope, the passphrase or recovery key that opened it: the files need it too.
    pub(crate) seed: Option<KeptSeed>,
}

impl Volumes {
    /// The volume, if it is unlocked.
    ///
    /// # Errors
    /// [`Failure::Locked`].
    pub fn get(&self, id: VolumeId) -> Result<Arc<Volume>, Failure> {
        self.native.get(id)
    }

    /// The folder of eCryptfs, if it is unlocked.
    ///
    /// # Errors
    /// [`Failure::Locked`].
    pub fn folder(&self, id: VolumeId) -> Result<Arc<Folder>, Failure> {
        self.folders.get(id)
    }

    /// All volumes that are unlocked.
    pub fn all(&self) -> Vec<Arc<Volume>> {
        self.native.all()
    }

    /// All folders of eCryptfs that are unlocked.
    pub fn all_folders(&self) -> Vec<Arc<Folder>> {
        self.folders.all()
    }

    /// What is unlocked, of either kind, and in which lower folder.
    fn places(&self) -> Vec<(VolumeId, PathBuf)> {
        let place_of_volume = |volume: Arc<Volume>| (volume.id(), volume.dir().to_owned());
        let place_of_folder = |folder: Arc<Folder>| (folder.id(), folder.dir().to_owned());
        let volumes = self.all().into_iter().map(place_of_volume);
        let folders = self.all_folders().into_iter().map(place_of_folder);
        volumes.chain(folders).collect()
    }

    /// Waits until nobody else changes the volume below or takes it in.
    pub(crate) fn change(&self, id: VolumeId, wait: &Wait) -> Result<Turn<'_, VolumeId>, Failure> {
        self.changing.take(id, "another change of the volume", wait)
    }

    fn insert(&self, volume: Volume) -> Result<(), Failure> {
        self.native.insert(volume)
    }

    pub(crate) fn insert_folder(&self, folder: Folder) -> Result<(), Failure> {
        self.folders.insert(folder)
    }

    /// Nothing is unlocked from now on: the daemon ends.
    pub(crate) fn close(&self) {
        self.native.close();
        self.folders.close();
    }

    /// Whether the daemon ends.
    pub(crate) fn are_closed(&self) -> bool {
        self.folders.is_closed()
    }

    /// Takes it out and wipes its keys; the lower folder it was unlocked in, if it was.
    fn remove(&self, id: VolumeId) -> Option<PathBuf> {
        self.native.remove(id).or_else(|| self.folders.remove(id))
    }
}

/// Opens a lower folder, and says what it is really called.
pub(crate) fn open_lower(dir: &Path) -> Result<(File, PathBuf), Failure> {
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
