//! Connections a requester accepted, from the first HELO on.

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

/// One responder, or what wants to be one.
pub(super) struct Conn {
    /// Whose it is.
    pub(super) uid: u32,
    pub(super) since: Instant,
    pub(super) phase: Phase,
    /// Netlink only: readable once the responder's process has ended.
    pub(super) _process: Option<OwnedFd>,
}

pub(super) enum Phase {
    /// Connected, and said nothing yet.
    Accepted(unix::Unix),
    /// Has our answer; must show that it holds the session's keys.
    Answered(Ear),
    /// Has the seat of its uid.
    Registered(Ear),
}

/// What a connection had to say.
pub(super) enum Said {
    /// The first HELO, in the clear.
    Helo(Vec<u8>),
    /// Anything after the handshake's beginning.
    Heard(Heard),
}

impl Conn {
    pub(super) fn is_registered(&self) -> bool {
        matches!(self.phase, Phase::Registered(_))
    }

    /// Takes one frame.
    pub(super) fn hear(&mut self, inbox: &mut Inbox) -> Said {
        match &mut self.phase {
            Phase::Answered(ear) | Phase::Registered(ear) => Said::Heard(ear.hear(inbox)),
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

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.phase {
            Phase::Accepted(unix) => unix.fd(),
            Phase::Answered(ear) | Phase::Registered(ear) => ear.fd(),
        }
    }
}
