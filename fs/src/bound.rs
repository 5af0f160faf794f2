//! Binding what is renamed or linked to its place, so that a crash at any moment leaves it openable.
//!
//! A place that is durable is left in three steps: announce the new one and make that durable,
//! rename, and let the old one go once the rename is known to be durable. What is new takes the same
//! steps at once and without syncs: only a kill can come in between. What has several links is bound to
//! none of its names.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use claviger_vault::dir::{DirError, Location, Record};
use claviger_vault::ids::{Epoch, FileId};
use claviger_vault::names::NamesKeys;
use claviger_vault::native::{self, FileError, Links, PlaceSeal, Synced, places_of};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::fdatasync;

use crate::attr::Kind;
use crate::create::Spot;
use crate::dircache::Dir;
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::Inode;
use crate::lower::{open_dir, open_regular, open_whatever_its_mode};
use crate::openfile::{OpenFile, keeping_attributes};
use crate::tree::location;

/// Renamed inodes that are remembered until the next sync of everything. One beyond that also opens
/// at its old place, if somebody puts it back there.
const MOVED_AT_MOST: usize = 4096;

/// Inodes that are bound to an old place besides the one they are at, by number.
#[derive(Default)]
pub(crate) struct Moved {
    inodes: Mutex<HashMap<u64, Arc<Inode>>>,
    /// Locked for writing while one is bound to its new place alone.
    settling: RwLock<()>,
}

/// What binds something that is being renamed.
pub(crate) enum Bound {
    Dir {
        fd: OwnedFd,
        record: Record,
        synced: Synced,
    },
    File(BoundFile),
    /// Symlinks, pipes, sockets and devices; files with several links; what never reached the disk.
    Nowhere,
}

/// A file that is bound to its name.
pub(crate) struct BoundFile {
    fd: OwnedFd,
    file: FileId,
    epoch: Epoch,
    synced: Synced,
    open: Option<Arc<OpenFile>>,
}

impl BoundFile {
    /// Lets it be at `at` as well, or, with several links, anywhere.
    fn prepare(&self, names: &NamesKeys, at: Location<'_>, links: Links) -> Result<(), OpError> {
        let seal = self.seal(names, at, links)?;
        let lower = self.fd.as_fd();
        keeping_attributes(lower, self.open.as_deref(), || {
            Ok(native::prepare_move(
                lower,
                places_of(names),
                &seal,
                self.synced,
            )?)
        })
    }

    /// Lets it be at `at` only.
    fn finish(&self, names: &NamesKeys, at: Location<'_>) -> Result<(), OpError> {
        let seal = self.seal(names, at, Links::One)?;
        let lower = self.fd.as_fd();
        keeping_attributes(lower, self.open.as_deref(), || {
            Ok(native::finish_move(
                lower,
                places_of(names),
                &seal,
                self.synced,
            )?)
        })
    }

    /// Under the names key that its record was made with.
    fn seal(
        &self,
        names: &NamesKeys,
        at: Location<'_>,
        links: Links,
    ) -> Result<PlaceSeal, OpError> {
        let keys = (self.epoch, names.places(self.epoch)?);
        Ok(PlaceSeal::new(
            keys,
            &self.file.0,
            &at.parent,
            at.lower_name,
            links,
        ))
    }
}

impl Bound {
    fn synced(&self) -> Option<Synced> {
        match self {
            Self::Dir { synced, .. } | Self::File(BoundFile { synced, .. }) => Some(*synced),
            Self::Nowhere => None,
        }
    }

    /// Makes durable what it says now.
    fn harden(&mut self) -> Result<(), OpError> {
        match self {
            Self::Dir { fd, record, synced } => {
                record.sync(&*fd)?;
                *synced = Synced::Maybe;
            }
            Self::File(file) => {
                fdatasync(&file.fd)?;
                file.synced = Synced::Maybe;
            }
            Self::Nowhere => {}
        }
        Ok(())
    }

    /// Lets it be at `at` only.
    fn settle(&mut self, names: &NamesKeys, at: Location<'_>) -> Result<(), OpError> {
        match self {
            Self::Dir { fd, record, synced } => record.finish_move(&*fd, names, at, *synced)?,
            Self::File(file) => file.finish(names, at)?,
            Self::Nowhere => {}
        }
        Ok(())
    }
}

impl VolumeFs {
    /// Lets what is at `from` be at `to` as well. Refuses what does not belong at `from`.
    pub(crate) fn announce(
        &self,
        from: &Spot,
        to: &Spot,
        stat: &FileStat,
    ) -> Result<Bound, OpError> {
        let tree = self.tree()?;
        let Some(names) = tree.names_keys() else {
            return Ok(Bound::Nowhere);
        };
        let inode = self.inodes.find_lower(stat.st_ino);
        let mut bound = self.bound(
            names,
            &from.dir,
            from.name.as_bytes(),
            stat,
            inode.as_deref(),
        )?;
        match &mut bound {
            Bound::Dir { fd, record, synced } => {
                let places = (from.location(), to.location());
                record.prepare_move(&*fd, names, places, *synced)?;
            }
            Bound::File(file) => file.prepare(names, to.location(), Links::One)?,
            Bound::Nowhere => {}
        }
        self.confirm_new(&mut bound, inode.as_deref())?;
        Ok(bound)
    }

