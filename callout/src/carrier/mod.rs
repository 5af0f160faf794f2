//! What moves frames: a connected, unordered-at-worst, message-keeping channel between two
//! processes, on which the kernel names the sender's uid with every message.

pub(crate) mod netlink;
pub(crate) mod unix;

use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrLike, SockaddrStorage, UnixCredentials, recvmsg,
};

use crate::frame::FRAME_MAX;
use crate::peer::Sender;

/// What frames travel over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CarrierKind {
    /// `NETLINK_USERSOCK` unicast.
    Netlink,
    /// `AF_UNIX` `SEQPACKET`.
    Unix,
}

impl fmt::Display for CarrierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netlink => "netlink",
            Self::Unix => "unix",
        })
    }
}

/// Which carriers one end offers or takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Netlink where both ends share network and pid namespaces, else or failing that unix.
    #[default]
    Auto,
    /// Netlink only.
    Netlink,
    /// Unix only.
    Unix,
}

impl Transport {
    pub(crate) fn allows(self, kind: CarrierKind) -> bool {
        match (self, kind) {
            (Self::Auto, _)
            | (Self::Netlink, CarrierKind::Netlink)
            | (Self::Unix, CarrierKind::Unix) => true,
            (Self::Netlink, CarrierKind::Unix) | (Self::Unix, CarrierKind::Netlink) => false,
        }
    }
}

/// One end of a connected channel. Neither call blocks.
pub(crate) trait Carrier: Send + Sync {
    fn kind(&self) -> CarrierKind;

    /// This end's netlink port id; 0 on a unix socket.
    fn port(&self) -> u32;

    fn fd(&self) -> BorrowedFd<'_>;

    /// Sends one datagram: [`io::ErrorKind::WouldBlock`] if there is no room for it now, `EMSGSIZE` if
    /// there never is, any other error if the peer is gone.
    fn send(&self, datagram: &[u8]) -> io::Result<()>;

    /// Takes one datagram: [`io::ErrorKind::WouldBlock`] if there is none.
    fn receive<'a>(&self, inbox: &'a mut Inbox) -> io::Result<Reception<'a>>;
}

/// A send's error, with the kernel's want of memory as what it is: no room now.
fn send_error(error: Errno) -> io::Error {
    match error {
        Errno::ENOBUFS | Errno::ENOMEM => io::ErrorKind::WouldBlock.into(),
        error => error.into(),
    }
}

/// What a receive found.
#[derive(Debug)]
pub(crate) enum Reception<'a> {
    /// A datagram and who sent it. Its contents are not looked at yet.
    Datagram(Sender, &'a [u8]),
    /// A message that cannot be a frame from the peer: too long, without credentials, or from a
    /// socket that is not the peer's. Says which.
    Foreign(&'static str),
    /// The peer closed its end.
    Closed,
}

/// Buffers to receive into; one a thread.
pub(crate) struct Inbox {
    datagram: Box<[u8]>,
    control: Vec<u8>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            datagram: vec![0; FRAME_MAX].into_boxed_slice(),
            // Room for credentials and nothing else: descriptors somebody passes do not fit, and the
            // kernel closes them.
            control: nix::cmsg_space!(UnixCredentials),
        }
    }

    /// Takes one datagram off `socket`. A length of 0 is passed on as such.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Reception<'_>> {
        let mut parts = [IoSliceMut::new(&mut self.datagram)];
        let message = recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut self.control),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let message = match message {
            Ok(message) => message,
            // Netlink saying that it dropped something meant for us: for its sender to notice.
            Err(Errno::ENOBUFS) => return Ok(Reception::Foreign("overrun")),
            Err(Errno::ECONNRESET | Errno::EPIPE) => return Ok(Reception::Closed),
            Err(error) => return Err(error.into()),
        };
        if message.flags.contains(MsgFlags::MSG_TRUNC) {
            return Ok(Reception::Foreign("longer than any frame"));
        }
        let len = message.bytes;
        if len == 0 {
            return Ok(Reception::Closed);
        }
        let credentials = message.cmsgs().ok().and_then(|mut controls| {
            controls.find_map(|control| match control {
                ControlMessageOwned::ScmCredentials(credentials) => Some(credentials),
                _ => None,
            })
        });
        let Some(credentials) = credentials else {
            return Ok(Reception::Foreign("no credentials"));
        };
        let port = message
            .address
            .as_ref()
            .filter(|address| address.family() == Some(nix::sys::socket::AddressFamily::Netlink))
            .and_then(SockaddrStorage::as_netlink_addr)
            .map_or(0, |address| address.pid());
        let sender = Sender {
            uid: credentials.uid(),
            pid: credentials.pid(),
            port,
        };
        let (datagram, _) = self.datagram.split_at(len);
        Ok(Reception::Datagram(sender, datagram))
    }
}
