//! Renames: names are sealed for one directory, and what they name is bound to its place.

use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags};
use nix::sys::stat::{FileStat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::attr::Kind;
use crate::bound::Bound;
use crate::create::Spot;
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::{Inode, Place};
use crate::lower::{Sidecar, remove, remove_sidecar, rename, temporary_name, write_sidecar};
use crate::remove::{check_empty, clear_away};

/// A parent, and an upper name in it.
type Named<'a> = (u64, &'a [u8]);

impl VolumeFs {
    pub(crate) fn rename(
        &self,
        from: Named<'_>,
        to: Named<'_>,
        flags: fuser::RenameFlags,
    ) -> Result<(), OpError> {
        let from = self.spot(from.0, from.1)?;
        let to = self.spot(to.0, to.1)?;
        let exchange = fuser::RenameFlags::RENAME_EXCHANGE;
        match flags {
            flags if flags == exchange => self.exchange(&from, &to),
            flags if flags.is_empty() => self.put(&from, &to, RenameFlags::empty()),
            flags if flags == fuser::RenameFlags::RENAME_NOREPLACE => {
                self.put(&from, &to, RenameFlags::RENAME_NOREPLACE)
            }
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// Puts what is at `from` to `to`.
    fn put(&self, from: &Spot, to: &Spot, flags: RenameFlags) -> Result<(), OpError> {
        let stat = stat_at(from)?.ok_or(Errno::ENOENT)?;
        let replaced = stat_at(to)?;
        match &replaced {
            Some(_) if flags == RenameFlags::RENAME_NOREPLACE => return Err(Errno::EEXIST.into()),
            // Two names of one file: both stay.
            Some(replaced) if replaced.st_ino == stat.st_ino => return Ok(()),
            Some(replaced) => check_kinds(Kind::of(&stat), Kind::of(replaced))?,
            None => {}
        }
        let sidecar = write_sidecar(&to.dir, &to.name)?;
        let put = if Kind::of(&stat) == Kind::SYMLINK && from.parent.ino != to.parent.ino {
            self.put_symlink(from, to, &stat, replaced.as_ref())
        } else {
            self.put_bound(from, to, &stat, replaced.as_ref(), flags)
        };
        if sidecar == Sidecar::Written {
            match &put {
                Ok(()) => self.unsynced.wrote_sidecar(to.parent.ino, &to.name),
                Err(_) => remove_sidecar(&to.dir, &to.name),
            }
        }
        put?;
        remove_sidecar(&from.dir, &from.name);
        Ok(())
    }

    fn put_bound(
        &self,
        from: &Spot,
        to: &Spot,
        stat: &FileStat,
        replaced: Option<&FileStat>,
        flags: RenameFlags,
    ) -> Result<(), OpError> {
        let moved = self.inodes.find(self.inodes.number(stat.st_ino));
        if let (Some(moved), Some(_)) = (&moved, replaced) {
            // What replaces something must not be less durable than that was.
            moved.open.sync()?;
        }
        let empty_dir = replaced.filter(|replaced| Kind::of(replaced) == Kind::DIRECTORY);
        if empty_dir.is_some() {
            check_empty(&to.dir, to.name.as_str())?;
        }
        let mut bound = self.announce(from, to, stat)?;
        let leaving = replaced.map(|replaced| self.leaving(to, replaced));
        let done = {
            // Whoever looks for it meanwhile waits, and finds it at its new place.
            let mut places = moved.as_ref().map(|moved| moved.places_mut());
            let done = match empty_dir {
                None => rename(lower(from), lower(to), flags),
                Some(_) => replace_empty_dir(from, to),
            };
            if let (Ok(()), Some(places)) = (&done, &mut places) {
                move_place(places, from, to);
            }
            done
        };
        if let Err(errno) = done {
            leaving.into_iter().for_each(|leaving| leaving.stays());
            self.unannounce(&mut bound, from);
            return Err(errno.into());
        }
        leaving.into_iter().for_each(|leaving| leaving.gone());
        if let Some(dir) = empty_dir {
            self.unsynced.forget(self.inodes.number(dir.st_ino));
        }
        self.moved(bound, moved, to);
        Ok(())
    }

    /// A symlink that goes to another directory is made anew there: it gets another inode number, and
    /// whoever knows the old one is told that it is stale, upon which the kernel looks it up again.
    fn put_symlink(
        &self,
        from: &Spot,
        to: &Spot,
        stat: &FileStat,
        replaced: Option<&FileStat>,
    ) -> Result<(), OpError> {
        let place = Place { parent: Arc::clone(&from.parent), name: from.name.as_str().into() };
        let inode = self.inodes.looked_up(stat.st_ino, Kind::SYMLINK, place, several(stat));
        let temporary = temporary_name();
        let made = self.reseal_symlink(&inode, &to.dir, &temporary);
        self.inodes.forget(inode.ino, 1);
        let leaving = replaced.map(|replaced| self.leaving(to, replaced));
        let put = made.and_then(|()| {
            Ok(rename((&*to.dir, temporary.as_str()), lower(to), RenameFlags::empty())?)
        });
        if let Err(error) = put {
            leaving.into_iter().for_each(|leaving| leaving.stays());
            remove(&to.dir, &temporary);
            return Err(error);
        }
        leaving.into_iter().for_each(|leaving| leaving.gone());
        let old = self.leaving(from, stat);
        unlinkat(&from.dir.fd, from.name.as_str(), UnlinkatFlags::NoRemoveDir)?;
        old.gone();
        Ok(())
    }

    /// Puts what is at either to the other.
    fn exchange(&self, one: &Spot, other: &Spot) -> Result<(), OpError> {
        let one_stat = stat_at(one)?.ok_or(Errno::ENOENT)?;
        let other_stat = stat_at(other)?.ok_or(Errno::ENOENT)?;
        if one_stat.st_ino == other_stat.st_ino {
            return Ok(());
        }
        let symlink = [&one_stat, &other_stat].iter().any(|stat| Kind::of(stat) == Kind::SYMLINK);
        if symlink && one.parent.ino != other.parent.ino {
            // It would have to be made anew, which no single step below does.
            return Err(Errno::EINVAL.into());
        }
        let mut one_bound = self.announce(one, other, &one_stat)?;
        let mut other_bound = self.announce(other, one, &other_stat).inspect_err(|_| {
            self.unannounce(&mut one_bound, one);
        })?;
        let find = |stat: &FileStat| self.inodes.find(self.inodes.number(stat.st_ino));
        let (one_inode, other_inode) = (find(&one_stat), find(&other_stat));
        let done = {
            // In the order of their numbers, as every exchange locks them.
            let mut inodes = [one_inode.as_ref(), other_inode.as_ref()];
            inodes.sort_by_key(|inode| inode.map(|inode| inode.ino));
            let mut places = inodes.map(|inode| inode.map(|inode| inode.places_mut()));
            let done = rename(lower(one), lower(other), RenameFlags::RENAME_EXCHANGE);
            if done.is_ok() {
                for (inode, places) in inodes.iter().zip(&mut places) {
                    let Some(places) = places else { continue };
                    let is_one = inode.is_some_and(|inode| {
                        one_inode.as_ref().is_some_and(|one| Arc::ptr_eq(one, inode))
                    });
                    let (from, to) = if is_one { (one, other) } else { (other, one) };
                    move_place(places, from, to);
                }
            }
            done
        };
        if let Err(errno) = done {
            self.unannounce(&mut one_bound, one);
            self.unannounce(&mut other_bound, other);
            return Err(errno.into());
        }
        self.moved(one_bound, one_inode, other);
        self.moved(other_bound, other_inode, one);
        Ok(())
    }
}

fn several(stat: &FileStat) -> crate::inode::Links {
    match stat.st_nlink {
        0 | 1 => crate::inode::Links::One,
        _ => crate::inode::Links::Several,
    }
}

fn lower(spot: &Spot) -> (&crate::dircache::Dir, &str) {
    (&spot.dir, spot.name.as_str())
}

fn stat_at(spot: &Spot) -> Result<Option<FileStat>, Errno> {
    match fstatat(&spot.dir.fd, spot.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn check_kinds(moved: Kind, replaced: Kind) -> Result<(), Errno> {
    match (moved == Kind::DIRECTORY, replaced == Kind::DIRECTORY) {
        (true, false) => Err(Errno::ENOTDIR),
        (false, true) => Err(Errno::EISDIR),
        _ => Ok(()),
    }
}

/// Below, an empty directory holds its record, and cannot be replaced: it goes out of sight first,
/// and comes back if the rename fails.
fn replace_empty_dir(from: &Spot, to: &Spot) -> Result<(), Errno> {
    let aside = temporary_name();
    let aside_at = (&*to.dir, aside.as_str());
    rename(lower(to), aside_at, RenameFlags::RENAME_NOREPLACE)?;
    if let Err(errno) = rename(lower(from), lower(to), RenameFlags::RENAME_NOREPLACE) {
        rename(aside_at, lower(to), RenameFlags::RENAME_NOREPLACE)?;
        return Err(errno);
    }
    clear_away(&to.dir, &aside);
    Ok(())
}

fn move_place(places: &mut [Place], from: &Spot, to: &Spot) {
    let old = Place { parent: Arc::clone(&from.parent), name: from.name.as_str().into() };
    for place in places.iter_mut().filter(|place| place.is(&old)) {
        *place = Place { parent: Arc::clone(&to.parent), name: to.name.as_str().into() };
    }
}
