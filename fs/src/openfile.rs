//! The content of one open file, and changing a lower file without its time showing it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, TryLockError};

use claviger_vault::format::Content;
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};

use crate::failure::OpError;
use crate::linger::Linger;
use crate::sys;

/// The content of one open file.
pub(crate) struct OpenFile {
    /// `None` once the volume has been locked.
    content: RwLock<Option<Box<dyn Content>>>,
    /// The volume is being locked. Looked at before `content` is, so that nobody queues up behind a
    /// lock that waits for a lower filesystem that hangs.
    refused: AtomicBool,
    /// Changes of content begun and ended: what is written for other reasons keeps the file's time.
    begun: AtomicU64,
    ended: AtomicU64,
    /// How many had begun when all of it was last durable.
    settled: AtomicU64,
    /// Where it waits, closed, for what was written to be durable.
    pub(crate) linger: Arc<Linger>,
}

impl OpenFile {
    pub(crate) fn new(content: Box<dyn Content>, linger: Arc<Linger>) -> Self {
        Self {
            content: RwLock::new(Some(content)),
            refused: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            linger,
        }
    }

    pub(crate) fn replace(&self, content: Box<dyn Content>) {
        *self.content.write().unwrap_or_else(PoisonError::into_inner) = Some(content);
    }

    /// Refuses every use from now on, waits for those under way, makes what they wrote durable and
    /// forgets the keys.
    pub(crate) fn close(&self) -> Result<(), OpError> {
        self.refused.store(true, Ordering::Release);
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        let synced = match content.as_ref() {
            Some(content) => {
                keeping_attributes(content.as_fd(), Some(self), || Ok(content.sync()?))
            }
            None => Ok(()),
        };
        *content = None;
        synced
    }

    /// Refuses every use from now on, and forgets the keys unless one is under way: whoever is at it
    /// has them until he ends. Waits for nobody and writes nothing.
    pub(crate) fn wipe(&self) {
        self.refused.store(true, Ordering::Release);
        if let Ok(mut content) = self.content.try_write() {
            *content = None;
        }
    }

    /// Whether the content is still there, to anybody.
    pub(crate) fn lingers(&self) -> bool {
        match self.content.try_read() {
            Ok(content) => content.is_some(),
            Err(TryLockError::Poisoned(content)) => content.into_inner().is_some(),
            Err(TryLockError::WouldBlock) => true,
        }
    }

    /// Uses the content. Many may at once; a lock of the volume waits for them.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&dyn Content) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        if self.refused.load(Ordering::Acquire) {
            return Err(OpError::LOCKED);
        }
        let content = self.content.read().unwrap_or_else(PoisonError::into_inner);
        work(content.as_deref().ok_or(OpError::LOCKED)?)
    }

    /// Changes the content on behalf of an application.
    pub(crate) fn change<T>(
        &self,
        work: impl FnOnce(&dyn Content) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        self.begun.fetch_add(1, Ordering::AcqRel);
        let done = self.with(work);
        self.ended.fetch_add(1, Ordering::AcqRel);
        done
    }

    /// Writes what is to be written anyway. An application that has set the file's time, or has gone
    /// on and compares it, must not see it move: it is put back unless content changed meanwhile.
    pub(crate) fn maintain<T>(
        &self,
        work: impl FnOnce(&dyn Content) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        self.with(|content| keeping_attributes(content.as_fd(), Some(self), || work(content)))
    }

    /// Makes everything durable, and has the lower file say so.
    pub(crate) fn sync(&self) -> Result<(), OpError> {
        let begun = self.begun.load(Ordering::Acquire);
        let idle = begun == self.ended.load(Ordering::Acquire);
        self.maintain(|content| Ok(content.sync()?))?;
        if idle {
            self.settled.store(begun, Ordering::Release);
        }
        Ok(())
    }

    /// How many changes have begun.
    pub(crate) fn changes(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether it may be closed for good: nothing has changed since everything was durable, or nothing
    /// is to be written once it is.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire) == self.begun.load(Ordering::Acquire)
            || self
                .with(|content| Ok(content.settles().is_none()))
                .unwrap_or(true)
    }
}

/// Writes to the lower file what is not its content, and puts its time and its set-id bits back, unless
/// an application has changed the content meanwhile. The lower kernel clears those bits at any write of
/// whoever is not root.
pub(crate) fn keeping_attributes<T>(
    lower: BorrowedFd<'_>,
    open: Option<&OpenFile>,
    work: impl FnOnce() -> Result<T, OpError>,
) -> Result<T, OpError> {
    let changes = || {
        open.map(|open| {
            (
                open.begun.load(Ordering::Acquire),
                open.ended.load(Ordering::Acquire),
            )
        })
    };
    let changes_before = changes();
    let idle = changes_before.is_none_or(|(begun, ended)| begun == ended);
    let before = fstat(lower)?;
    let done = work()?;
    let after = fstat(lower)?;
    let modified = |stat: &FileStat| (stat.st_mtime, stat.st_mtime_nsec);
    if !idle || changes() != changes_before {
        return Ok(done);
    }
    let cleared = before.st_mode & !after.st_mode & (libc::S_ISUID | libc::S_ISGID);
    if cleared != 0 {
        let mode = Mode::from_bits_truncate((after.st_mode | cleared) & 0o7777);
        fchmod(lower, mode)?;
    }
    if modified(&before) != modified(&after) {
        let (tv_sec, tv_nsec) = modified(&before);
        let omit = libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        };
        sys::set_times(lower, omit, libc::timespec { tv_sec, tv_nsec })?;
    }
    Ok(done)
}
