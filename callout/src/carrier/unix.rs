//! `AF_UNIX` `SEQPACKET`: a connection, so its end is noticed at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, getsockopt,
    listen, send, setsockopt, socket, sockopt,
};

use super::{Carrier, CarrierKind, Inbox, Reception, send_error};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Accepts connections on a path.
pub(crate) struct Listener(UnixListener);

impl Listener {
    /// Binds `path`, which must not exist, and listens.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let fd = open_socket()?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        // std has no SEQPACKET; its listener is any listening unix socket, and gives `accept` safely.
        Ok(Self(UnixListener::from(fd)))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes one connection, and the uid that made it.
    pub(crate) fn accept(&self) -> io::Result<(Unix, u32)> {
        let (stream, _) = self.0.accept()?;
        stream.set_nonblocking(true)?;
        let fd = OwnedFd::from(stream);
        setsockopt(&fd, sockopt::PassCred, &true)?;
        let uid = getsockopt(&fd, sockopt::PeerCredentials)?.uid();
        Ok((Unix(fd), uid))
    }
}

/// One end of a connection.
pub(crate) struct Unix(OwnedFd);

impl Unix {
    /// Connects to a listener's path.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let fd = open_socket()?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(fd))
    }
}

impl Carrier for Unix {
    fn kind(&self) -> CarrierKind {
        CarrierKind::Unix
    }

    fn port(&self) -> u32 {
        0
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.0.as_raw_fd(), datagram, flags).map_err(send_error)?;
        Ok(())
    }

    fn receive<'a>(&self, inbox: &'a mut Inbox) -> io::Result<Reception<'a>> {
        inbox.receive(self.fd())
    }
}

fn open_socket() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    setsockopt(&fd, sockopt::PassCred, &true)?;
    Ok(fd)
}
