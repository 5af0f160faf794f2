//! Taking names away.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use claviger_vault::names::{Lower, classify};
use nix::errno::Errno;
use nix::fcntl::RenameFlags;
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::attr::Kind;
use crate::create::Spot;
use crate::dircache::Dir;
use crate::dirstream::DirStream;
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::{Inode, Place, drop_place};
use crate::lower::{
    Pinned, drop_sidecar, is_temporary, open_dir_to_read, rename, stat_at, temporary_name,
};
use crate::tree::Binds;

/// The inode behind a name that is about to go, if the kernel knows it.
pub(crate) struct Leaving {
    inode: Option<Arc<Inode>>,
    place: Place,
}

impl Leaving {
    /// The name was removed.
    pub(crate) fn gone(self) {
        if let Some(inode) = self.inode {
            drop_place(&mut inode.places_mut(), &self.place);
            if inode.is_gone() {
                inode.open.discard_idle();
            }
        }
    }

    /// It could not be.
    pub(crate) fn stays(self) {
        if let Some(inode) = self.inode {
            inode.stays();
        }
    }
}

impl VolumeFs {
    pub(crate) fn unlink(&self, parent: u64, name: &[u8]) -> Result<(), OpError> {
        let spot = self.spot(parent, name)?;
        self.remove_at(&spot, UnlinkatFlags::NoRemoveDir)?;
        drop_sidecar(&spot.dir, &spot.name);
        Ok(())
    }

    fn remove_at(&self, spot: &Spot, how: UnlinkatFlags) -> Result<(), OpError> {
        let lower = spot.name.as_bytes();
        let stat = stat_at(&spot.dir, lower)?.ok_or(Errno::ENOENT)?;
        let leaving = self.leaving(spot, &stat);
        match unlinkat(&spot.dir.fd, lower, how) {
            Ok(()) => leaving.gone(),
            Err(errno) => {
                leaving.stays();
                return Err(errno.into());
            }
        }
        Ok(())
    }

    /// Removes a directory. One with a record goes out of sight first, in one step, then what is ours
    /// in it.
    pub(crate) fn rmdir(&self, parent: u64, name: &[u8]) -> Result<(), OpError> {
        let spot = self.spot(parent, name)?;
        if self.binds()? == Binds::No {
            return self.remove_at(&spot, UnlinkatFlags::RemoveDir);
        }
        let lower = spot.name.as_bytes();
        let stat = stat_at(&spot.dir, lower)?.ok_or(Errno::ENOENT)?;
        if Kind::of(&stat) != Kind::DIRECTORY {
            return Err(Errno::ENOTDIR.into());
        }
        check_empty(&spot.dir, lower)?;
        let aside = temporary_name();
        let leaving = self.leaving(&spot, &stat);
        let (from, to) = ((&*spot.dir, lower), (&*spot.dir, aside.as_slice()));
        if let Err(errno) = rename(from, to, RenameFlags::RENAME_NOREPLACE) {
            leaving.stays();
            return Err(errno.into());
        }
        leaving.gone();
        self.unsynced.forget(self.inodes.number(stat.st_ino));
        drop_sidecar(&spot.dir, &spot.name);
        clear_away(&spot.dir, &aside);
        Ok(())
    }

    /// Says that the name at `spot`, which `stat` was found under, is about to go.
    pub(crate) fn leaving(&self, spot: &Spot, stat: &FileStat) -> Leaving {
        let place = Place {
            parent: Arc::clone(&spot.parent),
            name: spot.name.as_bytes().into(),
        };
        let inode = self.inodes.find_lower(stat.st_ino);
        let last = stat.st_nlink == 1 || Kind::of(stat) == Kind::DIRECTORY;
        if let Some(inode) = inode.as_ref().filter(|_| last) {
            inode.leaving();
        }
        Leaving { inode, place }
    }
}

/// Refuses a directory that holds more than what goes with it.
pub(crate) fn check_empty(parent: &Dir, name: &[u8]) -> Result<(), OpError> {
    for lower in lower_names(parent, name)? {
        match classify(&lower) {
            Lower::Dot | Lower::Record | Lower::Sidecar => {}
            Lower::Foreign if is_temporary(&lower) => {}
            // Not ours, and hidden: not ours to delete either.
            Lower::Foreign | Lower::Reserved => {
                tracing::info!(name = %name.escape_ascii(), lower = %lower.escape_ascii(), "not empty: a foreign file");
                return Err(Errno::ENOTEMPTY.into());
            }
            Lower::Entry | Lower::Long => return Err(Errno::ENOTEMPTY.into()),
        }
    }
    Ok(())
}

/// Deletes an empty directory that is already out of sight. What is left behind by a crash or an
/// error takes up room and is never shown.
pub(crate) fn clear_away(parent: &Dir, name: &[u8]) {
    let cleared = lower_names(parent, name).and_then(|lowers| {
        let dir = Pinned::new(parent.fd.as_fd(), name)?;
        if !dir.mode().contains(Mode::S_IRWXU) {
            dir.set_mode(dir.mode() | Mode::S_IRWXU)?;
        }
        for lower in lowers.iter().filter(|lower| classify(lower) != Lower::Dot) {
            match unlinkat(&dir.fd, lower.as_slice(), UnlinkatFlags::NoRemoveDir) {
                // What was to become a directory, or was one.
                Err(Errno::EISDIR) if is_temporary(lower) => {
                    let _ = unlinkat(&dir.fd, lower.as_slice(), UnlinkatFlags::RemoveDir);
                }
                removed => removed?,
            }
        }
        Ok(unlinkat(&parent.fd, name, UnlinkatFlags::RemoveDir)?)
    });
    if let Err(error) = cleared {
        tracing::warn!(name = %name.escape_ascii(), %error, "left behind in the lower folder");
    }
}

/// Every name in a lower directory, even in one that its owner has closed to himself.
fn lower_names(parent: &Dir, name: &[u8]) -> Result<Vec<Vec<u8>>, OpError> {
    let dir = match open_dir_to_read(parent.fd.as_fd(), name) {
        Err(Errno::EACCES) => {
            let pinned = Pinned::new(parent.fd.as_fd(), name)?;
            pinned.set_mode(pinned.mode() | Mode::S_IRUSR)?;
            let dir = open_dir_to_read(parent.fd.as_fd(), name);
            pinned.set_mode(pinned.mode())?;
            dir?
        }
        dir => dir?,
    };
    let mut stream = DirStream::new(dir);
    let mut names = Vec::new();
    while let Some(entry) = stream.peek()? {
        names.push(entry.name.as_bytes().to_vec());
        stream.advance();
    }
    Ok(names)
}
