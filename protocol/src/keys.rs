//! Bodies of the callout frames between a requester that needs keys and `clavigerd`.
//!
//! `postcard` encodes them; a `Vec<u8>` and `serde_bytes` are the same octets to it, and the latter are copied
//! at once, as what is long shall be. The volume's daemon answers each [`KeyRequest`] with one [`KeyReply`],
//! and tells of locking, unlocking and new epochs by [`KeyEvent`] frames.

use claviger_vault::ids::{Epoch, Scope, VolumeId};
use serde::{Deserialize, Serialize};

use crate::control::KeyRef;
use crate::{Failure, Secret};

mod ecryptfs;

pub use ecryptfs::{EcryptfsReply, EcryptfsRequest, FreshFek, SigBytes};

/// The service that requesters of keys name in their rendezvous entry. The number counts versions of
/// the bodies below.
pub const SERVICE: &str = "claviger-keys/1";

/// What a requester asks for.
#[derive(Debug, Serialize, Deserialize)]
pub enum KeyRequest {
    /// The names keys of an unlocked volume: answered by [`KeyReply::Names`] or `Locked`.
    Names {
        /// Which volume.
        volume: VolumeId,
        /// Its lower root, absolute, as bytes of a path.
        lower_root: Vec<u8>,
    },
    /// The FEKs of an existing file: answered by [`KeyReply::Feks`].
    UnwrapFek {
        /// Which volume.
        volume: VolumeId,
        /// The head of the lower file: 512 bytes of header page 0 (fixed part and key records), then in
        /// file scope the 4096 bytes of page 1.
        #[serde(with = "serde_bytes")]
        header: Vec<u8>,
        /// The lower file's path from the lower root, for prompts and the audit line. Not trusted.
        lower_path: Vec<u8>,
        /// Process id of the opener as the requester sees it, for the audit line. Not trusted.
        pid: u32,
    },
    /// Fresh (FEK, header) pairs, so that a create waits for nobody: [`KeyReply::Fresh`].
    Fresh {
        /// Which volume.
        volume: VolumeId,
        /// How many: at most 64.
        count: u16,
    },
    /// A new sealed stream: [`KeyReply::Stream`].
    SealStream {
        /// Who shall open it.
        recipients: Vec<KeyRef>,
        /// Process id of whoever seals, for the audit line. Not trusted.
        pid: u32,
    },
    /// The key of a sealed stream: [`KeyReply::Stream`].
    UnsealStream {
        /// What the stream begins with, as `claviger_vault::stream::StreamHeader` writes it.
        header: Vec<u8>,
        /// Process id of whoever unseals, for the audit line. Not trusted.
        pid: u32,
    },
    /// The requester has done what an event asks for: dropped all keys of the volume, or taken up new
    /// ones. Whoever caused the event waits for it.
    Acknowledge {
        /// Which event.
        event: KeyEvent,
        /// Lower paths of files whose last writes a lock could not write out.
        lost: Vec<Vec<u8>>,
    },
    /// Something of an eCryptfs folder: [`KeyReply::Ecryptfs`].
    Ecryptfs {
        /// Which folder, in the place of a volume.
        folder: VolumeId,
        /// What.
        request: EcryptfsRequest,
    },
}

/// What the daemon answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum KeyReply {
    /// The request failed.
    Failed(Failure),
    /// Names keys by epoch.
    Names {
        /// The epoch that new files and directories use.
        current: Epoch,
        /// Headers and records of an older epoch are refused.
        minimum: Epoch,
        /// What opening a file costs.
        scope: Scope,
        /// 32 bytes each.
        keys: Vec<(Epoch, Secret)>,
    },
    /// FEKs of one file.
    Feks {
        /// By number, 1 to 4 of 32 bytes each; which one a block uses, its half says.
        feks: Vec<Secret>,
        /// Number of the one for new blocks.
        newest: u8,
        /// Epoch that the header's key record is sealed under.
        epoch: Epoch,
    },
    /// Fresh header material, each for one new file.
    Fresh(Vec<FreshFile>),
    /// A sealed stream's header and key.
    Stream {
        /// What the stream begins with.
        header: Vec<u8>,
        /// 32 bytes.
        key: Secret,
    },
    /// Noted.
    Done,
    /// Of an eCryptfs folder.
    Ecryptfs(EcryptfsReply),
}

/// What a new file starts with: made by the daemon, which alone holds the epoch key.
#[derive(Debug, Serialize, Deserialize)]
pub struct FreshFile {
    /// Epoch that it is sealed under; of no use once another epoch has begun.
    pub epoch: Epoch,
    /// The head of the new lower file, as in [`KeyRequest::UnwrapFek::header`].
    #[serde(with = "serde_bytes")]
    pub header: Vec<u8>,
    /// FEK number 0, 32 bytes.
    pub fek: Secret,
}

/// What the daemon tells requesters unasked. A mount does as it says, then acknowledges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyEvent {
    /// Lock the volume now: drop its keys.
    Lock {
        /// Which volume.
        volume: VolumeId,
    },
    /// The volume was unlocked: ask for the names keys.
    Unlocked {
        /// Which volume.
        volume: VolumeId,
    },
    /// A new epoch began: drop fresh files and ask for the names keys anew.
    NewEpoch {
        /// Which volume.
        volume: VolumeId,
        /// Its number.
        epoch: Epoch,
    },
}
