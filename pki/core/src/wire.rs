//! The module protocol: what `clavigerd` and a module program say to each other.
//!
//! ```text
//! message := length 4 B little endian | postcard body, length bytes (at most 1 MiB)
//! host → module:  Hello  then  Call | Cancel, any number, until the end of the stream
//! module → host:  Refused, once  or  Answer, one for each Call, in any order
//! ```
//!
//! Both talk over one `SOCK_STREAM` socketpair, the module's end of it being file descriptor 3. The
//! host need not wait for anything between Hello and the first Call. `docs/protocol-module.md` has
//! the octets.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use postcard::ser_flavors::Size;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::module::{Decapsulate, DecryptPkcs1V15, Generate, Key, Locator, ModuleError, Token};

/// Version of the protocol. A module refuses every other one.
pub const VERSION: u16 = 1;

/// Largest message body, bytes.
pub const MESSAGE_MAX: usize = 1 << 20;

/// What [`Incoming`] takes in one read: more than 16 calls of the largest key.
const BUFFER: usize = 32 << 10;

/// What a module is told to work with: `library` for PKCS#11, `tcti` for a TPM.
pub type Settings = BTreeMap<String, String>;

/// What the host sends.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToModule {
    /// First, and once.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// See [`Settings`].
        settings: Settings,
    },
    /// Asks for something.
    Call {
        /// Comes back in the answer. No two calls in progress have the same.
        id: u32,
        /// How long the caller waits, in milliseconds from now.
        time_ms: u32,
        /// What.
        call: Call,
    },
    /// Nobody waits for the answer of call `id` any more. It is still answered.
    Cancel {
        /// Which.
        id: u32,
    },
}

/// What a module is asked for; see [`Module`](crate::module::Module).
#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    /// [`Answer::Tokens`].
    Tokens,
    /// [`Answer::Keys`].
    Keys {
        /// Of what.
        selector: String,
    },
    /// [`Answer::Key`].
    Generate(Generate),
    /// [`Answer::Done`].
    Login(Login),
    /// [`Answer::Done`].
    Logout,
    /// [`Answer::Secret`].
    Decapsulate(Decapsulate),
    /// [`Answer::Secret`].
    DecryptPkcs1V15(DecryptPkcs1V15),
}

/// A PIN for what a locator names.
#[derive(Serialize, Deserialize)]
pub struct Login {
    /// What to log in to.
    pub locator: Locator,
    /// PIN, auth value or passphrase.
    #[serde(with = "secret")]
    pub pin: Zeroizing<Vec<u8>>,
}

impl core::fmt::Debug for Login {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Login")
            .field("locator", &self.locator)
            .finish_non_exhaustive()
    }
}

/// What a module sends.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromModule {
    /// The answer to Hello if the module cannot work: no such library, another version. Nothing
    /// follows; it counts for every call.
    Refused(ModuleError),
    /// Answers one call.
    Answer {
        /// Of which call.
        id: u32,
        /// What came of it.
        result: Result<Answer, ModuleError>,
    },
}

/// What a call that worked gives.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// Nothing to tell.
    Done,
    /// Tokens present.
    Tokens(Vec<Token>),
    /// Keys found.
    Keys(Vec<Key>),
    /// The key made.
    Key(Key),
    /// The KEM's secret.
    Secret(#[serde(with = "secret")] Zeroizing<Vec<u8>>),
}

impl core::fmt::Debug for Answer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Done => f.write_str("Done"),
            Self::Tokens(tokens) => f.debug_tuple("Tokens").field(tokens).finish(),
            Self::Keys(keys) => f.debug_tuple("Keys").field(keys).finish(),
            Self::Key(key) => f.debug_tuple("Key").field(key).finish(),
            Self::Secret(_) => f.write_str("Secret"),
        }
    }
}

/// A message did not arrive or could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream ended between two messages.
    #[error("end of the stream")]
    End,
    /// More than [`MESSAGE_MAX`].
    #[error("a message of {0} bytes is too large")]
    TooLarge(usize),
    /// Not a message of this protocol.
    #[error("a message does not decode")]
    Malformed,
    /// The socket failed, or the stream ended within a message.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Sends one message; its encoded bytes are wiped.
