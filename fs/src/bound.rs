//! Binding what is renamed or linked to its place, so that a crash at any moment leaves it openable.
//!
//! A place that is durable is left in three steps: announce the new one and make that durable,
//! rename, and let the old one go once the rename is known to be durable. What never was synced needs
//! none of that. What has several links is bound to none of its names.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use claviger_vault::dir::{DirError, Location, Record};
use claviger_vault::ids::{Epoch, FileId};
use claviger_vault::names::{NamesKeys, RECORD};
use claviger_vault::native::{self, FileError, PlaceSeal, Synced};
use claviger_vault::secret::NamesKey;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::syncfs;

use crate::attr::Kind;
use crate::create::Spot;
use crate::dircache::Dir;
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::Inode;
use crate::lower::{open_dir, open_regular, open_whatever_its_mode};
use crate::tree::location;

/// Renamed inodes that are remembered until the next sync of everything. One beyond that also opens
/// at its old place, if somebody puts it back there.
const MOVED_AT_MOST: usize = 4096;

/// Inodes that are bound to an old place besides the one they are at.
#[derive(Default)]
pub(crate) struct Moved(Mutex<Vec<Arc<Inode>>>);

/// What binds something that is being renamed.
pub(crate) enum Bound {
    Dir {
        fd: OwnedFd,
        record: Record,
        synced: Synced,
    },
    File {
        fd: OwnedFd,
        file: FileId,
        epoch: Epoch,
        synced: Synced,
    },
    /// Symlinks, pipes, sockets and devices; files with several links; what never reached the disk.
    Nowhere,
}

impl VolumeFs {
    /// Lets what is at `from` be at `to` as well. Refuses what does not belong at `from`.
    pub(crate) fn announce(
        &self,
        from: &Spot,
        to: &Spot,
        stat: &FileStat,
    ) -> Result<Bound, OpError> {
        let names = self.names()?;
        let ino = self.inodes.number(stat.st_ino);
        let inode = self.inodes.find(ino);
        let synced = match Kind::of(stat) {
            Kind::DIRECTORY if self.unsynced.has(ino, RECORD) => Synced::Never,
            Kind::REGULAR => inode.map_or(Synced::Maybe, |inode| inode.synced()),
            _ => Synced::Maybe,
        };
        let mut bound = self.bound(&names, &from.dir, from.name.as_str(), stat, synced)?;
        match &mut bound {
            Bound::Dir {
                fd,
                record,
                synced: Synced::Maybe,
            } => {
                let places = (from.location(), to.location());
                record.prepare_move(&*fd, &names, places, Synced::Maybe)?;
            }
            Bound::File {
                fd,
                file,
                epoch,
                synced,
            } => {
                let seal = file_seal(&names, (*file, *epoch), to.location())?;
                native::prepare_move(fd.as_fd(), key_of(&names), &seal, *synced)?;
            }
            Bound::Dir { .. } | Bound::Nowhere => {}
        }
        Ok(bound)
    }

    /// The rename failed: `bound` belongs at `at` only, as before.
    pub(crate) fn unannounce(&self, bound: &mut Bound, at: &Spot) {
        let settled = self
            .names()
            .and_then(|names| settle(bound, &names, at.location()));
        if let Err(error) = settled {
            tracing::warn!(%error, "what was not renamed also opens where it would have gone");
        }
    }

    /// The rename is done: `bound`, which is `inode`, is at `at`.
    pub(crate) fn moved(&self, mut bound: Bound, inode: Option<Arc<Inode>>, at: &Spot) {
        let synced = match &bound {
            Bound::Dir { synced, .. } | Bound::File { synced, .. } => *synced,
            Bound::Nowhere => return,
        };
        if synced == Synced::Never {
            let settled = self
                .names()
                .and_then(|names| settle(&mut bound, &names, at.location()));
            if let Err(error) = settled {
                tracing::warn!(%error, "what was renamed is not bound to its new place");
            }
        } else if let Some(inode) = inode {
            let mut moved = self.moved.0.lock().unwrap_or_else(PoisonError::into_inner);
            if moved.len() < MOVED_AT_MOST && !moved.iter().any(|known| Arc::ptr_eq(known, &inode))
            {
                moved.push(inode);
            }
        }
    }

    /// Lets all old places go: every rename is durable.
    pub(crate) fn settle_moved(&self) {
        let moved =
            std::mem::take(&mut *self.moved.0.lock().unwrap_or_else(PoisonError::into_inner));
        for inode in moved {
            if let Err(error) = self.settle_inode(&inode) {
                let lower = self.shown_path(&inode);
                tracing::debug!(lower, %error, "still bound to its old place as well");
            }
        }
    }

