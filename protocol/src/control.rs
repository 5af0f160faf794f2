//! The conversation between the CLI and its own user's daemon, over a unix stream socket.
//!
//! ```text
//! message := length 4 B little endian | postcard body, length bytes (at most 1 MiB)
//! CLI → daemon:  Command(Command)  then, for each Prompt, one Answer
//! daemon → CLI:  Prompt | Notice | Withdrawn, any number  then  Done, after which either side closes
//!                for Attach: Attached, then Prompt | Notice | Withdrawn until the CLI closes
//! ```
//!
//! Each prompt has one answer, also one that the daemon takes back: so the daemon knows which answer is
//! for which prompt, whichever of the last answer and `Withdrawn` was sent first.
//!
//! One command a connection. Both ends check that the peer's uid, as the kernel gives it
//! (`SO_PEERCRED`), is their own before they read or write anything.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use claviger_vault::ids::{Epoch, Scope, VolumeId};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::keys::SigBytes;
use crate::{Failure, Secret, encode};

mod ecryptfs;

pub use ecryptfs::{Needed, OtherKeys, PasswordKey, UnlockEcryptfs};

/// Version of this conversation; both programs come from one build, so it must be equal.
pub const VERSION: u16 = 2;

/// Largest message body, bytes.
pub const MESSAGE_MAX: usize = 1 << 20;

/// What the CLI sends.
#[expect(
    clippy::large_enum_variant,
    reason = "one exists at a time, and for a moment"
)]
#[derive(Debug, Serialize, Deserialize)]
pub enum ToDaemon {
    /// First, and once.
    Command {
        /// [`VERSION`].
        version: u16,
        /// Where later prompts of this user's volumes may appear.
        prompt_place: PromptPlace,
        /// What to do.
        command: Command,
    },
    /// Answers the last [`FromDaemon::Prompt`]; `None` declines, or says that it was withdrawn first.
    Answer(Option<Secret>),
}

/// What the daemon sends.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromDaemon {
    /// Asks the person at the CLI.
    Prompt(Prompt),
    /// Tells the person something: "touch the token to open volume …".
    Notice(String),
    /// The end.
    Done(Result<Reply, Failure>),
    /// Answers [`Command::Attach`], once: prompts come here from now on.
    Attached,
    /// Nobody waits for an answer to the last [`FromDaemon::Prompt`] any more: it took too long, or what it
    /// was for has been called off.
    Withdrawn,
}

/// A terminal or display that a CLI call named, for pinentry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptPlace {
    /// Path of the controlling terminal, as ttyname(3) gives it.
    pub tty: Option<String>,
    /// `$DISPLAY`.
    pub display: Option<String>,
    /// `$WAYLAND_DISPLAY`.
    pub wayland_display: Option<String>,
    /// `$TERM`.
    pub term: Option<String>,
}

/// A question to a person.
#[derive(Debug, Serialize, Deserialize)]
pub struct Prompt {
    /// What kind of answer is wanted.
    pub kind: PromptKind,
    /// Names the volume, the token and the program that asked.
    pub text: String,
}

/// What kind of answer a prompt wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PromptKind {
    /// The PIN of a token or TPM key; not echoed.
    Pin,
    /// A passphrase of a volume or key file; not echoed.
    Passphrase,
    /// Yes or no: an empty answer is yes, `None` is no.
    Confirm,
}

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
    /// Locks everything and ends the daemon: [`Reply::Done`].
    Stop,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRef {
    /// A `pkcs11:` URI (RFC 7512).
    Uri(String),
    /// A PEM file: a private key, a public key, a `TSS2 PRIVATE KEY`.
    File(PathBuf),
    /// A key id from `key list`, or enough of its beginning; or a label.
    Id(String),
}

