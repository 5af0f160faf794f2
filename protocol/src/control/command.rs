//! What the CLI asks its daemon to do.

use std::path::PathBuf;

use claviger_vault::ids::Scope;
use serde::{Deserialize, Serialize};

use super::UnlockEcryptfs;
#[cfg(doc)]
use super::{FromDaemon, Reply};
use crate::Secret;

/// What the CLI asks its daemon to do. Paths are absolute.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// Makes a volume in the lower folder `dir`: [`Reply::Initialised`].
    Init {
        /// The lower folder; made if missing, refused unless empty.
        dir: PathBuf,
        /// Volume or file scope.
        scope: Scope,
        /// Public keys that shall open it.
        recipients: Vec<KeyRef>,
        /// A passphrase that shall open it.
        passphrase: Option<Secret>,
        /// Whether a recovery key is made.
        recovery: Recovery,
    },
    /// Unlocks a volume: [`Reply::Unlocked`].
    Unlock {
        /// The lower folder.
        dir: PathBuf,
        /// By what.
        with: UnlockWith,
    },
    /// Locks: [`Reply::Locked`].
    Lock(LockTarget),
    /// [`Reply::Status`].
    Status,
    /// [`Reply::Tokens`].
    TokenList,
    /// Makes a key pair in a token or file and enrols it: [`Reply::Key`].
    KeyGenerate(GenerateKey),
    /// Enrols a key that exists: [`Reply::Key`].
    KeyAdd {
        /// A PKCS#11 URI or a file.
        key: KeyRef,
        /// Name for people; from the token if absent.
        label: Option<String>,
    },
    /// [`Reply::Keys`].
    KeyList,
    /// Forgets an enrolled key (the token keeps it): [`Reply::Key`], what was removed.
    KeyRemove {
        /// Which.
        key: KeyRef,
    },
    /// [`Reply::Recipients`].
    RecipientList {
        /// The lower folder.
        dir: PathBuf,
    },
    /// Lets one more key open the volume: [`Reply::Recipients`]. Needs the volume unlocked.
    RecipientAdd {
        /// The lower folder.
        dir: PathBuf,
        /// Public key to add.
        recipient: NewRecipient,
    },
    /// Removes a recipient and starts a new epoch: [`Reply::Recipients`].
    RecipientRemove {
        /// The lower folder.
        dir: PathBuf,
        /// A key reference, or a recipient's label or key id.
        recipient: String,
    },
    /// Keeps the connection for prompts while the CLI asks for keys over callout; ends when the CLI
    /// closes it. Answered by [`FromDaemon::Attached`], never by [`FromDaemon::Done`] unless it fails.
    Attach,
    /// Puts the auth tok of an RSA key where the kernel's eCryptfs looks for it, and logs in to its token:
    /// [`Reply::EcryptfsKey`]. Enrols the key if need be.
    EcryptfsAddKey {
        /// Which.
        key: KeyRef,
    },
    /// Unlocks a folder of eCryptfs: [`Reply::EcryptfsUnlocked`].
    EcryptfsUnlock(UnlockEcryptfs),
}

/// A recipient to add.
#[derive(Debug, Serialize, Deserialize)]
pub enum NewRecipient {
    /// A token key or PEM file.
    Key(KeyRef),
    /// A passphrase.
    Passphrase(Secret),
    /// A new recovery key, told in the reply.
    Recovery,
}

/// Whether `init` makes a recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recovery {
    /// Make one and tell it.
    Make,
    /// The user said no.
    None,
}

/// What unlocks a volume.
#[derive(Debug, Serialize, Deserialize)]
pub enum UnlockWith {
    /// Any enrolled key whose token is here; a passphrase is asked for if the volume has one.
    AnyKey,
    /// This enrolled key only.
    Key(KeyRef),
    /// The recovery key's text.
    RecoveryKey(Secret),
    /// A passphrase recipient.
    Passphrase(Secret),
}

/// What to lock.
#[derive(Debug, Serialize, Deserialize)]
pub enum LockTarget {
    /// The volume in this lower folder.
    Volume(PathBuf),
    /// All of this user's.
    All,
}

/// How a user names a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyRef {
    /// A `pkcs11:` URI (RFC 7512); `MODULE:SELECTOR` for a module that the configuration adds; or a label
    /// with a colon.
    Uri(String),
    /// A PEM file: a private key, a public key, a `TSS2 PRIVATE KEY`.
    File(PathBuf),
    /// A key id from `key list`, or enough of its beginning; or a label.
    Id(String),
}

/// A key pair to make.
#[derive(Debug, Serialize, Deserialize)]
pub struct GenerateKey {
    /// Module: `pkcs11`, `tpm`, `openssl`, or one that the configuration adds.
    pub module: String,
    /// `ec-p256`, `ec-p384`, `rsa2048`, `rsa3072`, `rsa4096`; the module's first choice if absent.
    pub key_type: Option<String>,
    /// A PKCS#11 URI of the token.
    pub token: Option<String>,
    /// Label for people.
    pub label: Option<String>,
    /// Where a key file goes (tpm, openssl); below the configuration folder if absent.
    pub out: Option<PathBuf>,
    /// Auth value of the TPM key or passphrase of the PEM file.
    pub pin: Option<Secret>,
}
