//! Content of open files: reads, writes and what shapes them.

use std::cell::RefCell;
use std::os::fd::AsFd;

use fuser::FileHandle;
use nix::errno::Errno;
use zeroize::Zeroize;

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
                handle.file()?.with(|content| Ok(content.read_at(offset, out)?))
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
            Access::Write => handle.file()?.maintain(|content| Ok(content.flush()?)),
        }
    }

    pub(crate) fn fsync(&self, handle: FileHandle) -> Result<(), OpError> {
        let handle = self.handle(handle)?;
        handle.file()?.sync()?;
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
                0 => Ok(content.allocate(offset, length)?),
                // Room within the file: blocks are stored where they will be, so it is below's matter.
                libc::FALLOC_FL_KEEP_SIZE => Ok(content.reserve(offset, length)?),
                PUNCH_HOLE => Ok(content.punch(offset, within)?),
                ZERO_RANGE_KEEPING_SIZE => Ok(content.punch(offset, within)?),
                libc::FALLOC_FL_ZERO_RANGE => {
                    content.punch(offset, within)?;
                    if end > content.size() {
                        content.allocate(offset, length)?;
                    }
                    Ok(())
                }
                _ => Err(Errno::EOPNOTSUPP.into()),
            }
        })?;
        Ok(())
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

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE_KEEPING_SIZE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