/// A key pair to make.
#[derive(Debug, Serialize, Deserialize)]
pub struct GenerateKey {
    /// Module: `pkcs11`, `tpm`, `openssl`.
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
    Locked {
        /// Which.
        volumes: Vec<VolumeId>,
        /// Lower paths whose last writes were lost.
        lost: Vec<String>,
    },
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
    /// Whether its keys are here.
    pub unlocked: bool,
    /// Who opened it.
    pub opened_by: Option<RecipientInfo>,
    /// Current epoch, if unlocked.
    pub epoch: Option<Epoch>,
    /// Where it is mounted.
    pub mounts: Vec<MountStatus>,
}

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

/// One end of the conversation.
#[derive(Debug)]
pub struct Conversation(UnixStream);

/// The conversation broke.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The peer runs as somebody else.
    #[error("the other end of the control socket belongs to uid {0}")]
    WrongUid(u32),
    /// The peer went away.
    #[error("the other end closed the control socket")]
    Closed,
    /// More than [`MESSAGE_MAX`].
    #[error("a control message of {0} bytes is too large")]
    TooLarge(usize),
    /// Not a message of ours.
    #[error("a control message does not decode")]
    Malformed,
    /// The socket failed.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
}

impl Conversation {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// [`ConversationError::WrongUid`] unless the peer's uid is this process's effective uid.
    pub fn new(stream: UnixStream) -> Result<Self, ConversationError> {
        let peer = getsockopt(&stream, PeerCredentials).map_err(io::Error::from)?;
        if peer.uid() != Uid::effective().as_raw() {
            return Err(ConversationError::WrongUid(peer.uid()));
        }
        Ok(Self(stream))
    }

    /// The socket, to poll or to shut down from another thread.
    pub fn stream(&self) -> &UnixStream {
        &self.0
    }

    /// Sends one message; its encoded bytes are wiped.
    ///
    /// # Errors
    /// [`ConversationError`], also if the message is too large.
    pub fn send(&mut self, message: &impl Serialize) -> Result<(), ConversationError> {
        let body = encode(message).map_err(|_| ConversationError::Malformed)?;
        if body.len() > MESSAGE_MAX {
            return Err(ConversationError::TooLarge(body.len()));
        }
        let length = u32::try_from(body.len()).expect("MESSAGE_MAX fits 32 bits");
        self.0.write_all(&length.to_le_bytes())?;
        self.0.write_all(&body)?;
        Ok(())
    }

    /// Waits for one message; its encoded bytes are wiped.
    ///
    /// # Errors
    /// [`ConversationError`]; no input panics.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<T, ConversationError> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).map_err(closed)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MESSAGE_MAX {
            return Err(ConversationError::TooLarge(length));
        }
        let mut body = Zeroizing::new(vec![0; length]);
        self.0.read_exact(&mut body).map_err(closed)?;
        postcard::from_bytes(&body).map_err(|_| ConversationError::Malformed)
    }
}

fn closed(error: io::Error) -> ConversationError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => ConversationError::Closed,
        _ => ConversationError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Conversation, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Conversation::new(ours).unwrap(), theirs)
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let (mut ours, theirs) = pair();
        let mut theirs = Conversation::new(theirs).unwrap();
        ours.send(&FromDaemon::Notice("touch the token".into()))
            .unwrap();
        let FromDaemon::Notice(text) = theirs.receive().unwrap() else {
            panic!("not a notice")
        };
        assert_eq!(text, "touch the token");
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_is_allocated() {
        let (mut ours, mut theirs) = pair();
        theirs.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(
            ours.receive::<FromDaemon>(),
            Err(ConversationError::TooLarge(0xffff_ffff))
        ));
    }

    #[test]
    fn an_end_in_mid_message_is_told_from_garbage() {
        let (mut ours, mut theirs) = pair();
        theirs.write_all(&[9, 0, 0, 0, 1]).unwrap();
        drop(theirs);
        assert!(matches!(
            ours.receive::<FromDaemon>(),
            Err(ConversationError::Closed)
        ));
        let (mut ours, mut theirs) = pair();
        theirs.write_all(&[1, 0, 0, 0, 77]).unwrap();
        assert!(matches!(
            ours.receive::<FromDaemon>(),
            Err(ConversationError::Malformed)
        ));
    }
}
