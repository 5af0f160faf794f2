//! Waiting for many descriptors at once, and being woken by another thread.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Descriptors reported by one wait.
const BATCH: usize = 32;

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

/// Readable descriptors, by a number the caller chose.
pub(crate) struct Poll {
    epoll: Epoll,
    events: [EpollEvent; BATCH],
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            epoll,
            events: [EpollEvent::empty(); BATCH],
        })
    }

    /// Reports `fd` as `token` whenever it is readable, until it is closed.
    pub(crate) fn watch(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    /// No longer reports `fd`, which stays open.
    pub(crate) fn forget(&self, fd: impl AsFd) {
        // Fails only if it was not watched.
        let _ = self.epoll.delete(fd);
    }

    pub(crate) fn watch_bell(&self, bell: &Bell, token: u64) -> io::Result<()> {
        self.watch(&*bell.0, token)
    }

    /// Waits until something is readable or `until` has passed.
    pub(crate) fn wait(&mut self, until: Option<Instant>) -> io::Result<Vec<u64>> {
        match self.epoll.wait(&mut self.events, timeout(until)) {
            Ok(count) => Ok(self
                .events
                .iter()
                .take(count)
                .map(EpollEvent::data)
                .collect()),
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Rounded up: epoll counts whole milliseconds, and waking early would spin.
fn timeout(until: Option<Instant>) -> EpollTimeout {
    let Some(until) = until else {
        return EpollTimeout::NONE;
    };
    let left = until.saturating_duration_since(Instant::now());
    let whole = left + Duration::from_nanos(999_999);
    i32::try_from(whole.as_millis())
        .ok()
        .and_then(|ms| EpollTimeout::try_from(ms).ok())
        .unwrap_or(EpollTimeout::MAX)
}
