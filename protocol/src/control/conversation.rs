//! The messages, and the socket that carries them.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Command, Reply};
use crate::{Failure, Secret, encode};

/// Version of this conversation; both programs come from one build, so it must be equal.
pub const VERSION: u16 = 5;

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
        /// Who answers the prompts of this command.
        answers: Answers,
        /// What to do.
        command: Command,
    },
    /// Answers the last [`FromDaemon::Prompt`]; `None` declines, or says that it was withdrawn first.
    Answer(Option<Secret>),
    /// Instead of a command: locks everything and ends the daemon, which says [`FromDaemon::Done`] and
    /// closes as it ends. One octet, 2, in every version: what is newer can end what is older.
    Stop,
    /// In place of an [`Answer`](Self::Answer): there is nobody whom the CLI could ask.
    Nobody,
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

/// Who answers the prompts of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answers {
    /// Whoever sits at the CLI's terminal, to each [`FromDaemon::Prompt`].
    Terminal,
    /// Whoever sits at the place that the command names: the CLI has no terminal to ask on.
    Pinentry,
    /// Lines that were written before anybody saw a [`FromDaemon::Prompt`]: they may be PINs, and agree to
    /// nothing.
    Descriptor,
}

/// A terminal or display that a CLI call named, for pinentry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptPlace {
    /// Path of the controlling terminal, as ttyname(3) gives it.
    pub tty: Option<String>,
    /// `$DISPLAY`.
    pub display: Option<String>,
    /// `$XAUTHORITY`: the file with the key to that display.
    pub xauthority: Option<String>,
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
