//! The lower file: reads that end at the end of the file, writes that are whole.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::uio;
use nix::unistd::{Whence, lseek64};

use super::octets::Octets;

/// An open lower file. Its file position is of no meaning.
#[derive(Debug)]
pub(super) struct Lower {
    file: File,
    /// What was done to the file, for tests that crash it.
    #[cfg(test)]
    pub(super) trace: Option<std::sync::Arc<trace::Trace>>,
}

impl Lower {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            file: File::from(fd),
            #[cfg(test)]
            trace: None,
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Reads up to the end of `out` or of the file, whichever is first.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        read_at(self.as_fd(), offset, out)
    }

    /// Reads into `pieces` one after the other; what lies behind the end of the file is zero.
    pub(super) fn read_pieces(
        &self,
        offset: u64,
        mut pieces: &mut [IoSliceMut<'_>],
    ) -> io::Result<()> {
        let mut offset = offset;
        loop {
            match uio::preadv(&self.file, pieces, offset as i64) {
                Ok(0) => break,
                Ok(read) => {
                    offset += read as u64;
                    IoSliceMut::advance_slices(&mut pieces, read);
                    if pieces.is_empty() {
                        return Ok(());
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        for piece in pieces {
            piece.fill(0);
        }
        Ok(())
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Ok(self.write(offset, bytes)?)
    }

    /// Writes all of `bytes`, or tells how much of them.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), ShortWrite> {
        #[cfg(test)]
        let (bytes, refused) = self.split_where_full(offset, bytes);
        #[cfg(test)]
        self.note(|| trace::Event::Write {
            offset,
            bytes: bytes.to_vec(),
        });
        write(self.as_fd(), offset, bytes)?;
        #[cfg(test)]
        if !refused.is_empty() {
            let (written, error) = (bytes.len(), io::ErrorKind::StorageFull.into());
            return Err(ShortWrite { written, error });
        }
        Ok(())
    }

    /// A barrier: all that was written is durable when this returns without error.
    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        self.note(|| trace::Event::Barrier);
        #[cfg(test)]
        self.fail_if_told()?;
        self.file.sync_data()
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.note(|| trace::Event::SetLen(len));
        self.file.set_len(len)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Gives back the space of `len` bytes. They read as zeros, or as before where the lower
    /// filesystem has no holes: nothing reads them any more.
    pub(super) fn free(&self, offset: u64, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.note(|| trace::Event::Free { offset, len });
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, offset as i64, len as i64) {
            Ok(()) | Err(nix::Error::EOPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The first offset from `offset` on that is not in a hole, or none.
    pub(super) fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match lseek64(&self.file, offset as i64, Whence::SeekData) {
            Ok(data) => Ok(Some(data as u64)),
            Err(nix::Error::ENXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Reads up to the end of `out` or of the file, whichever is first.
pub(crate) fn read_at(fd: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some((_, rest)) = out
        .split_at_mut_checked(done)
        .filter(|(_, rest)| !rest.is_empty())
    {
        match uio::pread(fd, rest, (offset + done as u64) as i64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

/// A write that failed.
#[derive(Debug)]
pub(super) struct ShortWrite {
    /// Bytes of it that were written.
    pub(super) written: usize,
    pub(super) error: io::Error,
}

impl From<ShortWrite> for io::Error {
    fn from(short: ShortWrite) -> Self {
        short.error
    }
}

/// Writes all of `bytes`.
pub(crate) fn write_at(fd: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> io::Result<()> {
    Ok(write(fd, offset, bytes)?)
}

fn write(fd: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> Result<(), ShortWrite> {
    let mut rest = Octets(bytes);
    while !rest.0.is_empty() {
        let written = bytes.len() - rest.0.len();
        match uio::pwrite(fd, rest.0, (offset + written as u64) as i64) {
            Ok(0) => {
                let error = io::ErrorKind::WriteZero.into();
                return Err(ShortWrite { written, error });
            }
            Ok(more) => {
                let _ = rest.slice(more);
            }
            Err(nix::Error::EINTR) => {}
            Err(errno) => {
                let error = errno.into();
                return Err(ShortWrite { written, error });
            }
        }
    }
    Ok(())
}

/// What was done to a lower file, in order.
#[cfg(test)]
pub(super) mod trace {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Debug)]
    pub(in super::super) enum Event {
        Write { offset: u64, bytes: Vec<u8> },
        SetLen(u64),
        Free { offset: u64, len: u64 },
        Barrier,
    }

    #[derive(Debug, Default)]
    pub(in super::super) struct Trace {
        pub(in super::super) events: Mutex<Vec<Event>>,
        /// Whether the next barrier fails.
        pub(in super::super) fail: AtomicBool,
        /// The disk is full: nothing is written from this offset on.
        pub(in super::super) full_from: Mutex<Option<u64>>,
    }

    impl super::Lower {
        pub(super) fn note(&self, event: impl FnOnce() -> Event) {
            if let Some(trace) = &self.trace {
                trace.events.lock().unwrap().push(event());
            }
        }

        /// What of `bytes` there is room for, and the rest.
        pub(super) fn split_where_full<'a>(
            &self,
            offset: u64,
            bytes: &'a [u8],
        ) -> (&'a [u8], &'a [u8]) {
            let full_from = |trace: &Arc<Trace>| *trace.full_from.lock().unwrap();
            let room = match self.trace.as_ref().and_then(full_from) {
                Some(end) => end.saturating_sub(offset) as usize,
                None => bytes.len(),
            };
            bytes.split_at(room.min(bytes.len()))
        }

        pub(super) fn fail_if_told(&self) -> std::io::Result<()> {
            let told = |trace: &Arc<Trace>| trace.fail.swap(false, Ordering::Relaxed);
            match self.trace.as_ref().is_some_and(told) {
                true => Err(std::io::ErrorKind::Other.into()),
                false => Ok(()),
            }
        }
    }
}
