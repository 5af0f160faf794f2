//! The content of one open file, and changing a lower file without its time showing it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use claviger_vault::format::Content;
use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, fstat};

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
    /// What applications change: what is written for other reasons keeps the file's attributes, and
    /// whoever sets them or puts them back holds this meanwhile. Held over no write and no barrier, and
    /// not waited for with an [`OpenSlot`](crate::open::OpenSlot) locked: a lower filesystem may hang.
    changes: Mutex<Changes>,
    /// How many changes of content have begun.
    begun: AtomicU64,
    /// How many had begun when all of it was last durable.
    settled: AtomicU64,
    /// Something that was written waits for a barrier, and [`Linger`] knows.
    announces: AtomicBool,
    /// Where it waits, closed, for what was written to be durable.
    pub(crate) linger: Arc<Linger>,
}

/// What applications change.
#[derive(Debug, Default)]
struct Changes {
    /// Changes of content that have not ended.
    under_way: u32,
    /// How many times attributes have been set.
    sets: u64,
    /// As what the last time, unless content has been changed since.
    as_set: Option<Kept>,
}

/// How far changes had got.
#[derive(Clone, Copy, Debug)]
struct Moment {
    begun: u64,
    under_way: u32,
    sets: u64,
}

impl OpenFile {
    pub(crate) fn new(content: Box<dyn Content>, linger: Arc<Linger>) -> Self {
        Self {
            content: RwLock::new(Some(content)),
            refused: AtomicBool::new(false),
            changes: Mutex::default(),
            begun: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            announces: AtomicBool::new(false),
            linger,
        }
    }

    pub(crate) fn replace(&self, content: Box<dyn Content>) {
        let mut place = self.content.write().unwrap_or_else(PoisonError::into_inner);
        self.put_away(place.replace(content));
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
        self.put_away(content.take());
        synced
    }

