//! The names keys of a volume, by epoch.

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::DirNames;
use super::siv::SivKey;
use crate::ids::{DirId, Epoch};
use crate::kdf::derive;
use crate::native::PlaceKeys;
use crate::sealed::SealingKey;
use crate::secret::NamesKey;

/// The names keys of an unlocked volume: all that a filesystem holds of its epochs.
///
/// Keys are wiped on drop; a [`DirNames`] made before keeps the one it needs.
pub struct NamesKeys {
    current: Epoch,
    minimum: Epoch,
    epochs: BTreeMap<Epoch, Arc<EpochNames>>,
}

/// What derives from one names key, kept because every lookup wants it.
pub(crate) struct EpochNames {
    places: PlaceKeys,
    pub(super) file_names: SivKey,
    pub(crate) attribute_names: SivKey,
    pub(crate) attribute_values: SealingKey,
    pub(crate) symlinks: SealingKey,
}

/// An epoch that nothing may be opened under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochRefused {
    /// A removed recipient may have made it: all that is genuine was moved to a later epoch.
    #[error("epoch {0} is over: the volume accepts nothing older than epoch {1}")]
    BelowMinimum(Epoch, Epoch),
    /// Newer than the keys that are here, or never begun.
    #[error("no key of epoch {0} is here")]
    NoKey(Epoch),
}

impl NamesKeys {
    /// Takes the keys that the daemon handed over; those below `minimum` are dropped.
    ///
    /// # Errors
    /// [`EpochRefused::NoKey`] if the one of the current epoch is not among them.
    pub fn new(
        current: Epoch,
        minimum: Epoch,
        keys: impl IntoIterator<Item = (Epoch, NamesKey)>,
    ) -> Result<Self, EpochRefused> {
        let epochs: BTreeMap<_, _> = keys
            .into_iter()
            .filter(|(epoch, _)| *epoch >= minimum)
            .map(|(epoch, key)| (epoch, Arc::new(EpochNames::new(key))))
            .collect();
        if !epochs.contains_key(&current) {
            return Err(EpochRefused::NoKey(current));
        }
        Ok(Self {
            current,
            minimum,
            epochs,
        })
    }

    /// The epoch that new directories and place records use.
    pub fn current(&self) -> Epoch {
        self.current
    }

    /// The oldest epoch that is accepted.
    pub fn minimum(&self) -> Epoch {
        self.minimum
    }

    /// The keys of one epoch for place records.
    ///
    /// # Errors
    /// [`EpochRefused`].
    pub fn places(&self, epoch: Epoch) -> Result<&PlaceKeys, EpochRefused> {
        Ok(&self.epoch(epoch)?.places)
    }

    /// The names key of one epoch, to compare.
    ///
    /// # Errors
    /// [`EpochRefused`].
    pub fn names_key(&self, epoch: Epoch) -> Result<&NamesKey, EpochRefused> {
        Ok(self.epoch(epoch)?.places.names_key())
    }

    /// The names of one directory, whose record says which epoch they are of.
    ///
    /// # Errors
    /// [`EpochRefused`].
    pub fn directory(&self, epoch: Epoch, dir: DirId) -> Result<DirNames, EpochRefused> {
        Ok(DirNames::new(Arc::clone(self.epoch(epoch)?), epoch, dir))
    }

    /// Epochs that things may be of, newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = Epoch> {
        self.epochs.keys().rev().copied()
    }

    pub(crate) fn epoch(&self, epoch: Epoch) -> Result<&Arc<EpochNames>, EpochRefused> {
        if epoch < self.minimum {
            return Err(EpochRefused::BelowMinimum(epoch, self.minimum));
        }
        self.epochs.get(&epoch).ok_or(EpochRefused::NoKey(epoch))
    }
}

impl fmt::Debug for NamesKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamesKeys(epochs {} to {})", self.minimum, self.current)
    }
}

impl EpochNames {
    fn new(names_key: NamesKey) -> Self {
        let key = names_key.expose();
        Self {
            file_names: SivKey::new(&derive(key, "file names", &[])),
            attribute_names: SivKey::new(&derive(key, "attribute names", &[])),
            attribute_values: SealingKey::new(&derive(key, "attribute values", &[])),
            symlinks: SealingKey::new(&derive(key, "symlinks", &[])),
            places: PlaceKeys::new(names_key),
        }
    }
}
