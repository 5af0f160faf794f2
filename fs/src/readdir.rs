//! Listing directories.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::FileHandle;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use crate::attr::{Kind, attributes};
use crate::dircache::Dir;
use crate::dirstream::DirStream;
use crate::failure::OpError;
use crate::filesystem::{Entry, VolumeFs};
use crate::inode::Inode;
use crate::lower::{is_temporary, open_dir_to_read};

/// One directory being listed.
pub(crate) struct Listing {
    inode: Arc<Inode>,
    stream: Mutex<DirStream>,
}

/// One entry as it is shown.
pub(crate) struct Shown<'a> {
    pub(crate) ino: u64,
    /// Where the next one is.
    pub(crate) next: u64,
    pub(crate) kind: Kind,
    pub(crate) name: &'a [u8],
}

/// What became of an entry that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Taken,
    /// The reply is full.
    Full,
}

impl Room {
    /// From `fuser`'s answer to `add`.
    pub(crate) fn of_added(full: bool) -> Self {
        if full { Self::Full } else { Self::Taken }
    }
}

impl VolumeFs {
    pub(crate) fn opendir(&self, ino: u64) -> Result<FileHandle, OpError> {
        let inode = self.inode(ino)?;
        let dir = self.dir_of(&inode)?;
        let stream = Mutex::new(DirStream::new(open_dir_to_read(dir.fd.as_fd(), b".")?));
        Ok(self.listings.insert(Listing { inode, stream }))
    }

    /// Shows entries from position `from` on, until `show` has no room for one.
    pub(crate) fn readdir(
        &self,
        handle: FileHandle,
        from: u64,
        mut show: impl FnMut(Shown<'_>) -> Room,
    ) -> Result<(), OpError> {
        self.list(handle, from, |_, _, _, shown| Ok(show(shown)))
    }

    /// The same with attributes, handing the kernel a reference to each.
    pub(crate) fn readdirplus(
        &self,
        handle: FileHandle,
        from: u64,
        mut show: impl FnMut(&[u8], u64, &Entry) -> Room,
    ) -> Result<(), OpError> {
        self.list(handle, from, |parent, dir, lower, shown| {
            let stat = match fstatat(&dir.fd, lower, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Unlinked since.
                Err(Errno::ENOENT) => return Ok(Room::Taken),
                Err(errno) => return Err(errno.into()),
            };
            // The kernel takes no reference to these two.
            if matches!(shown.name, b"." | b"..") {
                let attr = attributes(shown.ino, &stat, 0);
                return Ok(show(
                    shown.name,
                    shown.next,
                    &Entry {
                        attr,
                        generation: 0,
                    },
                ));
            }
            let entry = match self.known(parent, lower, &stat) {
                Ok(entry) => entry,
                Err(OpError::Errno(Errno::ENOENT)) => return Ok(Room::Taken),
                Err(error) => return Err(error),
            };
            let room = show(shown.name, shown.next, &entry);
            if room == Room::Full {
                self.forget(entry.attr.ino.0, 1);
            }
            Ok(room)
        })
    }

    pub(crate) fn releasedir(&self, handle: FileHandle) {
        self.listings.remove(handle);
    }

    fn list(
        &self,
        handle: FileHandle,
        from: u64,
        mut show: impl FnMut(&Arc<Inode>, &Dir, &[u8], Shown<'_>) -> Result<Room, OpError>,
    ) -> Result<(), OpError> {
        let listing = self.listings.find(handle).ok_or(Errno::EBADF)?;
        let dir = self.dir_of(&listing.inode)?;
        let mut stream = listing
            .stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut left_out = LeftOut {
            inode: &listing.inode,
            count: 0,
        };
        stream.seek(from)?;
        while let Some(entry) = stream.peek()? {
            if let Some(name) = Self::shown_name(&dir, entry.name.as_bytes(), &mut left_out) {
                let ino = self.inodes.number(entry.ino);
                let shown = Shown {
                    ino,
                    next: entry.next,
                    kind: entry.kind,
                    name: &name,
                };
                let lower = entry.name.as_bytes();
                match show(&listing.inode, &dir, lower, shown) {
                    Ok(Room::Taken) => {}
                    Ok(Room::Full) => return Ok(()),
                    Err(error @ OpError::Damaged(_)) => left_out.note(lower, &error),
                    Err(error) => return Err(error),
                }
            }
            stream.advance();
        }
        Ok(())
    }

    /// The upper name of `lower`; `None` for what is not shown. What should be an entry of ours and
    /// does not verify is left out: one bad name must not hide the others.
    fn shown_name(dir: &Dir, lower: &[u8], left_out: &mut LeftOut<'_>) -> Option<Vec<u8>> {
        if matches!(lower, b"." | b"..") {
            return Some(lower.to_vec());
        }
        match dir.names.upper_name(dir.fd.as_fd(), lower)? {
            Ok(name) => Some(name),
            Err(_) if is_temporary(lower) => None,
            Err(error) => {
                left_out.note(lower, &error);
                None
            }
        }
    }
}

/// Logs what one request leaves out: the first few by name, the others by number. Whoever holds the
/// lower folder could fill the disk that the log is on otherwise, with every `ls`.
struct LeftOut<'a> {
    inode: &'a Inode,
    count: usize,
}

impl LeftOut<'_> {
    const NAMED: usize = 10;

    fn note(&mut self, lower: &[u8], error: &dyn std::fmt::Display) {
        self.count += 1;
        if self.count <= Self::NAMED {
            let dir = self.inode.shown_path();
            tracing::warn!(dir, lower = %lower.escape_ascii(), %error, "entry left out");
        }
    }
}

impl Drop for LeftOut<'_> {
    fn drop(&mut self) {
        if self.count > Self::NAMED {
            let (dir, more) = (self.inode.shown_path(), self.count - Self::NAMED);
            tracing::warn!(dir, more, "entries left out");
        }
    }
}