    /// Binds a file to none of its names: it is about to have several.
    pub(crate) fn unbind(&self, inode: &Arc<Inode>) -> Result<(), OpError> {
        let names = self.names()?;
        let place = inode.place().ok_or(Errno::ESTALE)?;
        let dir = self.dir_of(&place.parent)?;
        let stat = self.stat(inode)?;
        let bound = self.bound(&names, &dir, &place.name, &stat, inode.synced())?;
        let Bound::File {
            fd,
            file,
            epoch,
            synced,
        } = bound
        else {
            return Ok(());
        };
        let key = (epoch, names.names_key(epoch)?);
        let at = location(&dir, &place.name);
        let links = native::Links::Several;
        let seal = PlaceSeal::new(key, &file.0, &at.parent, at.lower_name, links);
        Ok(native::prepare_move(
            fd.as_fd(),
            key_of(&names),
            &seal,
            synced,
        )?)
    }

    fn settle_inode(&self, inode: &Arc<Inode>) -> Result<(), OpError> {
        let place = inode.place().ok_or(Errno::ENOENT)?;
        let dir = self.dir_of(&place.parent)?;
        let names = self.names()?;
        let stat = self.stat(inode)?;
        let mut bound = self.bound(&names, &dir, &place.name, &stat, Synced::Maybe)?;
        settle(&mut bound, &names, location(&dir, &place.name))
    }

    /// What binds `name` in `dir`. A rename before that has not been settled is made durable: a crash
    /// must not undo it when it has been forgotten.
    fn bound(
        &self,
        names: &NamesKeys,
        dir: &Dir,
        name: &str,
        stat: &FileStat,
        synced: Synced,
    ) -> Result<Bound, OpError> {
        let at = location(dir, name);
        match Kind::of(stat) {
            Kind::DIRECTORY => {
                let fd = open_dir(dir.fd.as_fd(), name)?;
                let record = match Record::open(&fd, names, at) {
                    Ok(record) => record,
                    Err(DirError::NeverReachedDisk) => return Ok(Bound::Nowhere),
                    Err(error) => return Err(error.into()),
                };
                if record.is_moving() {
                    syncfs(&self.lower)?;
                }
                Ok(Bound::Dir { fd, record, synced })
            }
            Kind::REGULAR => {
                let fd = match open_regular(dir.fd.as_fd(), name, OFlag::O_RDWR) {
                    // Renaming asks for nothing of the file itself.
                    Err(Errno::EACCES) => open_whatever_its_mode(dir, name, OFlag::O_RDWR)?,
                    fd => fd?,
                };
                if fstat(&fd)?.st_ino != stat.st_ino {
                    return Err(Errno::ESTALE.into());
                }
                let (file, place) = match native::read_place(fd.as_fd(), key_of(names)) {
                    Ok(placed) => placed,
                    Err(FileError::NeverReachedDisk) => return Ok(Bound::Nowhere),
                    Err(error) => return Err(error.into()),
                };
                let epoch = place.names_epoch;
                let here =
                    native::binding(names.names_key(epoch)?, &file.0, &at.parent, at.lower_name);
                match place.bound {
                    native::Bound::Linked => return Ok(Bound::Nowhere),
                    bound if !bound.allows(&here) => return Err(FileError::Misplaced.into()),
                    native::Bound::Here(_) => {}
                    native::Bound::Moving { .. } => {
                        syncfs(&self.lower)?;
                        let seal = file_seal(names, (file, epoch), at)?;
                        native::finish_move(fd.as_fd(), key_of(names), &seal, Synced::Maybe)?;
                    }
                }
                Ok(Bound::File {
                    fd,
                    file,
                    epoch,
                    synced,
                })
            }
            _ => Ok(Bound::Nowhere),
        }
    }
}

fn settle(bound: &mut Bound, names: &NamesKeys, at: Location<'_>) -> Result<(), OpError> {
    match bound {
        Bound::Dir { fd, record, synced } => record.finish_move(&*fd, names, at, *synced)?,
        Bound::File {
            fd,
            file,
            epoch,
            synced,
        } => {
            let seal = file_seal(names, (*file, *epoch), at)?;
            native::finish_move(fd.as_fd(), key_of(names), &seal, *synced)?;
        }
        Bound::Nowhere => {}
    }
    Ok(())
}

/// What binds a file to `at`, under the names key that its record was made with.
fn file_seal(
    names: &NamesKeys,
    (file, epoch): (FileId, Epoch),
    at: Location<'_>,
) -> Result<PlaceSeal, OpError> {
    let key = (epoch, names.names_key(epoch)?);
    Ok(PlaceSeal::new(
        key,
        &file.0,
        &at.parent,
        at.lower_name,
        native::Links::One,
    ))
}

/// The names keys, as `native` asks for them.
pub(crate) fn key_of<'a>(names: &'a NamesKeys) -> impl Fn(Epoch) -> Option<&'a NamesKey> {
    |epoch| names.names_key(epoch).ok()
}
