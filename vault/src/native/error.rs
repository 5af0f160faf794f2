//! How a native file can fail.

use std::io;

use crate::ids::{Epoch, VolumeId};

/// A file that this version does not read: of another format, or of a later version of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The first 8 bytes are not those of a native file.
    #[error("not a native file")]
    Magic,
    /// Written by a later version.
    #[error("format version {0} is not known")]
    Version(u16),
    /// Other algorithms than this version has.
    #[error("cipher suite {0} is not known")]
    Suite(u16),
    /// Scope, header pages, block or segment size other than this version has, or reserved bytes
    /// in use.
    #[error("layout is not known")]
    Layout,
    /// Bits of features without which the file must not be read.
    #[error("critical flags {0:#010x} are not known")]
    CriticalFlags(u32),
}

/// What of a file failed to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Part {
    /// Neither key record opens under its epoch key, or bytes that must be zero are not.
    #[error("key record")]
    KeyRecord,
    /// Neither copy of the recipients' packets opens, or what is sealed there is malformed.
    #[error("recipients' packets")]
    Packets,
    /// Neither shape verifies under these FEKs.
    #[error("shape")]
    Shape,
    /// Neither place record verifies under the names key of its epoch.
    #[error("place")]
    Place,
    /// A block of the upper file, by index: neither half of its slot verifies.
    #[error("block {0}")]
    Block(u64),
}

/// Why the head of a file does not open. Made where epoch keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not this format, or a later version.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// Shorter than a head of its scope.
    #[error("head is cut short")]
    Truncated,
    /// A file of another volume.
    #[error("file belongs to volume {0}")]
    WrongVolume(VolumeId),
    /// Sealed under an epoch whose key is not at hand: newer than known, or below the minimum.
    #[error("no key for epoch {0}")]
    NoEpochKey(Epoch),
    /// Changed, moved from another file, or sealed under another key.
    #[error("{0} fails to authenticate")]
    Integrity(Part),
}

/// Why an operation on a native file failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The lower file is shorter than its header, or the header is zero: the machine went down
    /// before a new file reached the disk. Never read as empty.
    #[error("file never reached the disk")]
    NeverReachedDisk,
    /// Not this format, or a later version.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// Changed below, or moved from another place.
    #[error("{0} fails to authenticate")]
    Integrity(Part),
    /// Authentic, but not where its place record says.
    #[error("file is not where it was put")]
    Misplaced,
    /// The place record is of an epoch whose names key is not at hand.
    #[error("no names key for epoch {0}")]
    NoNamesKey(Epoch),
    /// Beyond the largest size a file can have.
    #[error("larger than a file can be")]
    TooLarge,
    /// Opened for reading only.
    #[error("opened for reading only")]
    ReadOnly,
    /// An earlier barrier failed: what was written before it may be lost, and the kernel reports
    /// that once only. Every write fails until the file is opened anew.
    #[error("an earlier write may be lost")]
    Poisoned,
    /// The lower filesystem refused.
    #[error("lower file: {0}")]
    Io(#[from] io::Error),
}

impl From<nix::Error> for FileError {
    fn from(errno: nix::Error) -> Self {
        Self::Io(errno.into())
    }
}
