//! The receiving side of one connection, and its end.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::carrier::{Carrier, Inbox, Reception};
use crate::frame::Frame;
use crate::link::{Link, LinkId};
use crate::session::{Opener, Sealer, Subject};

/// Hears one peer. Dropping it closes the connection, whoever still holds the [`Link`].
pub(crate) struct Ear {
    link: Arc<Link>,
    carrier: Arc<dyn Carrier>,
    opener: Opener,
    /// Whose it is. Frames of any other uid are dropped unread.
    uid: u32,
    /// Heard already, by one whom it did not concern. Boxed, since there is seldom one.
    put_back: Option<Box<Heard>>,
}

/// What a peer had to say.
pub(crate) enum Heard {
    /// Nothing more now.
    Nothing,
    /// Something that is not for us.
    Dropped,
    /// A frame that it sealed, and its pid.
    Sealed(Subject, Zeroizing<Vec<u8>>, i32),
    /// Its end.
    Closed,
}

/// A connection as it comes off its carrier, its sender's uid being the right one.
pub(crate) enum Received<'a> {
    Nothing,
    Dropped,
    Frame(Frame<'a>, i32),
    Closed,
}

/// Whether there may be more to hear.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Perhaps,
    Nothing,
}

/// Most frames taken from a connection at its end: another process may hold the socket, and go on.
const LAST_FRAMES: usize = 32;

/// Hears what a process sent before it ended.
pub(crate) fn drain(mut hear: impl FnMut() -> Left) {
    let _ = (0..LAST_FRAMES).find(|_| hear() == Left::Nothing);
}

impl Ear {
    /// Both sides of a connection with `uid`.
    pub(crate) fn new(
        id: LinkId,
        uid: u32,
        carrier: Box<dyn Carrier>,
        (sealer, opener): (Sealer, Opener),
    ) -> Self {
        let carrier = Arc::from(carrier);
        let link = Arc::new(Link::new(id, Arc::clone(&carrier), sealer));
        Self {
            link,
            carrier,
            opener,
            uid,
            put_back: None,
        }
    }

    /// The sending side.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.carrier.fd()
    }

    /// Leaves what was heard to the next who listens.
    pub(crate) fn put_back(&mut self, heard: Heard) {
        self.put_back = Some(Box::new(heard));
    }

    /// Whether the next who listens hears something that epoll does not know of.
    pub(crate) fn has_put_back(&self) -> bool {
        self.put_back.is_some()
    }

    /// Takes one frame.
    pub(crate) fn hear(&mut self, inbox: &mut Inbox) -> Heard {
        if let Some(heard) = self.put_back.take() {
            return *heard;
        }
        match receive(&*self.carrier, self.uid, inbox) {
            Received::Nothing => Heard::Nothing,
            Received::Dropped => Heard::Dropped,
            Received::Closed => Heard::Closed,
            Received::Frame(frame, pid) => match self.opener.open(&frame) {
                Ok((subject, body)) => Heard::Sealed(subject, body, pid),
                Err(error) => {
                    tracing::debug!(uid = self.uid, %error, "frame dropped");
                    Heard::Dropped
                }
            },
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.link.close();
    }
}

/// Takes one frame of `uid`. The sender is checked before a byte of it is looked at.
pub(crate) fn receive<'a>(carrier: &dyn Carrier, uid: u32, inbox: &'a mut Inbox) -> Received<'a> {
    let (sender, datagram) = match carrier.receive(inbox) {
        Ok(Reception::Datagram(sender, datagram)) => (sender, datagram),
        Ok(Reception::Foreign(why)) => {
            tracing::debug!(uid, why, "message dropped");
            return Received::Dropped;
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Received::Nothing,
        Ok(Reception::Closed) | Err(_) => return Received::Closed,
    };
    // Debug, as with all that a stranger can cause: he must not fill the log.
    if sender.uid != uid {
        tracing::debug!(uid, sender = sender.uid, "message of another uid dropped");
        return Received::Dropped;
    }
    match Frame::parse(datagram) {
        Ok(frame) if frame.header.port == sender.port => Received::Frame(frame, sender.pid),
        Ok(_) | Err(_) => Received::Dropped,
    }
}
