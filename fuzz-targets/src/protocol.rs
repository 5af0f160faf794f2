//! Bodies of messages between filesystem, daemon and CLI.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use claviger_protocol::control::{Conversation, FromDaemon, ToDaemon};
use claviger_protocol::keys::{KeyEvent, KeyReply, KeyRequest};
use nix::sys::socket::{setsockopt, sockopt};

use crate::Reached;

/// Longest input that is sent through a socket; it has to take it at once.
const SENT_MAX: usize = 64 << 10;

/// What a filesystem asks.
pub fn key_request(data: &[u8]) -> Reached {
    postcard::from_bytes::<KeyRequest>(data).is_ok().into()
}

/// What the daemon answers.
pub fn key_reply(data: &[u8]) -> Reached {
    postcard::from_bytes::<KeyReply>(data).is_ok().into()
}

/// What the daemon tells unasked.
pub fn key_event(data: &[u8]) -> Reached {
    postcard::from_bytes::<KeyEvent>(data).is_ok().into()
}

/// What the CLI sends, with its length before it.
pub fn to_daemon(data: &[u8]) -> Reached {
    received(data)
        .and_then(|mut received| received.receive::<ToDaemon>().ok())
        .is_some()
        .into()
}

/// What the daemon sends the CLI, with its length before it.
pub fn from_daemon(data: &[u8]) -> Reached {
    received(data)
        .and_then(|mut received| received.receive::<FromDaemon>().ok())
        .is_some()
        .into()
}

/// A conversation whose other end has said this and closed.
fn received(data: &[u8]) -> Option<Conversation> {
    if data.len() > SENT_MAX {
        return None;
    }
    let (mut here, there) = UnixStream::pair().ok()?;
    setsockopt(&here, sockopt::SndBuf, &(2 * SENT_MAX)).ok()?;
    here.write_all(data).ok()?;
    here.shutdown(Shutdown::Write).ok()?;
    Conversation::new(there).ok()
}
