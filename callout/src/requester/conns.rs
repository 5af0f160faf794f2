//! Connections a requester accepted, from the first HELO on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

use crate::carrier::{Carrier, Inbox, Reception, netlink, unix};
use crate::frame::{Flags, Frame, Kind};
use crate::link::Link;
use crate::session::{Opener, Subject};

/// Where HELOs come in.
pub(super) struct Listeners {
    pub(super) netlink: Option<netlink::Port>,
    pub(super) unix: Option<unix::Listener>,
}

/// One responder, or what wants to be one.
pub(super) struct Conn {
    /// Whose it is. Frames of any other uid are dropped unread.
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
    Answered(Arc<Link>, Opener),
    /// Has the seat of its uid.
    Registered(Arc<Link>, Opener),
}

/// What a connection had to say.
pub(super) enum Heard {
    /// Nothing more now.
    Nothing,
    /// Something that is not for us.
    Dropped,
    /// The first HELO, in the clear.
    Helo(Vec<u8>),
    /// A frame that the peer sealed, and its pid.
    Sealed(Subject, Zeroizing<Vec<u8>>, i32),
    /// Its end.
    Closed,
}

impl Conn {
    pub(super) fn is_registered(&self) -> bool {
        matches!(self.phase, Phase::Registered(..))
    }

    pub(super) fn carrier(&self) -> &dyn Carrier {
        match &self.phase {
            Phase::Accepted(unix) => unix,
            Phase::Answered(link, _) | Phase::Registered(link, _) => link.carrier(),
        }
    }

    /// Takes one frame. The sender's uid is checked before a byte of it is looked at.
    pub(super) fn hear(&mut self, inbox: &mut Inbox) -> Heard {
        let (sender, datagram) = match self.carrier().receive(inbox) {
            Ok(Reception::Datagram(sender, datagram)) => (sender, datagram),
            Ok(Reception::Foreign(why)) => {
                tracing::debug!(uid = self.uid, why, "message dropped");
                return Heard::Dropped;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
            Ok(Reception::Closed) | Err(_) => return Heard::Closed,
        };
        if sender.uid != self.uid {
            tracing::debug!(
                uid = self.uid,
                sender = sender.uid,
                "message of another uid dropped"
            );
            return Heard::Dropped;
        }
        let frame = match Frame::parse(datagram) {
            Ok(frame) if frame.header.port == sender.port => frame,
            Ok(_) | Err(_) => return Heard::Dropped,
        };
        match &mut self.phase {
            Phase::Accepted(_) if is_first_helo(&frame) => Heard::Helo(frame.body.to_vec()),
            Phase::Accepted(_) => Heard::Dropped,
            Phase::Answered(_, opener) | Phase::Registered(_, opener) => {
                match opener.open(&frame) {
                    Ok((subject, body)) => Heard::Sealed(subject, body, sender.pid),
                    Err(error) => {
                        tracing::debug!(uid = self.uid, %error, "frame dropped");
                        Heard::Dropped
                    }
                }
            }
        }
    }
}

/// Whether this is a responder's greeting.
pub(super) fn is_first_helo(frame: &Frame<'_>) -> bool {
    frame.header.kind == Kind::Helo && frame.header.flags == Flags::NONE
}

impl AsFd for Conn {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.carrier().fd()
    }
}