///
/// # Errors
/// [`WireError`], also if the message is too large.
pub fn send(mut to: impl Write, message: &impl Serialize) -> Result<(), WireError> {
    // Sized first: a buffer that grew would leave copies of a PIN behind.
    let length = postcard::serialize_with_flavor(message, Size::default())
        .map_err(|_| WireError::Malformed)?;
    if length > MESSAGE_MAX {
        return Err(WireError::TooLarge(length));
    }
    let prefix = u32::try_from(length).expect("MESSAGE_MAX fits 32 bits");
    let mut frame = Zeroizing::new(vec![0; 4 + length]);
    let (head, body) = frame.split_at_mut(4);
    head.copy_from_slice(&prefix.to_le_bytes());
    postcard::to_slice(message, body).map_err(|_| WireError::Malformed)?;
    to.write_all(&frame)?;
    Ok(())
}

/// The receiving end of a stream: takes all that has arrived in one read, and wipes what it has given out.
#[derive(Debug)]
pub struct Incoming<R> {
    from: R,
    buffer: Zeroizing<Vec<u8>>,
    /// What of the buffer was read and not yet given out.
    unread: Range<usize>,
}

impl<R> Incoming<R> {
    /// Reads from `from`.
    pub fn new(from: R) -> Self {
        Self {
            from,
            buffer: Zeroizing::new(vec![0; BUFFER]),
            unread: 0..0,
        }
    }

    /// Whether it has given out all that it read.
    pub fn is_drained(&self) -> bool {
        self.unread.is_empty()
    }

    /// What it reads from.
    pub fn get_ref(&self) -> &R {
        &self.from
    }
}

impl<R: Read> Read for Incoming<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            if out.len() >= self.buffer.len() {
                return self.from.read(out);
            }
            self.unread = 0..self.from.read(&mut self.buffer)?;
        }
        let unread = self.buffer.get_mut(self.unread.clone()).unwrap_or_default();
        let length = unread.len().min(out.len());
        let (given, _) = unread.split_at_mut(length);
        let (out, _) = out.split_at_mut(length);
        out.copy_from_slice(given);
        given.zeroize();
        self.unread.start += length;
        Ok(length)
    }
}

/// A stream socket that is waited for by poll(2), and read when there is something.
///
/// recv(2) sleeps where writers wait for room, too: whoever sleeps in it is woken each time that the other
/// end takes what was sent to it (`unix_write_space` of the kernel), which is once a call for nothing. poll(2)
/// is woken for what it asks.
#[derive(Debug)]
pub struct Polled(pub UnixStream);

impl Read for Polled {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.0.as_raw_fd(), out, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => {}
                read => return Ok(read?),
            }
            let mut readable = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            poll(&mut readable, PollTimeout::NONE)?;
        }
    }
}

/// Waits for one message; its encoded bytes are wiped.
///
/// # Errors
/// [`WireError`]; no input panics.
pub fn receive<T: DeserializeOwned>(mut from: impl Read) -> Result<T, WireError> {
    let mut prefix = [0; 4];
    let (first, rest) = prefix.split_at_mut(1);
    match from.read(first) {
        Ok(0) => return Err(WireError::End),
        Ok(_) => from.read_exact(rest)?,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return receive(from),
        // How a socketpair tells that the other end closed with messages unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(WireError::End),
        Err(error) => return Err(error.into()),
    }
    let length = u32::from_le_bytes(prefix) as usize;
    if length > MESSAGE_MAX {
        return Err(WireError::TooLarge(length));
    }
    let mut body = Zeroizing::new(vec![0; length]);
    from.read_exact(&mut body)?;
    match postcard::take_from_bytes(&body) {
        Ok((message, [])) => Ok(message),
        _ => Err(WireError::Malformed),
    }
}

/// serde for secret bytes: a byte string that is copied once, into memory that is wiped.
pub(crate) mod secret {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(crate) fn serialize<S: Serializer>(
        bytes: &Zeroizing<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Zeroizing<Vec<u8>>, D::Error> {
        let borrowed = <&[u8]>::deserialize(deserializer)?;
        Ok(Zeroizing::new(borrowed.to_vec()))
    }

    pub(crate) mod optional {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};
        use zeroize::Zeroizing;

        pub(crate) fn serialize<S: Serializer>(
            bytes: &Option<Zeroizing<Vec<u8>>>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            bytes
                .as_ref()
                .map(|bytes| bytes.as_slice())
                .serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Zeroizing<Vec<u8>>>, D::Error> {
            let borrowed = Option::<&[u8]>::deserialize(deserializer)?;
            Ok(borrowed.map(|bytes| Zeroizing::new(bytes.to_vec())))
        }
    }
}
