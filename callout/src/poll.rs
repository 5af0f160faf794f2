//! Waiting for many descriptors at once, and being woken by another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::link::LinkId;
use crate::sys::pidfd_open;

/// Descriptors reported by one wait.
const BATCH: usize = 32;

/// First of the numbers that [`Source`]s of links have.
const LINKS: u64 = 16;

/// A bell another thread rings.
#[derive(Clone)]
pub(crate) struct Bell(Arc<EventFd>);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    pub(crate) fn ring(&self) {
        // Fails only when 2⁶⁴ − 2 rings are unheard, and then the sleeper wakes anyway.
        let _ = self.0.write(1);
    }

    pub(crate) fn silence(&self) {
        // Fails only when nobody rang.
        let _ = self.0.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the threads of this crate wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Other threads left something to do.
    Bell,
    /// A HELO came to the netlink port.
    NetlinkPort,
    /// Somebody connects to the unix socket.
    UnixListener,
    /// A rendezvous folder changed.
    Folders,
    /// The kernel asks.
    Device,
    /// A link's frames.
    Frames(LinkId),
    /// The process at the far end of a link, which has ended.
    Process(LinkId),
}

impl Source {
    /// As epoll keeps it: the first few, then two numbers a link.
    fn number(self) -> u64 {
        match self {
            Self::Bell => 0,
            Self::NetlinkPort => 1,
            Self::UnixListener => 2,
            Self::Folders => 3,
            Self::Device => 4,
            Self::Frames(id) => LINKS + 2 * id.number(),
            Self::Process(id) => LINKS + 2 * id.number() + 1,
        }
    }

    fn of_number(number: u64) -> Self {
        match number {
            1 => Self::NetlinkPort,
            2 => Self::UnixListener,
            3 => Self::Folders,
            4 => Self::Device,
            LINKS.. => {
                let id = LinkId::new((number - LINKS) / 2);
                match number.is_multiple_of(2) {
                    true => Self::Frames(id),
                    false => Self::Process(id),
                }
            }
            // 0, and nothing else is ever kept.
            _ => Self::Bell,
        }
    }
}

/// Descriptors and what they are. Clones are the same set.
#[derive(Clone)]
pub(crate) struct Poll(Arc<Epoll>);

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?)))
    }

    /// Reports `source` whenever `fd` is readable, until it is closed.
    pub(crate) fn watch(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, source.number());
        Ok(self.0.add(fd, event)?)
    }

    /// Reports the end of the process at the far end of `link`, until what this returns is dropped.
    ///
    /// For netlink, which tells nobody that a peer is gone. The pid is only a hint: one that is not
    /// known here leaves `ECONNREFUSED` and deadlines to tell.
    pub(crate) fn watch_process(&self, link: LinkId, pid: i32) -> Option<OwnedFd> {
        let process = pidfd_open(pid).ok()?;
        self.watch(&process, Source::Process(link)).ok()?;
        Some(process)
    }

    /// No longer reports `fd`, which stays open.
    pub(crate) fn forget(&self, fd: impl AsFd) {
        // Fails only if it was not watched.
        let _ = self.0.delete(fd);
    }

    /// Waits until something is readable or `until` has passed.
    pub(crate) fn wait(&self, until: Option<Instant>) -> io::Result<Vec<Source>> {
        let mut events = [EpollEvent::empty(); BATCH];
        match self.0.wait(&mut events, timeout(until)) {
            Ok(count) => Ok(events
                .iter()
                .take(count)
                .map(|event| Source::of_number(event.data()))
                .collect()),
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What ended a wait for one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// It is readable, or its end has come.
    Readable,
    /// The bell rang.
    Bell,
    /// Neither in time.
    Late,
}

/// Waits for one descriptor, for a thread that is no event loop.
pub(crate) fn wait_for(fd: BorrowedFd<'_>, bell: &Bell, until: Instant) -> Woken {
    let mut fds = [
        PollFd::new(fd, PollFlags::POLLIN),
        PollFd::new(bell.as_fd(), PollFlags::POLLIN),
    ];
    while Instant::now() < until {
        match nix::poll::poll(&mut fds, timeout(Some(until))) {
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => break,
            Ok(_) => {
                let [_, bell] = fds;
                return match bell.any() {
                    Some(true) => Woken::Bell,
                    Some(false) | None => Woken::Readable,
                };
            }
        }
    }
    Woken::Late
}

/// Rounded up: poll and epoll count whole milliseconds, and waking early would spin.
fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else {
        return PollTimeout::NONE;
    };
    let left = until.saturating_duration_since(Instant::now());
    let whole = left + Duration::from_nanos(999_999);
    i32::try_from(whole.as_millis())
        .ok()
        .and_then(|ms| PollTimeout::try_from(ms).ok())
        .unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_readable_without_end_keeps_nobody_beyond_his_time_or_from_the_bell() {
        let (readable, bell) = (Bell::new().unwrap(), Bell::new().unwrap());
        readable.ring();
        let later = Instant::now() + Duration::from_secs(3600);
        let wait = |until| wait_for(readable.as_fd(), &bell, until);
        assert_eq!(wait(later), Woken::Readable);
        assert_eq!(wait(Instant::now()), Woken::Late);
        bell.ring();
        assert_eq!(wait(later), Woken::Bell);
    }

    #[test]
    fn a_source_and_its_number_are_one_to_one() {
        let link = LinkId::new;
        for source in [
            Source::Bell,
            Source::NetlinkPort,
            Source::UnixListener,
            Source::Folders,
            Source::Device,
            Source::Frames(link(0)),
            Source::Process(link(0)),
            Source::Frames(link(7)),
            Source::Process(link(7)),
        ] {
            assert_eq!(Source::of_number(source.number()), source);
        }
    }
}
