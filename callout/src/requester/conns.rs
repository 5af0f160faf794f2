//! Connections a requester accepted, and where they come in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use crate::carrier::{Carrier, Inbox, netlink, unix};
use crate::ear::{self, Ear, Heard, Received};
use crate::frame::{Flags, Frame, Kind};

/// Where HELOs come in.
pub(super) struct Listeners {
    pub(super) netlink: Option<netlink::Port>,
    pub(super) unix: Option<unix::Listener>,
}

/// What wants to be a responder.
pub(super) struct Newcomer {
    /// Whose it is.
    pub(super) uid: u32,
    pub(super) since: Instant,
    pub(super) phase: Phase,
}

pub(super) enum Phase {
    /// Connected, and said nothing yet.
    Accepted(unix::Unix),
    /// Has our answer; must show that it holds the session's keys.
    Answered(Ear),
}

/// A responder: its ear is in the seat of its uid.
pub(super) struct Registered {
    pub(super) uid: u32,
    /// Netlink only: readable once the responder's process has ended.
    pub(super) _process: Option<OwnedFd>,
}

/// What a connection had to say.
pub(super) enum Said {
    /// The first HELO, in the clear.
    Helo(Vec<u8>),
    /// Anything after the handshake's beginning.
    Heard(Heard),
}

impl Newcomer {
    /// Takes one frame.
    pub(super) fn hear(&mut self, inbox: &mut Inbox) -> Said {
        match &mut self.phase {
            Phase::Answered(ear) => Said::Heard(ear.hear(inbox)),
            Phase::Accepted(unix) => match ear::receive(unix, self.uid, inbox) {
                Received::Frame(frame, _) if is_first_helo(&frame) => {
                    Said::Helo(frame.body.to_vec())
                }
                Received::Frame(..) | Received::Dropped => Said::Heard(Heard::Dropped),
                Received::Nothing => Said::Heard(Heard::Nothing),
                Received::Closed => Said::Heard(Heard::Closed),
            },
        }
    }
}

/// Whether this is a responder's greeting.
pub(super) fn is_first_helo(frame: &Frame<'_>) -> bool {
    frame.header.kind == Kind::Helo && frame.header.flags == Flags::NONE
}

impl AsFd for Newcomer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.phase {
            Phase::Accepted(unix) => unix.fd(),
            Phase::Answered(ear) => ear.fd(),
        }
    }
}