    /// Refuses every use from now on, and forgets the keys unless one is under way: whoever is at it
    /// has them until he ends. Waits for nobody and writes nothing.
    pub(crate) fn wipe(&self) {
        self.refused.store(true, Ordering::Release);
        if let Ok(mut content) = self.content.try_write() {
            self.put_away(content.take());
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
        // Before `changes`, as before `content`.
        if self.refused.load(Ordering::Acquire) {
            return Err(OpError::LOCKED);
        }
        {
            let mut changes = self.changes();
            changes.under_way += 1;
            changes.as_set = None;
            self.begun.fetch_add(1, Ordering::AcqRel);
        }
        let done = self.with(work);
        self.changes().under_way -= 1;
        done
    }

    /// Sets attributes of the lower file, by any descriptor of it, on behalf of an application.
    pub(crate) fn set_attributes<T>(
        &self,
        lower: BorrowedFd<'_>,
        set: impl FnOnce() -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let mut changes = self.changes();
        let done = set();
        changes.sets += 1;
        changes.as_set = match changes.under_way {
            0 => Kept::of(lower).ok(),
            _ => None,
        };
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
        let then = self.moment();
        self.announces.store(false, Ordering::Release);
        self.maintain(|content| Ok(content.sync()?))?;
        if then.under_way == 0 {
            self.settled.store(then.begun, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the first since the last sync of what is written waits for a barrier now. Says so once.
    pub(crate) fn begins_to_announce(&self) -> bool {
        let announces = self.with(|content| {
            let settles = content.settles();
            Ok(settles.is_some_and(|settles| settles.announces()))
        });
        announces.unwrap_or(false) && !self.announces.swap(true, Ordering::AcqRel)
    }

    /// How many changes of content have begun.
    pub(crate) fn changes_begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether it may be closed for good: nothing has changed since everything was durable, or nothing
    /// is to be written once it is.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire) == self.changes_begun()
            || self
                .with(|content| Ok(content.settles().is_none()))
                .unwrap_or(true)
    }

    /// Forgets the keys, and remembers how far the file has come.
    fn put_away(&self, content: Option<Box<dyn Content>>) {
        if let Some(edition) = content.and_then(|content| content.edition()) {
            self.linger.editions.note(edition);
        }
    }

    fn moment(&self) -> Moment {
        let changes = self.changes();
        Moment {
            begun: self.changes_begun(),
            under_way: changes.under_way,
            sets: changes.sets,
        }
    }

    /// What the attributes are to be after something else was written, which began `then` when they were
    /// `before`; `None` if they are right as they are.
    fn to_put_back(&self, changes: &Changes, then: Moment, before: Kept) -> Option<Kept> {
        if changes.under_way > 0 {
            return None;
        }
        if changes.sets != then.sets {
            return changes.as_set;
        }
        let untouched = then.under_way == 0 && then.begun == self.changes_begun();
        untouched.then_some(before)
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let content = self.content.get_mut();
        let content = content.unwrap_or_else(PoisonError::into_inner).take();
        self.put_away(content);
    }
}

/// Writes to the lower file what is not its content, and puts its time and its set-id bits back: as they
/// were, or as an application has set them meanwhile; not if one has changed the content since. The lower
/// kernel clears those bits at any write of whoever is not root.
pub(crate) fn keeping_attributes<T>(
    lower: BorrowedFd<'_>,
    open: Option<&OpenFile>,
    work: impl FnOnce() -> Result<T, OpError>,
) -> Result<T, OpError> {
    // In this order: what changes in between counts as changed later.
    let then = open.map(OpenFile::moment);
    let before = Kept::of(lower)?;
    let done = work()?;
    match open.zip(then) {
        Some((open, then)) => {
            // Until it is put back nothing changes.
            let changes = open.changes();
            if let Some(kept) = open.to_put_back(&changes, then, before) {
                kept.put_back(lower)?;
            }
        }
        None => before.put_back(lower)?,
    }
    Ok(done)
}

/// Attributes that an application must not see change by themselves.
#[derive(Clone, Copy, Debug)]
struct Kept {
    mode: libc::mode_t,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Kept {
    fn of(lower: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = fstat(lower)?;
        Ok(Self {
            mode: stat.st_mode,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
        })
    }

    fn put_back(self, lower: BorrowedFd<'_>) -> Result<(), Errno> {
        let now = Self::of(lower)?;
        let cleared = self.mode & !now.mode & (libc::S_ISUID | libc::S_ISGID);
        if cleared != 0 {
            let mode = Mode::from_bits_truncate((now.mode | cleared) & 0o7777);
            fchmod(lower, mode)?;
        }
        if self.modified != now.modified {
            let (tv_sec, tv_nsec) = self.modified;
            let omit = libc::timespec {
                tv_sec: 0,
                tv_nsec: libc::UTIME_OMIT,
            };
            sys::set_times(lower, omit, libc::timespec { tv_sec, tv_nsec })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, SystemTime};

    use claviger_vault::epoch::EpochKey;
    use claviger_vault::ids::{DirId, Epoch, FileId, VolumeId};
    use claviger_vault::native::head::{self, Layer};
    use claviger_vault::native::{Feks, Links, NativeFile, PlaceKeys, PlaceSeal};
    use claviger_vault::secret::NamesKey;

    use super::*;
    use crate::syncs::Syncs;

    /// A new open file, and its lower file.
    fn open_file() -> (OpenFile, File) {
        let lower = tempfile::tempfile().unwrap();
        let (volume, file, epoch) = (VolumeId::random(), FileId::random(), Epoch::FIRST);
        let key = EpochKey::random().unwrap();
        let (head, fek) = head::fresh(volume, file, (epoch, &key), &Layer::Volume).unwrap();
        let places = PlaceKeys::new(NamesKey::new(&mut [5; 32]));
        let keys = (epoch, &places);
        let place = PlaceSeal::new(keys, &file.0, &DirId::ROOT, b"name", Links::One);
        let fd = OwnedFd::from(lower.try_clone().unwrap());
        let content = NativeFile::create(fd, &head, Feks::first(fek), place).unwrap();
        let linger = Linger::start(Syncs::new(lower.try_clone().unwrap().into())).unwrap();
        (OpenFile::new(Box::new(content), linger), lower)
    }

    fn long_ago() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(981_173_106, 123_456_789)
    }

    fn set_long_ago(lower: &File) -> Result<(), OpError> {
        lower.set_modified(long_ago()).unwrap();
        Ok(())
    }

    /// What is not content is written, and its time shows.
    fn write_something(lower: &File) -> Result<(), OpError> {
        lower.write_all_at(&[0], 4000).unwrap();
        lower.set_modified(SystemTime::now()).unwrap();
        Ok(())
    }

    #[test]
    fn what_is_not_content_leaves_the_time_as_it_was() {
        let (open, lower) = open_file();
        lower.set_modified(long_ago()).unwrap();
        open.maintain(|_| write_something(&lower)).unwrap();
        assert_eq!(lower.metadata().unwrap().modified().unwrap(), long_ago());
    }

    #[test]
    fn a_time_that_is_set_while_something_else_is_written_stays() {
        let (open, lower) = open_file();
        let modified = || lower.metadata().unwrap().modified().unwrap();
        open.maintain(|_| {
            write_something(&lower)?;
            open.set_attributes(lower.as_fd(), || set_long_ago(&lower))
        })
        .unwrap();
        assert_eq!(modified(), long_ago());
        write_something(&lower).unwrap();
        open.maintain(|_| {
            open.change(|_| write_something(&lower))?;
            open.set_attributes(lower.as_fd(), || set_long_ago(&lower))?;
            write_something(&lower)
        })
        .unwrap();
        assert_eq!(modified(), long_ago());
    }

    #[test]
    fn the_time_of_a_write_that_came_in_between_or_goes_on_stays() {
        let (open, lower) = open_file();
        lower.set_modified(long_ago()).unwrap();
        let modified = || lower.metadata().unwrap().modified().unwrap();
        open.maintain(|_| open.change(|_| write_something(&lower)))
            .unwrap();
        assert_ne!(modified(), long_ago());
        lower.set_modified(long_ago()).unwrap();
        open.change(|_| open.maintain(|_| write_something(&lower)))
            .unwrap();
        assert_ne!(modified(), long_ago());
        open.maintain(|_| {
            open.set_attributes(lower.as_fd(), || set_long_ago(&lower))?;
            open.change(|_| write_something(&lower))
        })
        .unwrap();
        assert_ne!(modified(), long_ago());
    }
}
