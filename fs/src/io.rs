//! Content of open files: reads, writes and what shapes them.

use std::cell::RefCell;

use fuser::FileHandle;
use nix::errno::Errno;

use crate::attributes::touch;
use crate::caller::{Caller, SuidOnChange};
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::open::Handle;

thread_local! {
    /// What a read decrypts into, and its reply is written from.
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl VolumeFs {
    /// Reads, and calls `answer` with the plaintext while it is in this thread's buffer.
    pub(crate) fn read(
        &self,
        handle: FileHandle,
        offset: u64,
        size: usize,
        answer: impl FnOnce(Result<&[u8], OpError>),
    ) {
        PLAIN.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let (out, _) = buffer.split_at_mut(size);
            let read = self.handle(handle).and_then(|handle| {
                handle
                    .file()?
                    .with(|content| Ok(content.read_at(offset, out)?))
            });
            answer(read.map(|len| out.split_at(len).0));
        });
    }

    pub(crate) fn write(
        &self,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        suid: SuidOnChange,
    ) -> Result<(), OpError> {
        let handle = self.handle(handle)?;
        handle.file()?;
        handle.open.change(|content| {
            if suid == SuidOnChange::Clear {
                self.clear_suid(content.as_fd())?;
            }
            Ok(content.write_at(offset, data)?)
        })?;
        Ok(())
    }

    pub(crate) fn fsync(&self, handle: FileHandle) -> Result<(), OpError> {
        let handle = self.handle(handle)?;
        handle.inode().is_synced();
        handle.file()?.sync()?;
        // By whichever name it is looked for.
        let places = handle.inode().places().clone();
        let mut parents = places.iter().map(|place| &place.parent);
        parents.try_for_each(|parent| self.sync_above(parent))
    }

    pub(crate) fn fallocate(
        &self,
        caller: Caller,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), OpError> {
        let handle = self.handle(handle)?;
        let open = handle.writable()?;
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        open.change(|content| {
            if caller.suid_on_change() == SuidOnChange::Clear {
                self.clear_suid(content.as_fd())?;
            }
            let ranges = content.ranges().ok_or(Errno::EOPNOTSUPP)?;
            let within = content.size().saturating_sub(offset).min(length);
            match mode {
                0 => {
                    ranges.reserve(offset, end)?;
                    ranges.allocate(offset, length)?;
                }
                libc::FALLOC_FL_KEEP_SIZE => ranges.reserve(offset, end)?,
                PUNCH_HOLE | ZERO_RANGE_KEEPING_SIZE => ranges.punch(offset, within)?,
                libc::FALLOC_FL_ZERO_RANGE => {
                    ranges.punch(offset, within)?;
                    if end > content.size() {
                        ranges.reserve(offset, end)?;
                        ranges.allocate(offset, length)?;
                    }
                }
                _ => return Err(Errno::EOPNOTSUPP.into()),
            }
            // Below, it may have changed nothing yet.
            Ok(touch(content.as_fd())?)
        })
    }

    pub(crate) fn lseek(
        &self,
        handle: FileHandle,
        offset: i64,
        whence: i32,
    ) -> Result<i64, OpError> {
        let handle = self.handle(handle)?;
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let found = handle
            .file()?
            .with(|content| match (whence, content.ranges()) {
                (libc::SEEK_DATA, Some(ranges)) => Ok(ranges.seek_data(offset)?),
                (libc::SEEK_HOLE, Some(ranges)) => Ok(ranges.seek_hole(offset)?),
                // Without holes all of it is data, and the end is the only hole.
                (libc::SEEK_DATA, None) => Ok((offset < content.size()).then_some(offset)),
                (libc::SEEK_HOLE, None) => Ok((offset < content.size()).then_some(content.size())),
                _ => Err(Errno::EINVAL.into()),
            })?;
        let found = found.ok_or(Errno::ENXIO)?;
        Ok(i64::try_from(found).map_err(|_| Errno::EOVERFLOW)?)
    }

    pub(crate) fn handle(&self, handle: FileHandle) -> Result<std::sync::Arc<Handle>, OpError> {
        self.files.find(handle).ok_or(OpError::Errno(Errno::EBADF))
    }
}

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE_KEEPING_SIZE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
