//! What the daemon answers.

use claviger_vault::ids::{Epoch, VolumeId};
use serde::{Deserialize, Serialize};

use crate::Secret;
use crate::keys::SigBytes;

/// What a command that worked answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to tell.
    Done,
    /// A volume was made.
    Initialised {
        /// Its id.
        volume: VolumeId,
        /// The recovery key's text, to be shown once.
        recovery: Option<Secret>,
        /// Who opens it.
        recipients: Vec<RecipientInfo>,
    },
    /// A volume is unlocked.
    Unlocked {
        /// Its id.
        volume: VolumeId,
        /// Which recipient opened it; `None` if it was unlocked already.
        by: Option<RecipientInfo>,
        /// What changed since this machine last saw the volume, for people.
        changes: Vec<String>,
    },
    /// Volumes are locked.
    Locked(Locked),
    /// What is open.
    Status(Status),
    /// Tokens present.
    Tokens(Vec<TokenInfo>),
    /// One key.
    Key(KeyInfo),
    /// All enrolled keys.
    Keys(Vec<KeyInfo>),
    /// Recipients of a volume, and the new recovery key if one was asked for.
    Recipients {
        /// Current epoch.
        epoch: Epoch,
        /// Who opens it.
        recipients: Vec<RecipientInfo>,
        /// The recovery key's text, to be shown once.
        recovery: Option<Secret>,
    },
    /// A key that the kernel's eCryptfs can use now.
    EcryptfsKey {
        /// Which.
        key: KeyInfo,
        /// Its key sig, 16 hexadecimal digits: what the mount option `ecryptfs_sig` names.
        sig: String,
    },
    /// A folder of eCryptfs is unlocked.
    EcryptfsUnlocked {
        /// What it is called in the place of a volume.
        folder: VolumeId,
        /// The keys that open it, by their sigs; empty if it was unlocked already, with all of them.
        by: Vec<RecipientInfo>,
        /// Whom new files are wrapped to.
        sigs: Vec<SigBytes>,
    },
}

/// One recipient of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientInfo {
    /// SHA-256 of the SubjectPublicKeyInfo, hexadecimal.
    pub key_id: String,
    /// `token`, `file`, `passphrase`, `recovery`.
    pub kind: String,
    /// For people.
    pub label: String,
    /// Algorithm: `ec-p256`, `rsa2048`, …
    pub key_type: String,
}

/// An enrolled key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// SHA-256 of the SubjectPublicKeyInfo, hexadecimal.
    pub key_id: String,
    /// The module that uses it.
    pub module: String,
    /// For people.
    pub label: String,
    /// Algorithm: `ec-p256`, `rsa2048`, …
    pub key_type: String,
    /// Where the module finds it: a PKCS#11 URI or a file.
    pub locator: String,
    /// Whether its auth tok is in the keyring (or daemon's memory) now.
    pub in_keyring: bool,
    /// Whether the key is known to be unable to leave its token.
    pub provenance: String,
}

/// A token that is present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// The module that reaches it.
    pub module: String,
    /// Its label.
    pub label: String,
    /// PKCS#11 URI, or TCTI of the TPM.
    pub uri: String,
    /// Manufacturer and model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// State of its PIN, for people: "ok", "2 tries left", "final try", "blocked".
    pub pin_state: String,
}

/// What a lock came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Locked {
    /// Lower folders of what was unlocked and is no longer.
    pub folders: Vec<String>,
    /// Mount points of what this daemon had not unlocked: a daemon that went may have left them open. They are
    /// locked now.
    pub mounts: Vec<String>,
    /// Lower paths whose last writes could not be written out.
    pub lost: Vec<String>,
    /// Mount points that have not said in time that they are locked.
    pub silent: Vec<String>,
}

impl Locked {
    /// What a person should know, in sentences.
    pub fn faults(&self) -> Vec<String> {
        let lost = self.lost.iter().map(|path| {
            format!("The last writes to lower file {path} could not be written out and are lost")
        });
        let silent = self.silent.iter().map(|mountpoint| {
            format!(
                "{mountpoint} did not say that it is locked and may still be open: \
                 'claviger umount {mountpoint}' ends it"
            )
        });
        lost.chain(silent).collect()
    }
}

/// What is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Process id of the daemon.
    pub daemon_pid: u32,
    /// Where auth toks are: `keyring`, or `memory` where the kernel refuses keyctl(2).
    pub auth_toks: String,
    /// Unlocked volumes and mounts of locked ones.
    pub volumes: Vec<VolumeStatus>,
    /// Module processes that run.
    pub modules: Vec<ModuleStatus>,
}

/// One volume that the daemon knows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its id.
    pub volume: VolumeId,
    /// The lower folder.
    pub dir: String,
    /// What it holds.
    pub format: FolderFormat,
    /// Whether its keys are here.
    pub unlocked: bool,
    /// Who opened it.
    pub opened_by: Option<RecipientInfo>,
    /// Current epoch, if unlocked.
    pub epoch: Option<Epoch>,
    /// Where it is mounted.
    pub mounts: Vec<MountStatus>,
}

/// What a lower folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FolderFormat {
    /// A volume of Claviger's.
    Native,
    /// A folder of the kernel's eCryptfs.
    Ecryptfs,
}

impl FolderFormat {
    /// The word for it: in what a mount tells of itself, after `--format`, for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Ecryptfs => "ecryptfs",
        }
    }

    /// The format that this word is for.
    pub fn of_word(word: &str) -> Option<Self> {
        let mut all = [Self::Native, Self::Ecryptfs].into_iter();
        all.find(|format| format.word() == word)
    }

    /// What mount options say by `format=`, the last of them counting; `None` if nothing.
    ///
    /// # Errors
    /// [`UnknownFormat`].
    pub fn of_options<'a>(
        options: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<Self>, UnknownFormat> {
        let mut said = None;
        let words = options.into_iter();
        for word in words.filter_map(|option| option.strip_prefix("format=")) {
            said = Some(Self::of_word(word).ok_or_else(|| UnknownFormat(word.into()))?);
        }
        Ok(said)
    }
}

/// The mount option `format=` has a value that is no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mount option 'format={0}': expected native or ecryptfs")]
pub struct UnknownFormat(String);

/// One mount that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStatus {
    /// The mount point.
    pub mountpoint: String,
    /// `netlink` or `unix`.
    pub carrier: String,
    /// Process id of the filesystem.
    pub pid: u32,
}

/// One module process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleStatus {
    /// Module name.
    pub module: String,
    /// Process id.
    pub pid: u32,
    /// How often it had to be restarted.
    pub restarts: u32,
}
