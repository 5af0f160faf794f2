//! Reading a lower directory entry by entry, from any position that an entry gave out.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

use crate::attr::Kind;
use crate::sys;

const BUFFER: usize = 32 * 1024;
/// Fixed part of `struct linux_dirent64`: inode 8, offset 8, record length 2, type 1.
const HEAD: usize = 19;

/// A lower directory being read. Positions are the lower filesystem's own, so they outlast both the
/// buffer and changes to the directory exactly as well as they do there.
pub(crate) struct DirStream {
    dir: OwnedFd,
    buffer: Box<[u8; BUFFER]>,
    filled: usize,
    at: usize,
    position: u64,
}

/// One entry as the lower directory has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowerEntry<'a> {
    pub(crate) ino: u64,
    /// Where the next entry is.
    pub(crate) next: u64,
    pub(crate) kind: Kind,
    pub(crate) name: &'a OsStr,
}

impl DirStream {
    /// A stream at the start of `dir`, which is open for reading.
    pub(crate) fn new(dir: OwnedFd) -> Self {
        Self {
            dir,
            buffer: Box::new([0; BUFFER]),
            filled: 0,
            at: 0,
            position: 0,
        }
    }

    /// Goes to `position`, which an entry gave as its next, or 0.
    pub(crate) fn seek(&mut self, position: u64) -> Result<(), Errno> {
        if position == self.position && position != 0 {
            return Ok(());
        }
        let offset = i64::try_from(position).map_err(|_| Errno::EINVAL)?;
        lseek64(&self.dir, offset, Whence::SeekSet)?;
        (self.filled, self.at, self.position) = (0, 0, position);
        Ok(())
    }

    /// The entry here, without going past it; `None` at the end.
    pub(crate) fn peek(&mut self) -> Result<Option<LowerEntry<'_>>, Errno> {
        if self.at >= self.filled {
            self.filled = sys::getdents64(self.dir.as_fd(), self.buffer.as_mut_slice())?;
            self.at = 0;
        }
        let unread = self.buffer.get(self.at..self.filled).unwrap_or_default();
        if unread.is_empty() {
            return Ok(None);
        }
        parse(unread)
            .map(|(entry, _)| Some(entry))
            .ok_or(Errno::EIO)
    }

    /// Goes past the entry that [`DirStream::peek`] returned.
    pub(crate) fn advance(&mut self) {
        let unread = self.buffer.get(self.at..self.filled).unwrap_or_default();
        if let Some((entry, len)) = parse(unread) {
            self.position = entry.next;
            self.at += len;
        }
    }
}

/// The first record of `records`, and its length.
pub(crate) fn parse(records: &[u8]) -> Option<(LowerEntry<'_>, usize)> {
    let (ino, rest) = records.split_first_chunk()?;
    let (next, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (d_type, _) = rest.split_first()?;
    let len = usize::from(u16::from_ne_bytes(*len));
    let name = records.get(HEAD..len)?.split(|byte| *byte == 0).next()?;
    let entry = LowerEntry {
        ino: u64::from_ne_bytes(*ino),
        next: u64::from_ne_bytes(*next),
        kind: Kind::of_dirent(*d_type),
        name: OsStr::from_bytes(name),
    };
    Some((entry, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(stream: &mut DirStream) -> Vec<(String, u64)> {
        let mut names = Vec::new();
        while let Some(entry) = stream.peek().expect("the directory reads") {
            names.push((entry.name.to_string_lossy().into_owned(), entry.next));
            stream.advance();
        }
        names
    }

    #[test]
    fn a_position_that_an_entry_gave_leads_to_the_entry_after_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for n in 0..2000 {
            std::fs::write(dir.path().join(format!("file {n}")), "").expect("it is ours");
        }
        let fd = std::fs::File::open(dir.path()).expect("it is ours");
        let mut stream = DirStream::new(fd.into());
        let all = names(&mut stream);
        assert_eq!(all.len(), 2002);
        for at in [0, 700, 1999] {
            stream
                .seek(all[at].1)
                .expect("the position came from an entry");
            assert_eq!(names(&mut stream), all[at + 1..]);
        }
        stream.seek(0).expect("the start is always there");
        assert_eq!(names(&mut stream), all);
    }
}
