//! Binding what is renamed or linked to its place, so that a crash at any moment leaves it openable.
//!
//! A place that is durable is left in three steps: announce the new one and make that durable,
//! rename, and let the old one go once the rename is known to be durable. What never was synced needs
//! none of that. What has several links is bound to none of its names.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use claviger_vault::dir::{DirError, Record};
use claviger_vault::names::{NamesKeys, RECORD};
use claviger_vault::native::{FileError, Placed};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::syncfs;

use crate::attr::Kind;
use crate::attributes::set_mode;
use crate::create::Spot;
use crate::dircache::Dir;
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::Inode;
use crate::lower::open_regular;
use crate::tree::{Pinned, location};

/// How long what is new counts as never synced. Linux writes what is older to the disk by itself
/// (`vm.dirty_expire_centisecs`), and nobody is told.
pub(crate) const YOUNG: Duration = Duration::from_secs(30);

/// Renamed inodes that are remembered until the next sync of everything. One that is dropped opens
/// at its old place, too, if it is put back there.
const MOVED_AT_MOST: usize = 4096;

/// Inodes that are bound to an old place besides the one they are at.
#[derive(Default)]
pub(crate) struct Moved(Mutex<Vec<Arc<Inode>>>);

/// The place record of something that is about to be renamed.
pub(crate) enum Bound {
    Dir { fd: OwnedFd, record: Record, durable: Durable },
    File { fd: OwnedFd, placed: Placed, durable: Durable },
    /// Symlinks, pipes, sockets and devices; files with several links; files that never reached the
    /// disk.
    Nowhere,
}

/// Whether a crash may bring back what was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    Maybe,
    No,
}

impl VolumeFs {
    /// Lets what is at `from` be at `to` as well. Refuses what does not belong at `from`.
    pub(crate) fn announce(&self, from: &Spot, to: &Spot, stat: &FileStat) -> Result<Bound, OpError> {
        let names = self.names()?;
        let mut bound = self.bound(&names, from, stat)?;
        let (here, next) = (from.location(), to.location());
        match &mut bound {
            Bound::Dir { fd, record, durable: Durable::Maybe } => {
                if record.is_moving() {
                    // The last rename must not be undone by a crash that this one survives.
                    syncfs(&self.lower)?;
                }
                record.announce(&*fd, &names, here, next)?;
            }
            Bound::File { fd, placed, durable: Durable::Maybe } => {
                if placed.is_moving() {
                    syncfs(&self.lower)?;
                }
                placed.announce(fd.as_fd(), &names, here, next)?;
            }
            Bound::Dir { .. } | Bound::File { .. } | Bound::Nowhere => {}
        }
        Ok(bound)
    }

    /// The rename failed: `bound` belongs at `at` only, as before.
    pub(crate) fn unannounce(&self, bound: &mut Bound, at: &Spot) {
        if let Err(error) = self.settle(bound, at) {
            tracing::warn!(%error, "what was not renamed also opens where it would have gone");
        }
    }

    /// The rename is done: `bound`, which is `inode`, is at `at`.
    pub(crate) fn moved(&self, mut bound: Bound, inode: Option<Arc<Inode>>, at: &Spot) {
        let durable = match &bound {
            Bound::Dir { durable, .. } | Bound::File { durable, .. } => *durable,
            Bound::Nowhere => return,
        };
        if durable == Durable::No {
            if let Err(error) = self.settle(&mut bound, at) {
                tracing::warn!(%error, "what was renamed is not bound to its new place");
            }
        } else if let Some(inode) = inode {
            let mut moved = self.moved.0.lock().unwrap_or_else(PoisonError::into_inner);
            if moved.len() < MOVED_AT_MOST && !moved.iter().any(|known| Arc::ptr_eq(known, &inode)) {
                moved.push(inode);
            }
        }
    }

    /// Lets all old places go: every rename is durable.
    pub(crate) fn settle_moved(&self) {
        let moved = std::mem::take(&mut *self.moved.0.lock().unwrap_or_else(PoisonError::into_inner));
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
        let fd = self.at(inode, |dir, name| Ok(open_regular(dir, name, OFlag::O_RDWR)?))?;
        self.same(inode, &fstat(&fd)?)?;
        let mut placed = match Placed::open(fd.as_fd(), &names, location(&dir, &place.name)) {
            Err(FileError::NeverReachedDisk) => return Ok(()),
            placed => placed?,
        };
        if !placed.is_linked() {
            placed.unbind(fd.as_fd(), &names)?;
            if inode.durable() == Durable::Maybe {
                nix::unistd::fdatasync(&fd)?;
            }
        }
        Ok(())
    }

