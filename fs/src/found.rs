//! Whether what is found at a name belongs there, if that is not looked at when it is opened.
//!
//! The kernel opens, reads and lists by number, and what is open by one name is open by all. Who holds the
//! lower folder can give what belongs at one place another name by link(2) or rename(2), or, on a disk of
//! his own making, its number to something else. So what is found at a place that it is not known to have
//! is looked at before the kernel hears of it, as is everything with several links; all else is when it is
//! opened.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use claviger_vault::names::NamesKeys;
use claviger_vault::native::{Bound, FileError, check_place, places_of, read_place};
use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, fstat};

use crate::attr::Kind;
use crate::dircache::Dir;
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::{Inode, Place};
use crate::lower::{open_dir, open_to_look_at, open_whatever_its_mode};
use crate::tree::location;

/// What something says of where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belongs {
    /// At the place where it was found, but not everywhere.
    Here,
    /// Anywhere: in the volume, or, of a symlink, in its directory.
    AnywhereIn(Whole),
}

/// Where things are found that are bound to no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Volume,
    Directory,
}

impl VolumeFs {
    /// Refuses what was found at `place`, with attributes `stat`, if it belongs elsewhere.
    pub(crate) fn check_found(&self, place: &Place, stat: &FileStat) -> Result<(), OpError> {
        let tree = self.tree()?;
        let Some(names) = tree.names_keys() else {
            return Ok(());
        };
        let kind = Kind::of(stat);
        let known = self.inodes.find_lower(stat.st_ino);
        let known = known.filter(|inode| inode.kind == kind && !inode.is_gone());
        let several = kind != Kind::DIRECTORY && stat.st_nlink > 1;
        match &known {
            Some(inode) if inode.is_at(place) => return Ok(()),
            None if !several => return Ok(()),
            Some(_) | None => {}
        }
        let dir = self.dir_of(&place.parent)?;
        let belongs = match kind {
            Kind::REGULAR => regular(names, &dir, &place.name, stat)?,
            Kind::SYMLINK => {
                let target = readlinkat(&dir.fd, &*place.name)?;
                dir.names.open_target(target.as_bytes())?;
                Belongs::AnywhereIn(Whole::Directory)
            }
            Kind::DIRECTORY => {
                let fd = open_dir(dir.fd.as_fd(), &place.name)?;
                is_it(stat, &fstat(&fd)?)?;
                tree.folder(fd.as_fd(), location(&dir, &place.name))?;
                Belongs::Here
            }
            // There is nothing in it.
            _ => return Ok(()),
        };
        known.map_or(Ok(()), |known| outdate(&known, place, belongs))
    }
}

/// Has `known` make way for what was found under its number at `place`, where that belongs, unless it is
/// the same.
fn outdate(known: &Inode, place: &Place, belongs: Belongs) -> Result<(), OpError> {
    let same = match belongs {
        Belongs::Here => false,
        Belongs::AnywhereIn(Whole::Volume) => true,
        Belongs::AnywhereIn(Whole::Directory) => known.is_in(&place.parent),
    };
    if same {
        return Ok(());
    }
    // What is open was verified where it is known to be.
    if known.open.file().is_some() {
        return Err(FileError::Misplaced.into());
    }
    known.leaving();
    Ok(())
}

fn regular(names: &NamesKeys, dir: &Dir, name: &[u8], stat: &FileStat) -> Result<Belongs, OpError> {
    let lower = match open_to_look_at(dir.fd.as_fd(), name) {
        Err(Errno::EACCES) => open_whatever_its_mode(dir, name, OFlag::O_RDONLY)?,
        lower => lower?,
    };
    is_it(stat, &fstat(&lower)?)?;
    let (_, place) = match read_place(lower.as_fd(), places_of(names)) {
        // It has no content, at any place.
        Err(FileError::NeverReachedDisk) => return Ok(Belongs::Here),
        place => place?,
    };
    if place.bound == Bound::Linked {
        return Ok(Belongs::AnywhereIn(Whole::Volume));
    }
    check_place(lower.as_fd(), places_of(names), &dir.names.id(), name)?;
    Ok(Belongs::Here)
}

/// Somebody works below if it is not.
fn is_it(found: &FileStat, opened: &FileStat) -> Result<(), OpError> {
    match found.st_ino == opened.st_ino {
        true => Ok(()),
        false => Err(Errno::ESTALE.into()),
    }
}
