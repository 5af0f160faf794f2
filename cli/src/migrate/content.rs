//! The content of files: copied with its holes, compared byte by byte.

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, ftruncate, lseek};
use zeroize::Zeroizing;

use super::watch::Watch;

/// The smallest hole: a block of a native volume.
const BLOCK: usize = 4096;

/// What is read at once.
const CHUNK: usize = 1 << 20;

/// On which side something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old(Errno),
    New(Errno),
    /// Neither: somebody wants the migration to stop.
    Interrupted,
}

/// Room for content; wiped.
pub(super) struct Buffers {
    old: Zeroizing<Vec<u8>>,
    new: Zeroizing<Vec<u8>>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        let buffer = || Zeroizing::new(vec![0; CHUNK]);
        Self {
            old: buffer(),
            new: buffer(),
        }
    }

    /// Copies `size` bytes of `old` to `new`, which is empty. What reads as zeros for a whole block
    /// becomes a hole: the kernel's eCryptfs knows no others, it stores holes as encrypted zeros.
    pub(super) fn copy(
        &mut self,
        old: &File,
        new: &File,
        size: u64,
        watch: &dyn Watch,
    ) -> Result<(), Side> {
        let mut at = 0;
        while at < size {
            if watch.wants_to_stop() {
                return Err(Side::Interrupted);
            }
            let data = next_data(old, at).map_err(Side::Old)?.min(size);
            watch.done(data - at);
            at = data;
            let chunk = part(&mut self.old, size - at);
            let read = read_full(old, at, chunk).map_err(Side::Old)?;
            let chunk = chunk.get(..read).unwrap_or_default();
            if chunk.is_empty() {
                break;
            }
            write_data(new, at, chunk).map_err(Side::New)?;
            at += read as u64;
            watch.done(read as u64);
        }
        ftruncate(new, offset(size)).map_err(Side::New)
    }

    /// Whether both have the same `size` bytes. `new` is read from below: what the kernel has kept of it
    /// in memory is forgotten first.
    pub(super) fn are_alike(
        &mut self,
        old: &File,
        new: &File,
        size: u64,
        watch: &dyn Watch,
    ) -> Result<bool, Side> {
        posix_fadvise(new, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(Side::New)?;
        let mut at = 0;
        while at < size {
            if watch.wants_to_stop() {
                return Err(Side::Interrupted);
            }
            // Where both have a hole there is nothing to compare.
            let old_data = next_data(old, at).map_err(Side::Old)?;
            let new_data = next_data(new, at).map_err(Side::New)?;
            let data = old_data.min(new_data).min(size);
            watch.done(data - at);
            at = data;
            let was = part(&mut self.old, size - at);
            let is = part(&mut self.new, size - at);
            let read = read_full(old, at, was).map_err(Side::Old)?;
            let reread = read_full(new, at, is).map_err(Side::New)?;
            if was.get(..read) != is.get(..reread) || read != was.len() {
                return Ok(false);
            }
            at += read as u64;
            watch.done(read as u64);
        }
        Ok(true)
    }
}

/// As much of `buffer` as `left` bytes need.
fn part(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let length = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
    buffer.get_mut(..length).unwrap_or_default()
}

/// Where data begins, at `at` or after it.
fn next_data(file: &File, at: u64) -> Result<u64, Errno> {
    match lseek(file.as_fd(), offset(at), Whence::SeekData) {
        Ok(data) => Ok(u64::try_from(data).unwrap_or(at).max(at)),
        // Only a hole is left.
        Err(Errno::ENXIO) => Ok(u64::MAX),
        // A filesystem that does not tell: all is data.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(at),
        Err(errno) => Err(errno),
    }
}

/// Reads until `buffer` is full or the file ends.
fn read_full(file: &File, at: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match pread(file, rest, offset(at + done as u64)) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// Writes `chunk`, but for blocks of zeros.
fn write_data(file: &File, at: u64, chunk: &[u8]) -> Result<(), Errno> {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let is_hole = |block: &&[u8]| ZEROS.get(..block.len()) == Some(*block);
    let blocks: Vec<&[u8]> = chunk.chunks(BLOCK).collect();
    let mut begin = 0;
    for run in blocks.chunk_by(|one, next| is_hole(one) == is_hole(next)) {
        let end = begin + run.iter().map(|block| block.len()).sum::<usize>();
        if run.first().is_some_and(|block| !is_hole(block)) {
            let data = chunk.get(begin..end).unwrap_or_default();
            write_all(file, at + begin as u64, data)?;
        }
        begin = end;
    }
    Ok(())
}

fn write_all(file: &File, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    let mut at = at;
    let mut left = bytes;
    while !left.is_empty() {
        match pwrite(file, left, offset(at)) {
            Ok(0) => return Err(Errno::EIO),
            Ok(written) => {
                left = left.get(written..).unwrap_or_default();
                at += written as u64;
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A place in a file; none is as far as an `off_t` reaches.
fn offset(at: u64) -> libc::off_t {
    libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX)
}
