//! Directory records and sidecars that have been written but not synced.
//!
//! An fsynced file is lost if the record of a directory above it, or the sidecar of a long name on
//! the way to it, did not reach the disk. Making a directory costs no sync; the fsync of something
//! in it does it then.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_vault::names::{LowerName, RECORD};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{fdatasync, fsync};

use crate::dircache::Dir;
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::Inode;
use crate::lower::{open_dir_to_read, open_regular};

/// Beyond this many directories nothing more is noted: the next fsync syncs everything.
const NOTED_AT_MOST: usize = 16 * AT_MOST;

/// Beyond this many the lower filesystem is synced as a whole: cheaper, and the table stays small.
const AT_MOST: usize = 256;

/// Small files, by the inode number of the lower directory that they are in.
#[derive(Default)]
pub(crate) struct Unsynced {
    files: Mutex<HashMap<u64, Vec<String>>>,
    /// Length of the above: a fsync asks for it only, as a rule.
    directories: AtomicUsize,
}

impl Unsynced {
    /// Notes that `name` has been written in directory `ino`.
    pub(crate) fn wrote(&self, ino: u64, name: &str) {
        let mut files = self.files();
        if files.len() < NOTED_AT_MOST {
            files.entry(ino).or_default().push(name.into());
        }
        self.directories.store(files.len(), Ordering::Release);
    }

    /// Notes that the sidecar of `name`, if it has one, has been written in directory `ino`.
    pub(crate) fn wrote_sidecar(&self, ino: u64, name: &LowerName) {
        if let LowerName::Long { sidecar, .. } = name {
            self.wrote(ino, sidecar);
        }
    }

    /// Whether `name` in directory `ino` has been written and not synced.
    pub(crate) fn has(&self, ino: u64, name: &str) -> bool {
        self.files()
            .get(&ino)
            .is_some_and(|names| names.iter().any(|known| known == name))
    }

    /// Forgets what was in directory `ino`: it is removed.
    pub(crate) fn forget(&self, ino: u64) {
        self.take(ino);
    }

    /// Notes that everything has been synced.
    pub(crate) fn clear(&self) {
        self.files().clear();
        self.directories.store(0, Ordering::Release);
    }

    fn take(&self, ino: u64) -> Option<Vec<String>> {
        let mut files = self.files();
        let taken = files.remove(&ino);
        self.directories.store(files.len(), Ordering::Release);
        taken
    }

    fn put_back(&self, ino: u64, names: Vec<String>) {
        let mut files = self.files();
        files.entry(ino).or_default().extend(names);
        self.directories.store(files.len(), Ordering::Release);
    }

    fn files(&self) -> MutexGuard<'_, HashMap<u64, Vec<String>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VolumeFs {
    /// Syncs the record and the sidecars of `inode`'s directory and of every one above it.
    pub(crate) fn sync_above(&self, inode: &Arc<Inode>) -> Result<(), OpError> {
        match self.unsynced.directories.load(Ordering::Acquire) {
            0 => return Ok(()),
            1..AT_MOST => {}
            _ => {
                nix::unistd::syncfs(&self.lower)?;
                self.unsynced.clear();
                return Ok(());
            }
        }
        let mut at = Some(Arc::clone(inode));
        while let Some(dir) = at {
            self.sync_small(&dir)?;
            at = dir.place().map(|place| place.parent);
        }
        Ok(())
    }

    fn sync_small(&self, inode: &Arc<Inode>) -> Result<(), OpError> {
        let Some(names) = self.unsynced.take(inode.ino) else {
            return Ok(());
        };
        let dir = self.dir_of(inode)?;
        let synced = names.iter().try_for_each(|name| sync_file(&dir, name));
        let synced = synced.and_then(|()| sync_dir(&dir));
        if synced.is_err() {
            self.unsynced.put_back(inode.ino, names);
        }
        Ok(synced?)
    }

    /// Syncs the lower directory itself, and the records of directories in it: their names are what
    /// an fsync of a directory promises.
    pub(crate) fn fsyncdir(&self, ino: u64) -> Result<(), OpError> {
        let inode = self.inode(ino)?;
        for child in self.inodes_in(&inode) {
            self.sync_small(&child)?;
        }
        self.sync_above(&inode)?;
        Ok(sync_dir(&*self.dir_of(&inode)?)?)
    }

    /// Directories in `inode` with something unsynced.
    fn inodes_in(&self, inode: &Inode) -> Vec<Arc<Inode>> {
        if self.unsynced.directories.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let unsynced: Vec<u64> = self.unsynced.files().keys().copied().collect();
        let known = unsynced.into_iter().filter_map(|ino| self.inodes.find(ino));
        known
            .filter(|dir| {
                dir.place()
                    .is_some_and(|place| place.parent.ino == inode.ino)
            })
            .collect()
    }
}

fn sync_file(dir: &Dir, name: &str) -> Result<(), Errno> {
    match open_regular(dir.fd.as_fd(), name.as_bytes(), OFlag::O_RDONLY) {
        Ok(file) => fdatasync(file),
        // Gone with what it named.
        Err(Errno::ENOENT) if name != RECORD => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn sync_dir(dir: &Dir) -> Result<(), Errno> {
    fsync(open_dir_to_read(dir.fd.as_fd(), b".")?)
}