    fn settle_inode(&self, inode: &Arc<Inode>) -> Result<(), OpError> {
        let place = inode.place().ok_or(Errno::ENOENT)?;
        let dir = self.dir_of(&place.parent)?;
        let names = self.names()?;
        let stat = self.stat(inode)?;
        let mut bound = self.bound_at(&names, &dir, &place.name, &stat, Durable::Maybe)?;
        settle(&mut bound, &names, location(&dir, &place.name))
    }

    fn settle(&self, bound: &mut Bound, at: &Spot) -> Result<(), OpError> {
        settle(bound, &*self.names()?, at.location())
    }

    fn bound(&self, names: &NamesKeys, at: &Spot, stat: &FileStat) -> Result<Bound, OpError> {
        let ino = self.inodes.number(stat.st_ino);
        let durable = match Kind::of(stat) {
            Kind::DIRECTORY if self.unsynced.has(ino, RECORD) => Durable::No,
            Kind::REGULAR => self.inodes.find(ino).map_or(Durable::Maybe, |inode| inode.durable()),
            _ => Durable::Maybe,
        };
        self.bound_at(names, &at.dir, at.name.as_str(), stat, durable)
    }

    fn bound_at(
        &self,
        names: &NamesKeys,
        dir: &Dir,
        name: &str,
        stat: &FileStat,
        durable: Durable,
    ) -> Result<Bound, OpError> {
        let at = location(dir, name);
        match Kind::of(stat) {
            Kind::DIRECTORY => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fd = openat(&dir.fd, name, flags, Mode::empty())?;
                match Record::open(&fd, names, at) {
                    Ok(record) => Ok(Bound::Dir { fd, record, durable }),
                    Err(DirError::NeverReachedDisk) => Ok(Bound::Nowhere),
                    Err(error) => Err(error.into()),
                }
            }
            Kind::REGULAR => {
                let fd = open_to_bind(dir, name)?;
                match Placed::open(fd.as_fd(), names, at) {
                    Ok(placed) if placed.is_linked() => Ok(Bound::Nowhere),
                    Ok(placed) => Ok(Bound::File { fd, placed, durable }),
                    Err(FileError::NeverReachedDisk) => Ok(Bound::Nowhere),
                    Err(error) => Err(error.into()),
                }
            }
            _ => Ok(Bound::Nowhere),
        }
    }
}

fn settle(
    bound: &mut Bound,
    names: &NamesKeys,
    at: claviger_vault::dir::Location<'_>,
) -> Result<(), OpError> {
    match bound {
        Bound::Dir { fd, record, durable: Durable::Maybe } => record.settle(&*fd, names, at)?,
        Bound::Dir { fd, record, durable: Durable::No } => record.rebind_unsynced(&*fd, names, at)?,
        Bound::File { fd, placed, .. } => placed.settle(fd.as_fd(), names, at)?,
        Bound::Nowhere => {}
    }
    Ok(())
}

/// Opens a lower file for its place record, whatever its mode says: renaming it asks for nothing of
/// the file itself.
fn open_to_bind(dir: &Dir, name: &str) -> Result<OwnedFd, Errno> {
    match open_regular(dir.fd.as_fd(), name, OFlag::O_RDWR) {
        Err(Errno::EACCES) => {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = openat(&dir.fd, name, flags, Mode::empty())?;
            let stat = fstat(&fd)?;
            open_against_mode(&Pinned { fd, stat }, OFlag::O_RDWR)
        }
        opened => opened,
    }
}

/// Opens a lower file of ours whose mode denies us what we need: for a moment it does not.
pub(crate) fn open_against_mode(pinned: &Pinned, access: OFlag) -> Result<OwnedFd, Errno> {
    if Kind::of(&pinned.stat) != Kind::REGULAR {
        return Err(Errno::EACCES);
    }
    let mode = Mode::from_bits_truncate(pinned.stat.st_mode & 0o7777);
    set_mode(pinned, mode | Mode::S_IRUSR | Mode::S_IWUSR)?;
    let path = pinned.proc_path();
    let opened = nix::fcntl::open(path.as_c_str(), access | OFlag::O_CLOEXEC, Mode::empty());
    set_mode(pinned, mode)?;
    opened
}
