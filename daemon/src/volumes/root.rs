//! The root directory's record, which mounts check the names keys against that they are given.

use std::path::Path;

use claviger_protocol::Failure;
use claviger_vault::dir::{DirError, Location, Record};
use claviger_vault::names::NamesKeys;

use super::{Keys, open_lower};

/// What [`bind_root`] needs of a volume's keys.
pub(super) fn names_keys(keys: &Keys) -> Result<NamesKeys, Failure> {
    let manifest = &keys.manifest;
    let names_keys = keys
        .epochs
        .names_keys(manifest.volume(), manifest.minimum());
    NamesKeys::new(manifest.epoch(), manifest.minimum(), names_keys)
        .map_err(|error| Failure::Internal(error.to_string()))
}

/// Binds the root directory under the current epoch's key, and wipes what a removed recipient could have
/// made; nothing if that is so already. The lower disk is waited for: not to be called with keys locked.
///
/// A removal does it, and so does an unlock: the removal may have been stopped before (decision 091).
pub(super) fn bind_root(dir: &Path, names: &NamesKeys) -> Result<(), Failure> {
    let (root, dir) = open_lower(dir)?;
    let bound = Record::open(&root, names, Location::ROOT).and_then(|mut record| {
        if record.place_epoch() < names.current() {
            record.renew(&root, names, Location::ROOT)?;
        }
        Ok(())
    });
    bound.map_err(|error| match error {
        DirError::Io(error) => Failure::Internal(format!("{}: {error}", dir.display())),
        other => Failure::Integrity(format!("{}: {other}", dir.display())),
    })
}
