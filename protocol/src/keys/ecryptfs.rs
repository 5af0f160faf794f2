//! What a mount of an eCryptfs folder asks for. The folder's id is
//! [`claviger_vault::ecryptfs::folder_id`] of its path.

use serde::{Deserialize, Serialize};

use crate::Secret;

/// An 8-byte identifier of a key, as the kernel's mount options have it in hexadecimal.
pub type SigBytes = [u8; 8];

/// What is asked of an unlocked eCryptfs folder: answered by the reply of the same name, or `Locked`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EcryptfsRequest {
    /// Whether the folder is open, and the key that encrypts its names.
    Names {
        /// `ecryptfs_fnek_sig`; `None` where names are in clear.
        fnek: Option<SigBytes>,
    },
    /// The FEK of an existing file.
    Fek {
        /// The packets of its header, as they stand there, without what follows the last.
        packets: Vec<u8>,
        /// The lower file's path from the lower root, for prompts and the audit line. Not trusted.
        lower_path: Vec<u8>,
        /// Process id of the opener as the requester sees it, for the audit line. Not trusted.
        pid: u32,
    },
    /// FEKs for new files, so that a create waits for nobody.
    Fresh {
        /// `ecryptfs_sig`, each of them a recipient, in the order of the mount options.
        recipients: Vec<SigBytes>,
        /// `ecryptfs_key_bytes`: 16, 24 or 32.
        key_len: u8,
        /// How many: at most 64.
        count: u16,
    },
}

/// What the daemon answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum EcryptfsReply {
    /// The folder is open: 64 bytes, the FNEK that was asked for.
    Names(Option<Secret>),
    /// 16, 24 or 32 bytes.
    Fek(Secret),
    /// Each for one new file.
    Fresh(Vec<FreshFek>),
}

/// What a new lower file starts with.
#[derive(Debug, Serialize, Deserialize)]
pub struct FreshFek {
    /// Packets that wrap the FEK to each recipient, as in [`EcryptfsRequest::Fek::packets`].
    pub packets: Vec<u8>,
    /// The FEK, as long as was asked for.
    pub fek: Secret,
}
