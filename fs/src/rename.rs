//! Renames: names are sealed for one directory, and what they name is bound to its place.

use std::sync::{Arc, RwLockWriteGuard};

use claviger_vault::dir::DirError;
use claviger_vault::tree;
use nix::errno::Errno;
use nix::fcntl::RenameFlags;
use nix::sys::stat::FileStat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::attr::Kind;
use crate::bound::Bound;
use crate::create::{Spot, reseal_symlink};
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::{Inode, Place, drop_place};
use crate::lower::{drop_sidecar, remove, rename, stat_at, temporary_name};
use crate::remove::{check_empty, clear_away};
use crate::tree::Binds;

/// The places of an inode, to be changed.
type Places<'a> = RwLockWriteGuard<'a, Vec<Place>>;

/// A parent, and an upper name in it.
type Named<'a> = (u64, &'a [u8]);

impl VolumeFs {
    pub(crate) fn rename(
        &self,
        from: Named<'_>,
        to: Named<'_>,
        flags: fuser::RenameFlags,
    ) -> Result<(), OpError> {
        let _changing = self.changing_places();
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
        let stat = stat_of(from)?.ok_or(Errno::ENOENT)?;
        let replaced = stat_of(to)?;
        match &replaced {
            Some(_) if flags == RenameFlags::RENAME_NOREPLACE => return Err(Errno::EEXIST.into()),
            // Two names of one file: both stay.
            Some(replaced) if replaced.st_ino == stat.st_ino => return Ok(()),
            Some(replaced) => check_kinds(Kind::of(&stat), Kind::of(replaced))?,
            None => {}
        }
        tree::write_sidecar(&to.dir.fd, &to.name).map_err(DirError::Io)?;
        match self.put_named(from, to, &stat, replaced.as_ref(), flags) {
            Ok(()) => {
                self.unsynced.wrote_sidecar(to.parent.ino, &to.name);
                drop_sidecar(&from.dir, &from.name);
                Ok(())
            }
            Err(error) => {
                drop_sidecar(&to.dir, &to.name);
                Err(error)
            }
        }
    }

    /// The same, with the sidecar of the new name in its place.
    fn put_named(
        &self,
        from: &Spot,
        to: &Spot,
        stat: &FileStat,
        replaced: Option<&FileStat>,
        flags: RenameFlags,
    ) -> Result<(), OpError> {
        let moved = self.inodes.find_lower(stat.st_ino);
        if let (Some(moved), Some(_)) = (&moved, replaced) {
            // What replaces something must not be less durable than that was.
            moved.is_synced();
            moved.open.sync()?;
        }
        self.sync_name(to, moved.as_deref())?;
        if self.is_resealed(from, to, stat)? {
            self.put_symlink(from, to, stat, replaced)
        } else {
            self.put_bound(from, to, stat, moved, replaced, flags)
        }
    }

    fn put_bound(
        &self,
        from: &Spot,
        to: &Spot,
        stat: &FileStat,
        moved: Option<Arc<Inode>>,
        replaced: Option<&FileStat>,
        flags: RenameFlags,
    ) -> Result<(), OpError> {
        let recorded = self.binds()? == Binds::Yes;
        let is_dir = |replaced: &&FileStat| recorded && Kind::of(replaced) == Kind::DIRECTORY;
        let empty_dir = replaced.filter(is_dir);
        if empty_dir.is_some() {
            check_empty(&to.dir, to.name.as_bytes())?;
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
            if done.is_ok() {
                self.rebind_unsynced(&mut bound, to);
                if let Some(places) = &mut places {
                    move_place(places, from, to);
                }
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
        self.moved(&bound, moved);
        Ok(())
    }

    /// Whether what is renamed is a symlink whose target is sealed for the directory that it leaves.
    fn is_resealed(&self, from: &Spot, to: &Spot, stat: &FileStat) -> Result<bool, OpError> {
        let leaves = Kind::of(stat) == Kind::SYMLINK && from.parent.ino != to.parent.ino;
        Ok(leaves && self.binds()? == Binds::Yes)
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
        let resealed = Resealed::new(from, to)?;
        let leaving = replaced.map(|replaced| self.leaving(to, replaced));
        if let Err(error) = resealed.put() {
            leaving.into_iter().for_each(|leaving| leaving.stays());
            return Err(error.into());
        }
        leaving.into_iter().for_each(|leaving| leaving.gone());
        let old = self.leaving(from, stat);
        unlinkat(
            &from.dir.fd,
            from.name.as_bytes(),
            UnlinkatFlags::NoRemoveDir,
        )?;
        old.gone();
        Ok(())
    }

    /// Puts what is at either to the other.
    fn exchange(&self, one: &Spot, other: &Spot) -> Result<(), OpError> {
        let one_stat = stat_of(one)?.ok_or(Errno::ENOENT)?;
        let other_stat = stat_of(other)?.ok_or(Errno::ENOENT)?;
        if one_stat.st_ino == other_stat.st_ino {
            return Ok(());
        }
        let one = self.exchanged(one, other, &one_stat)?;
        let other = self.exchanged(other, one.from, &other_stat);
        let (mut one, mut other) = match other {
            Ok(other) => (one, other),
            Err(error) => {
                self.take_back(one);
                return Err(error);
            }
        };
        let done = {
            let inodes = [one.inode.clone(), other.inode.clone()];
            let [mut one_places, mut other_places] = lock_places(&inodes);
            let done = exchange_lower(&one, &other);
            if done.is_ok() {
                for (side, places) in [(&mut one, &mut one_places), (&mut other, &mut other_places)]
                {
                    self.rebind_unsynced(&mut side.bound, side.to);
                    if let Some(places) = places {
                        side.move_places(places);
                    }
                }
            }
            done
        };
        if let Err(errno) = done {
            self.take_back(one);
            self.take_back(other);
            return Err(errno.into());
        }
        for side in [one, other] {
            self.moved(&side.bound, side.inode);
        }
        Ok(())
    }

    /// Prepares one side of an exchange.
    fn exchanged<'a>(
        &self,
        from: &'a Spot,
        to: &'a Spot,
        stat: &FileStat,
    ) -> Result<Exchanged<'a>, OpError> {
        let inode = self.inodes.find_lower(stat.st_ino);
        self.sync_name(to, inode.as_deref())?;
        let bound = self.announce(from, to, stat)?;
        let resealed = match self.is_resealed(from, to, stat)? {
            true => Some(Resealed::new(from, to)?),
            false => None,
        };
        let last = resealed.is_some() && stat.st_nlink == 1;
        if let Some(inode) = inode.as_ref().filter(|_| last) {
            inode.leaving();
        }
        Ok(Exchanged {
            from,
            to,
            inode,
            bound,
            resealed,
        })
    }

