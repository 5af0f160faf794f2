//! How something of eCryptfs can fail.

use core::fmt;
use std::io;

use super::cipher::CipherCode;
use super::key_sig::KeySig;

/// Which structure is not as the format has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Part {
    /// The fixed fields of a header.
    #[error("header")]
    Header,
    /// A packet of a header.
    #[error("packet")]
    Packet,
    /// The cipher code, FEK and checksum that a public key wraps. Also what unwrapping with a wrong
    /// key gives.
    #[error("unwrapped FEK")]
    SessionKey,
    /// An encrypted name or symlink target. Also what decrypting one that was changed gives.
    #[error("encrypted name")]
    Name,
    /// A wrapped-passphrase file.
    #[error("wrapped-passphrase file")]
    WrappedPassphrase,
    /// A `struct ecryptfs_auth_tok`.
    #[error("auth tok")]
    AuthTok,
}

/// Why something of eCryptfs cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EcryptfsError {
    /// No marker, in the file or in its extended attribute.
    #[error("not an eCryptfs file")]
    NotEcryptfs,
    /// A lower file of 0 bytes without metadata: the machine went down, or its disk was full, when it
    /// was made. The kernel reads it as empty and gives it a header when it is written.
    #[error("no header: the file was made and never written")]
    NeverWritten,
    /// Written by something later than any kernel so far.
    #[error("format version {0} is not known")]
    Version(u8),
    /// Its header says that the content is not encrypted, which no kernel writes.
    #[error("header says that the file is not encrypted")]
    NotEncrypted,
    /// Not as the format has it.
    #[error("malformed {0}")]
    Malformed(Part),
    /// One of the kernel's ciphers other than AES.
    #[error("cipher {0} is not supported")]
    Cipher(CipherCode),
    /// None of the keys at hand is a recipient; these would be.
    #[error("opens with {} only", list(.0))]
    NoKey(Vec<KeySig>),
    /// The passphrase is not the one that wraps.
    #[error("wrong passphrase: this is not key {0}")]
    WrongPassphrase(KeySig),
    /// A passphrase that eCryptfs cannot have.
    #[error("a passphrase has 1 to 64 bytes, this has {0}")]
    PassphraseLen(usize),
    /// The lower file ends before what its header promises.
    #[error("lower file is cut short: extent {0} is missing")]
    CutShort(u64),
    /// More recipients than fit in the 4096 bytes that the kernel parses.
    #[error("more recipients than a header can hold")]
    TooManyRecipients,
    /// Longer than a lower name or symlink target can be.
    #[error("name is too long once encrypted")]
    NameTooLong,
    /// Beyond the largest size a file can have.
    #[error("larger than a file can be")]
    TooLarge,
    /// Opened for reading only.
    #[error("opened for reading only")]
    ReadOnly,
    /// The lower filesystem refused.
    #[error("lower file: {0}")]
    Io(#[from] io::Error),
}

impl From<nix::Error> for EcryptfsError {
    fn from(errno: nix::Error) -> Self {
        Self::Io(errno.into())
    }
}

fn list(sigs: &[KeySig]) -> impl fmt::Display {
    let sigs: Vec<String> = sigs.iter().map(|sig| format!("key {sig}")).collect();
    sigs.join(" or ")
}
