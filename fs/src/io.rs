//! Content of open files: reads, writes and what shapes them.

use std::cell::RefCell;

use claviger_vault::native::{NativeFile, PAGE};
use fuser::FileHandle;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::attributes::touch;
use crate::caller::{Caller, SuidOnChange};
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::open::{Access, Handle};

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
        let file = handle.file()?;
        file.change(|content| {
            if suid == SuidOnChange::Clear {
                self.clear_suid(content.lower())?;
            }
            Ok(content.write_at(offset, data)?)
        })?;
        Ok(())
    }

    /// At each close(2): the sizes below are right, for whoever looks at the lower folder next.
    pub(crate) fn flush(&self, handle: FileHandle) -> Result<(), OpError> {
        let handle = self.handle(handle)?;
        match handle.access {
            Access::Read => Ok(()),
            Access::Write => handle.file()?.flush(),
        }
    }

    pub(crate) fn fsync(&self, handle: FileHandle) -> Result<(), OpError> {
        let handle = self.handle(handle)?;
        handle.file()?.sync()?;
        handle.inode().is_synced();
        match handle.inode().place() {
            Some(place) => self.sync_above(&place.parent),
            None => Ok(()),
        }
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
        open.file().change(|content| {
            if caller.suid_on_change() == SuidOnChange::Clear {
                self.clear_suid(content.lower())?;
            }
            let within = content.size().saturating_sub(offset).min(length);
            match mode {
                0 => {
                    reserve(content, offset, end)?;
                    content.allocate(offset, length)?;
                }
                libc::FALLOC_FL_KEEP_SIZE => reserve(content, offset, end)?,
                PUNCH_HOLE | ZERO_RANGE_KEEPING_SIZE => content.punch(offset, within)?,
                libc::FALLOC_FL_ZERO_RANGE => {
                    content.punch(offset, within)?;
                    if end > content.size() {
                        reserve(content, offset, end)?;
                        content.allocate(offset, length)?;
                    }
                }
                _ => return Err(Errno::EOPNOTSUPP.into()),
            }
            // Below, it may have changed nothing yet.
            Ok(touch(content.lower())?)
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
        let found = handle.file()?.with(|content| match whence {
            libc::SEEK_DATA => Ok(content.seek_data(offset)?),
            libc::SEEK_HOLE => Ok(content.seek_hole(offset)?),
            _ => Err(Errno::EINVAL.into()),
        })?;
        let found = found.ok_or(Errno::ENXIO)?;
        Ok(i64::try_from(found).map_err(|_| Errno::EOVERFLOW)?)
    }

    pub(crate) fn handle(&self, handle: FileHandle) -> Result<std::sync::Arc<Handle>, OpError> {
        self.files.find(handle).ok_or(OpError::Errno(Errno::EBADF))
    }
}

/// Reserves lower room for the blocks of a range, wherever they will be: a block is at least as far
/// into the lower file as into the upper one, and at most by its header pages and one slot page for
/// each segment of 64 further. The lower length stays as it is.
fn reserve(content: &NativeFile, offset: u64, end: u64) -> Result<(), Errno> {
    let page = PAGE as u64;
    let end = end
        .checked_add((end / (64 * page) + 3) * page)
        .ok_or(Errno::EFBIG)?;
    let start = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
    let len = i64::try_from(end - offset).map_err(|_| Errno::EFBIG)?;
    fallocate(
        content.lower(),
        FallocateFlags::FALLOC_FL_KEEP_SIZE,
        start,
        len,
    )
}

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE_KEEPING_SIZE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