    /// The exchange failed.
    fn take_back(&self, mut side: Exchanged<'_>) {
        self.unannounce(&mut side.bound, side.from);
        if let Some(inode) = &side.inode {
            inode.stays();
        }
    }
}

/// Locks the places of both, in the order of their numbers, as every exchange does.
fn lock_places(inodes: &[Option<Arc<Inode>>; 2]) -> [Option<Places<'_>>; 2] {
    fn lock(inode: Option<&Arc<Inode>>) -> Option<Places<'_>> {
        inode.map(|inode| inode.places_mut())
    }
    let [one, other] = inodes.each_ref().map(Option::as_ref);
    if one.map(|inode| inode.ino) <= other.map(|inode| inode.ino) {
        let one = lock(one);
        [one, lock(other)]
    } else {
        let other = lock(other);
        [lock(one), other]
    }
}

/// One side of an exchange.
struct Exchanged<'a> {
    from: &'a Spot,
    to: &'a Spot,
    inode: Option<Arc<Inode>>,
    bound: Bound,
    /// What takes its place, of a symlink that goes to another directory.
    resealed: Option<Resealed<'a>>,
}

impl Exchanged<'_> {
    fn move_places(&self, places: &mut Vec<Place>) {
        match self.resealed {
            Some(_) => drop_place(places, &place_at(self.from)),
            None => move_place(places, self.from, self.to),
        }
    }
}

/// A symlink, sealed for the directory that it goes to, under a temporary name there.
struct Resealed<'a> {
    to: &'a Spot,
    temporary: Vec<u8>,
}

impl<'a> Resealed<'a> {
    fn new(from: &Spot, to: &'a Spot) -> Result<Self, OpError> {
        let resealed = Self {
            to,
            temporary: temporary_name(),
        };
        reseal_symlink(lower(from), (&to.dir, &resealed.temporary))?;
        Ok(resealed)
    }

    /// Puts it to its place, over what is there.
    fn put(&self) -> Result<(), Errno> {
        rename(
            (&self.to.dir, &self.temporary),
            lower(self.to),
            RenameFlags::empty(),
        )
    }
}

impl Drop for Resealed<'_> {
    fn drop(&mut self) {
        // Not there any more if it was put to its place.
        remove(&self.to.dir, &self.temporary);
    }
}

/// Exchanges both below. A symlink that goes to another directory arrives sealed for the one it
/// comes from, and is replaced at once; its inode's places are locked, so nobody reads it meanwhile.
fn exchange_lower(one: &Exchanged<'_>, other: &Exchanged<'_>) -> Result<(), Errno> {
    let exchange = || {
        rename(
            lower(one.from),
            lower(other.from),
            RenameFlags::RENAME_EXCHANGE,
        )
    };
    exchange()?;
    let resealed = [one, other]
        .into_iter()
        .filter_map(|side| side.resealed.as_ref());
    for resealed in resealed {
        if let Err(errno) = resealed.put() {
            exchange()?;
            return Err(errno);
        }
    }
    Ok(())
}

fn place_at(spot: &Spot) -> Place {
    Place {
        parent: Arc::clone(&spot.parent),
        name: spot.name.as_bytes().into(),
    }
}

fn lower(spot: &Spot) -> (&crate::dircache::Dir, &[u8]) {
    (&spot.dir, spot.name.as_bytes())
}

fn stat_of(spot: &Spot) -> Result<Option<FileStat>, Errno> {
    stat_at(&spot.dir, spot.name.as_bytes())
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
    let aside_at = (&*to.dir, aside.as_slice());
    rename(lower(to), aside_at, RenameFlags::RENAME_NOREPLACE)?;
    if let Err(errno) = rename(lower(from), lower(to), RenameFlags::RENAME_NOREPLACE) {
        rename(aside_at, lower(to), RenameFlags::RENAME_NOREPLACE)?;
        return Err(errno);
    }
    clear_away(&to.dir, &aside);
    Ok(())
}

fn move_place(places: &mut [Place], from: &Spot, to: &Spot) {
    let old = place_at(from);
    for place in places.iter_mut().filter(|place| place.is(&old)) {
        *place = place_at(to);
    }
}
