//! What can be wrong with a manifest.

use std::io;

use super::{FORMAT, KeyId};
use crate::epoch::LockedMemoryError;
use crate::ids::Epoch;

/// A manifest cannot be read, believed or stored.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not a volume, or its manifest was deleted.
    #[error("no manifest here (.claviger/volume.toml)")]
    Missing,
    /// Not a manifest, or damaged.
    #[error("manifest line {line}: {what}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// For people.
        what: String,
    },
    /// The last line, which authenticates the others, is not whole.
    #[error("manifest is cut short: it does not end in its authentication")]
    CutShort,
    /// A key that this format does not have.
    #[error("manifest line {line}: unknown key {key}")]
    UnknownKey {
        /// Counted from 1.
        line: usize,
        /// The key, quoted.
        key: String,
    },
    /// Written by a newer program.
    #[error("manifest has format {0}; this program knows up to {FORMAT}")]
    NewerFormat(u64),
    /// Ciphers that this program does not have.
    #[error("manifest has cipher suite {0}, which this program does not know")]
    UnknownSuite(u64),
    /// Larger than any real one.
    #[error("manifest is larger than 1 MiB")]
    TooLarge,
    /// Changed by someone who does not have the volume's key: a recipient added by hand, say.
    #[error("manifest is not authentic: changed without the volume's key")]
    NotAuthentic,
    /// The authenticated manifest holds an older key that does not open.
    #[error("sealed key of epoch {0} does not open")]
    Chain(Epoch),
    /// Another program changed it since it was read: read it again and repeat the change.
    #[error("manifest was changed meanwhile")]
    Conflict,
    /// Another program has kept it locked for too long.
    #[error("manifest: another program keeps .claviger locked")]
    Occupied,
    /// No memory for keys.
    #[error(transparent)]
    Memory(#[from] LockedMemoryError),
    /// The lower filesystem failed.
    #[error("manifest: {0}")]
    Io(#[from] io::Error),
}

/// A change of recipients that cannot be made. `E` is why an epoch key could not be wrapped.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// This key opens the volume already.
    #[error("key {0} is a recipient already")]
    AlreadyRecipient(KeyId),
    /// This key does not open the volume.
    #[error("key {0} is not a recipient")]
    NotRecipient(KeyId),
    /// Nobody could open the volume.
    #[error("a volume needs at least one recipient")]
    LastRecipient,
    /// A wrap could not be made.
    #[error("cannot wrap the epoch key")]
    Wrap(#[source] E),
    /// No memory for keys.
    #[error(transparent)]
    Memory(LockedMemoryError),
}
