//! The conversation between the CLI and its own user's daemon, over a unix stream socket.
//!
//! ```text
//! message := length 4 B little endian | postcard body, length bytes (at most 1 MiB)
//! CLI → daemon:  Command(Command)  then, for each Prompt, one Answer or Nobody
//! daemon → CLI:  Prompt | Notice | Withdrawn, any number  then  Done, after which either side closes
//!                for Attach: Attached, then Prompt | Notice | Withdrawn until the CLI closes
//! ```
//!
//! Each prompt has one answer, also one that the daemon takes back: so the daemon knows which answer is
//! for which prompt, whichever of the last answer and `Withdrawn` was sent first.
//!
//! One command a connection. Both ends check that the peer's uid, as the kernel gives it
//! (`SO_PEERCRED`), is their own before they read or write anything.

mod command;
mod conversation;
mod ecryptfs;
mod reply;

pub use command::{Command, GenerateKey, KeyRef, LockTarget, NewRecipient, Recovery, UnlockWith};
pub use conversation::{
    Answers, Conversation, ConversationError, FromDaemon, MESSAGE_MAX, Prompt, PromptKind,
    PromptPlace, ToDaemon, VERSION,
};
pub use ecryptfs::{Needed, OtherKeys, PasswordKey, UnlockEcryptfs};
pub use reply::{
    FolderFormat, KeyInfo, Locked, ModuleStatus, MountStatus, RecipientInfo, Reply, Status,
    TokenInfo, UnknownFormat, VolumeStatus,
};
