//! Directory records and sidecars that have been written but not synced.
//!
//! An fsynced file is lost if the record of a directory above it, or the sidecar of a long name on
//! the way to it, did not reach the disk. Making a directory costs no sync; the fsync of something
//! in it does it then.
//!
//! A note stays until what it says is durable: of two who fsync at once each finds it, and both sync.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_vault::names::{LowerName, RECORD};
use claviger_vault::native::Synced;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{fdatasync, fsync};

use crate::create::Spot;
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
    notes: Mutex<Notes>,
    /// [`Notes::directories`]: a fsync asks for it only, as a rule.
    directories: AtomicUsize,
}

#[derive(Default)]
struct Notes {
    /// How many have been made.
    made: u64,
    files: HashMap<u64, Vec<Note>>,
    /// Number of the last one that there was no room for, until everything is synced.
    left_out: Option<u64>,
}

struct Note {
    number: u64,
    name: String,
}

impl Unsynced {
    /// Notes that `name` has been written in directory `ino`.
    pub(crate) fn wrote(&self, ino: u64, name: &str) {
        let mut notes = self.notes();
        notes.made += 1;
        let number = notes.made;
        if notes.files.len() < NOTED_AT_MOST {
            let name = name.into();
            let names = notes.files.entry(ino).or_default();
            names.push(Note { number, name });
        } else {
            notes.left_out = Some(number);
        }
        self.count(&notes);
    }

    /// Notes that the sidecar of `name`, if it has one, has been written in directory `ino`.
    pub(crate) fn wrote_sidecar(&self, ino: u64, name: &LowerName) {
        if let LowerName::Long { sidecar, .. } = name {
            self.wrote(ino, sidecar);
        }
    }

    /// Forgets what was in directory `ino`: it is removed.
    pub(crate) fn forget(&self, ino: u64) {
        let mut notes = self.notes();
        notes.files.remove(&ino);
        self.count(&notes);
    }

    /// Has `sync` make everything durable, and forgets what was noted before, but nothing that was
    /// noted meanwhile.
    pub(crate) fn sync_all<E>(&self, sync: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let upto = self.notes().made;
        sync()?;
        let mut notes = self.notes();
        notes.files.retain(|_, names| {
            names.retain(|note| note.number > upto);
            !names.is_empty()
        });
        notes.left_out = notes.left_out.filter(|number| *number > upto);
        self.count(&notes);
        Ok(())
    }

    /// Has `sync` make durable what is noted of directory `ino`, if anything is, and forgets that, but
    /// nothing that was noted meanwhile.
    fn sync_in<E>(&self, ino: u64, sync: impl FnOnce(&[String]) -> Result<(), E>) -> Result<(), E> {
        let (names, upto) = {
            let notes = self.notes();
            let Some(names) = notes.files.get(&ino) else {
                return Ok(());
            };
            let names: Vec<_> = names.iter().map(|note| note.name.clone()).collect();
            (names, notes.made)
        };
        sync(&names)?;
        let mut notes = self.notes();
        if let Some(names) = notes.files.get_mut(&ino) {
            names.retain(|note| note.number > upto);
            if names.is_empty() {
                notes.files.remove(&ino);
            }
        }
        self.count(&notes);
        Ok(())
    }

    /// Directories with something noted; very many if one was left out.
    fn directories(&self) -> usize {
        self.directories.load(Ordering::Acquire)
    }

    fn count(&self, notes: &Notes) {
        let directories = match notes.left_out {
            Some(_) => usize::MAX,
            None => notes.files.len(),
        };
        self.directories.store(directories, Ordering::Release);
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VolumeFs {
    /// Syncs the record and the sidecars of `inode`'s directory and of every one above it.
    pub(crate) fn sync_above(&self, inode: &Arc<Inode>) -> Result<(), OpError> {
        match self.unsynced.directories() {
            0 => return Ok(()),
            1..AT_MOST => {}
            _ => return Ok(self.unsynced.sync_all(|| self.syncs.sync())?),
        }
        let mut at = Some(Arc::clone(inode));
        while let Some(dir) = at {
            self.sync_small(&dir)?;
            at = dir.place().map(|place| place.parent);
        }
        Ok(())
    }

    fn sync_small(&self, inode: &Arc<Inode>) -> Result<(), OpError> {
        self.unsynced.sync_in(inode.ino, |names| {
            let dir = self.dir_of(inode)?;
            // Before it is: whoever renames the directory meanwhile must not take it for new.
            inode.is_synced();
            names.iter().try_for_each(|name| sync_file(&dir, name))?;
            Ok(sync_dir(&dir)?)
        })
    }

    /// Before what may be durable gets the name at `to`, makes durable what it will be found by: the
    /// sidecar of the name, and the records of new directories on the way.
    pub(crate) fn sync_name(&self, to: &Spot, inode: Option<&Inode>) -> Result<(), OpError> {
        if self.synced(inode) == Synced::Never {
            return Ok(());
        }
        if let LowerName::Long { sidecar, .. } = &to.name {
            sync_file(&to.dir, sidecar)?;
        }
        self.sync_above(&to.parent)
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
        if self.unsynced.directories() == 0 {
            return Vec::new();
        }
        let unsynced: Vec<u64> = self.unsynced.notes().files.keys().copied().collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: u64 = 5;

    fn noted(unsynced: &Unsynced, ino: u64) -> Vec<String> {
        let mut noted = Vec::new();
        let failed = unsynced.sync_in(ino, |names| {
            noted = names.to_vec();
            Err(())
        });
        assert_eq!(failed.is_ok(), noted.is_empty());
        noted
    }

    #[test]
    fn whoever_syncs_while_another_does_finds_what_is_not_durable_yet() {
        let unsynced = Unsynced::default();
        unsynced.wrote(DIR, RECORD);
        let synced = unsynced.sync_in(DIR, |_| {
            assert_eq!(noted(&unsynced, DIR), [RECORD]);
            assert_eq!(unsynced.directories(), 1);
            Ok::<_, ()>(())
        });
        synced.unwrap();
        assert_eq!(unsynced.directories(), 0);
    }

    #[test]
    fn what_is_noted_while_a_sync_runs_stays_noted() {
        let unsynced = Unsynced::default();
        unsynced.wrote(DIR, RECORD);
        let all = unsynced.sync_all(|| {
            unsynced.wrote(DIR, "meanwhile");
            unsynced.wrote(6, RECORD);
            Ok::<_, ()>(())
        });
        all.unwrap();
        assert_eq!(noted(&unsynced, DIR), ["meanwhile"]);
        assert_eq!(noted(&unsynced, 6), [RECORD]);
        let one = unsynced.sync_in(DIR, |_| {
            unsynced.wrote(DIR, "later");
            Ok::<_, ()>(())
        });
        one.unwrap();
        assert_eq!(noted(&unsynced, DIR), ["later"]);
    }

    #[test]
    fn what_there_was_no_room_to_note_is_synced_with_everything_else() {
        let unsynced = Unsynced::default();
        (0..=NOTED_AT_MOST as u64).for_each(|ino| unsynced.wrote(ino, RECORD));
        let all = unsynced.sync_all(|| {
            unsynced.wrote(u64::MAX, RECORD);
            Ok::<_, ()>(())
        });
        all.unwrap();
        assert!(unsynced.directories() >= AT_MOST);
        unsynced.sync_all(|| Ok::<_, ()>(())).unwrap();
        assert_eq!(unsynced.directories(), 0);
    }
}
