//! Moving a directory: what its record says before and after a rename.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::{DirError, Durable, FIXED_LEN, Location, Other, Record, bound_to, open_flags};
use crate::names::{NamesKeys, RECORD};
use crate::native::{Bound, PLACE_LEN, Place, PlaceCopy, Synced};

impl Record {
    /// Whether a rename was prepared and not finished: the directory opens at two places until it is.
    pub fn is_moving(&self) -> bool {
        matches!(self.place.bound, Bound::Moving { .. })
    }

    /// Lets the directory open at `to` as well as at `from`, where it is: before it is renamed.
    /// Durable when this returns, unless nothing of the directory is. `dir` is its own lower directory.
    ///
    /// If it [is moving](Self::is_moving) already, make the rename before this one durable first: the
    /// place that it came from is forgotten here.
    ///
    /// # Errors
    /// [`DirError::Io`]; it then opens at `from` as before, and perhaps at `to`.
    pub fn prepare_move(
        &mut self,
        dir: impl AsFd,
        keys: &NamesKeys,
        (from, to): (Location<'_>, Location<'_>),
        synced: Synced,
    ) -> Result<(), DirError> {
        let places = keys.places(keys.current())?;
        let [here, next] =
            [from, to].map(|place| places.binding(&self.id.0, &place.parent, place.lower_name));
        let file = writable(dir)?;
        self.write_next(&file, keys, Bound::Moving { here, next }, synced)?;
        match synced {
            Synced::Maybe => self.barrier(&file),
            Synced::Never => Ok(()),
        }
    }

    /// Binds the directory to `location`, where it is, and to nothing else: once the rename is durable,
    /// or a prepared one has failed. Not synced.
    ///
    /// Not earlier: this may reach the disk before a rename that has only returned, and a crash then
    /// leaves a directory at its old place that belongs at its new one.
    ///
    /// # Errors
    /// [`DirError::Io`]; it then opens at least where it did before.
    pub fn finish_move(
        &mut self,
        dir: impl AsFd,
        keys: &NamesKeys,
        location: Location<'_>,
        synced: Synced,
    ) -> Result<(), DirError> {
        let bound = bound_to(keys, self.id, location)?;
        self.write_next(&writable(dir)?, keys, bound, synced)
    }

    /// Binds the directory to `location`, where it is, under the current epoch's key, durably, and wipes
    /// what older keys made: after a new epoch has begun. The root's record is renewed at once, because
    /// names keys that a daemon hands over are checked against it. Names stay of the epoch they are.
    ///
    /// # Errors
    /// [`DirError::Io`]; it then opens as before.
    pub fn renew(
        &mut self,
        dir: impl AsFd,
        keys: &NamesKeys,
        location: Location<'_>,
    ) -> Result<(), DirError> {
        let file = writable(dir)?;
        let bound = bound_to(keys, self.id, location)?;
        self.write_next(&file, keys, bound, Synced::Maybe)?;
        self.barrier(&file)?;
        file.write_all_at(&[0; PLACE_LEN], offset(self.copy.other()))?;
        self.other = Other::Empty;
        Ok(file.sync_data()?)
    }

    /// Makes the record durable; its name in the directory is the caller's to sync.
    ///
    /// # Errors
    /// [`DirError::Io`].
    pub fn sync(&mut self, dir: impl AsFd) -> Result<(), DirError> {
        match self.durable {
            Durable::Yes => Ok(()),
            Durable::Unknown => self.barrier(&writable(dir)?),
        }
    }

    /// Writes the place record after this one to the other copy, under the current epoch's key.
    pub(super) fn write_next(
        &mut self,
        file: &File,
        keys: &NamesKeys,
        bound: Bound,
        synced: Synced,
    ) -> Result<(), DirError> {
        let at_risk = self.other == Other::InUse && self.durable == Durable::Unknown;
        if at_risk && synced == Synced::Maybe {
            // The other copy may be the only one on disk.
            self.barrier(file)?;
        }
        let place = Place {
            seq: self.place.seq + 1,
            names_epoch: keys.current(),
            bound,
        };
        let copy = self.copy.other();
        let next = Self {
            copy,
            place,
            durable: Durable::Unknown,
            other: Other::InUse,
            ..*self
        };
        file.write_all_at(&next.place_bytes(keys)?, offset(copy))?;
        *self = next;
        Ok(())
    }

    fn barrier(&mut self, file: &File) -> Result<(), DirError> {
        file.sync_data()?;
        self.durable = Durable::Yes;
        Ok(())
    }
}

fn offset(copy: PlaceCopy) -> u64 {
    (FIXED_LEN + copy.offset()) as u64
}

pub(super) fn writable(dir: impl AsFd) -> Result<File, DirError> {
    let flags = open_flags(OFlag::O_WRONLY);
    Ok(File::from(openat(dir, RECORD, flags, Mode::empty())?))
}