    /// What was taken for new is so no more if a sync has begun: it may have missed what was written
    /// since, and found what was there before.
    fn confirm_new(&self, bound: &mut Bound, inode: Option<&Inode>) -> Result<(), OpError> {
        match (bound.synced(), self.synced(inode)) {
            (Some(Synced::Never), Synced::Maybe) => bound.harden(),
            _ => Ok(()),
        }
    }

    /// Whether what it holds can be on the disk: of what is not known, or not new, it can.
    pub(crate) fn synced(&self, inode: Option<&Inode>) -> Synced {
        match inode.and_then(Inode::made) {
            Some(made) => self.syncs.since(made),
            None => Synced::Maybe,
        }
    }

    /// The rename failed: `bound` belongs at `at` only, as before.
    pub(crate) fn unannounce(&self, bound: &mut Bound, at: &Spot) {
        if let Err(error) = self.settle(bound, at.location()) {
            tracing::warn!(%error, "what was not renamed also opens where it would have gone");
        }
    }

    /// The rename is done, and nobody has seen it yet: what never was synced belongs at `at` only.
    pub(crate) fn rebind_unsynced(&self, bound: &mut Bound, at: &Spot) {
        if bound.synced() != Some(Synced::Never) {
            return;
        }
        if let Err(error) = self.settle(bound, at.location()) {
            tracing::warn!(%error, "what was renamed is not bound to its new place");
        }
    }

    /// Lets what is bound be at `at` only.
    fn settle(&self, bound: &mut Bound, at: Location<'_>) -> Result<(), OpError> {
        match self.tree()?.names_keys() {
            Some(names) => bound.settle(names, at),
            None => Ok(()),
        }
    }

    /// The rename of `inode` is done: what may have been synced belongs at both places for now.
    pub(crate) fn moved(&self, bound: &Bound, inode: Option<Arc<Inode>>) {
        let (Some(Synced::Maybe), Some(inode)) = (bound.synced(), inode) else {
            return;
        };
        let mut moved = self
            .moved
            .inodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if moved.len() < MOVED_AT_MOST {
            moved.insert(inode.ino, inode);
        }
    }

    /// Keeps old places from being let go while a place is changed.
    pub(crate) fn changing_places(&self) -> RwLockReadGuard<'_, ()> {
        self.moved
            .settling
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets all old places go: every rename so far is durable.
    pub(crate) fn settle_moved(&self) {
        // Not while it is locked: whoever renames locks it last.
        let moved = std::mem::take(
            &mut *self
                .moved
                .inodes
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for inode in moved.into_values().filter(|inode| !inode.is_gone()) {
            let _settling = self
                .moved
                .settling
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = self.settle_inode(&inode) {
                let lower = inode.shown_path();
                tracing::debug!(lower, %error, "still bound to its old place as well");
            }
        }
    }

    /// Binds a file to none of its names: it is about to have several.
    pub(crate) fn unbind(&self, inode: &Arc<Inode>) -> Result<(), OpError> {
        let tree = self.tree()?;
        let Some(names) = tree.names_keys() else {
            return Ok(());
        };
        let place = inode.place().ok_or(Errno::ESTALE)?;
        let dir = self.dir_of(&place.parent)?;
        let stat = self.stat(inode)?;
        let mut bound = self.bound(names, &dir, &place.name, &stat, Some(inode))?;
        if let Bound::File(file) = &bound {
            file.prepare(names, location(&dir, &place.name), Links::Several)?;
        }
        self.confirm_new(&mut bound, Some(inode))
    }

    fn settle_inode(&self, inode: &Arc<Inode>) -> Result<(), OpError> {
        let tree = self.tree()?;
        let Some(names) = tree.names_keys() else {
            return Ok(());
        };
        let place = inode.place().ok_or(Errno::ENOENT)?;
        let dir = self.dir_of(&place.parent)?;
        let stat = self.stat(inode)?;
        let mut bound = self.bound(names, &dir, &place.name, &stat, Some(inode))?;
        bound.settle(names, location(&dir, &place.name))
    }

    /// What binds `name` in `dir`. A rename before that has not been settled is made durable: a crash
    /// must not undo it when it has been forgotten.
    fn bound(
        &self,
        names: &NamesKeys,
        dir: &Dir,
        name: &[u8],
        stat: &FileStat,
        inode: Option<&Inode>,
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
                    self.syncs.sync()?;
                }
                let synced = self.synced(inode);
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
                let (file, place) = match native::read_place(fd.as_fd(), places_of(names)) {
                    Ok(placed) => placed,
                    Err(FileError::NeverReachedDisk) => return Ok(Bound::Nowhere),
                    Err(error) => return Err(error.into()),
                };
                let epoch = place.names_epoch;
                let places = names.places(epoch)?;
                let here = places.binding(&file.0, &at.parent, at.lower_name);
                match place.bound {
                    native::Bound::Linked => return Ok(Bound::Nowhere),
                    bound if !bound.allows(&here) => return Err(FileError::Misplaced.into()),
                    native::Bound::Moving { .. } => self.syncs.sync()?,
                    native::Bound::Here(_) => {}
                }
                let synced = self.synced(inode);
                let open = inode.and_then(|inode| inode.open.file());
                let bound = BoundFile {
                    fd,
                    file,
                    epoch,
                    synced,
                    open,
                };
                if let native::Bound::Moving { .. } = place.bound {
                    bound.finish(names, at)?;
                }
                Ok(Bound::File(bound))
            }
            _ => Ok(Bound::Nowhere),
        }
    }
}
