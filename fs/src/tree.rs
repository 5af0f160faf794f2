//! From inode numbers to lower objects.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use claviger_vault::dir::Location;
use claviger_vault::format::{LowerObject, Sized};
use claviger_vault::names::LowerName;
use fuser::FileAttr;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{FileStat, fstat, fstatat};

use crate::attr::{Kind, attributes, unsigned};
use crate::dircache::Dir;
use crate::failure::OpError;
use crate::filesystem::{Entry, VolumeFs};
use crate::inode::{Inode, Links, Place, ROOT};
use crate::lower::{Pinned, open_dir, open_to_look_at};

/// Walks that find the tree changed under them begin again; who changes it that often is not us.
pub(crate) const WALKS: usize = 64;

impl VolumeFs {
    /// The inode that the kernel names.
    pub(crate) fn inode(&self, ino: u64) -> Result<Arc<Inode>, OpError> {
        // An unlocked volume is asked for first: a locked one tells nothing.
        self.tree()?;
        self.inodes.find(ino).ok_or(OpError::Errno(Errno::ESTALE))
    }

    /// `inode`'s directory. Walks down from the nearest ancestor that is at hand, one step at a time:
    /// a lower path may be longer than `PATH_MAX`.
    pub(crate) fn dir_of(&self, inode: &Arc<Inode>) -> Result<Arc<Dir>, OpError> {
        self.tree()?;
        if inode.kind != Kind::DIRECTORY {
            return Err(Errno::ENOTDIR.into());
        }
        for _ in 0..WALKS {
            let mut missing = Vec::new();
            let mut at = Arc::clone(inode);
            let mut found = loop {
                if let Some(dir) = at.dir.find() {
                    break Some(dir);
                }
                if at.ino == ROOT {
                    break None;
                }
                let place = at.place().ok_or(Errno::ESTALE)?;
                let parent = Arc::clone(&place.parent);
                missing.push((std::mem::replace(&mut at, parent), place));
            };
            if found.is_none() {
                found = Some(self.open_root()?);
            }
            let mut step = found.map_or(Step::Moved, Step::There);
            while let (Step::There(parent), Some((child, place))) = (&step, missing.pop()) {
                step = self.open_child(&child, &place, parent)?;
            }
            if let Step::There(dir) = step {
                return Ok(dir);
            }
        }
        Err(Errno::ESTALE.into())
    }

    /// Uses the lower object of `inode` by its directory and name, neither of which changes meanwhile.
    pub(crate) fn at<T>(
        &self,
        inode: &Inode,
        mut work: impl FnMut(BorrowedFd<'_>, &[u8]) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        if inode.ino == ROOT {
            return work(self.lower.as_fd(), b".");
        }
        for _ in 0..WALKS {
            let place = inode.place().ok_or(Errno::ESTALE)?;
            let parent = self.dir_of(&place.parent)?;
            let places = inode.places();
            if places.first().is_some_and(|now| now.is(&place)) {
                return work(parent.fd.as_fd(), &place.name);
            }
        }
        Err(Errno::ESTALE.into())
    }

    /// Attributes of the lower object of `inode`.
    pub(crate) fn stat(&self, inode: &Inode) -> Result<FileStat, OpError> {
        self.at(inode, |dir, name| {
            let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            self.same(inode, &stat)?;
            Ok(stat)
        })
    }

    /// Holds the lower object of `inode`.
    pub(crate) fn pin(&self, inode: &Inode) -> Result<Pinned, OpError> {
        let pinned = self.at(inode, |dir, name| Ok(Pinned::new(dir, name)?))?;
        self.same(inode, &pinned.stat)?;
        Ok(pinned)
    }

    /// Refuses a lower object that is not the one `inode` stands for: somebody works below.
    pub(crate) fn same(&self, inode: &Inode, stat: &FileStat) -> Result<(), OpError> {
        let same = stat.st_ino == inode.lower
            && stat.st_dev == self.lower_device
            && Kind::of(stat) == inode.kind;
        if same {
            Ok(())
        } else {
            Err(Errno::ESTALE.into())
        }
    }

    /// Finds `name`, and hands the kernel a reference to what it names.
    pub(crate) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Entry, OpError> {
        let parent = self.inode(parent)?;
        let dir = self.dir_of(&parent)?;
        let lower = dir.names.encrypt(name)?;
        self.entry(&parent, &dir, &lower)
    }

    /// Hands the kernel a reference to the lower object `lower` of `dir`.
    pub(crate) fn entry(
        &self,
        parent: &Arc<Inode>,
        dir: &Dir,
        lower: &LowerName,
    ) -> Result<Entry, OpError> {
        let name = lower.as_bytes();
        let stat = fstatat(dir.fd.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        self.known(parent, name, &stat)
    }

    /// Hands the kernel a reference to the lower object of attributes `stat`, which is `name` in
    /// `parent`.
    pub(crate) fn known(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        stat: &FileStat,
    ) -> Result<Entry, OpError> {
        let inode = self.known_inode(parent, name, stat)?;
        match self.attributes_of(&inode, stat) {
            Ok(attr) => Ok(Entry {
                attr,
                generation: inode.generation,
            }),
            Err(error) => {
                self.forget(inode.ino, 1);
                Err(error)
            }
        }
    }

    /// The same without attributes.
    pub(crate) fn known_inode(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        stat: &FileStat,
    ) -> Result<Arc<Inode>, OpError> {
        // Another filesystem mounted below: its inode numbers are its own.
        if stat.st_dev != self.lower_device {
            return Err(Errno::ENOENT.into());
        }
        let kind = Kind::of(stat);
        let several = kind != Kind::DIRECTORY && stat.st_nlink > 1;
        let links = if several { Links::Several } else { Links::One };
        let place = Place {
            parent: Arc::clone(parent),
            name: name.into(),
        };
        self.check_found(&place, stat)?;
        Ok(self.inodes.looked_up(stat.st_ino, kind, place, links))
    }

    /// What the kernel is told of `inode`, whose lower object has attributes `stat`.
    pub(crate) fn attributes_of(
        &self,
        inode: &Arc<Inode>,
        stat: &FileStat,
    ) -> Result<FileAttr, OpError> {
        let lower = unsigned(stat.st_size);
        let closed = |kind| {
            let object = Below { fs: self, inode };
            Ok::<_, OpError>(self.tree()?.size(kind, lower, &object))
        };
        let size = match inode.kind {
            Kind::REGULAR => match inode.open.size() {
                Some(size) => {
                    inode.size_told.by_content();
                    size
                }
                None => inode.size_told.by_length(lower, closed(Sized::File)?),
            },
            Kind::SYMLINK => closed(Sized::Symlink)?,
            _ => lower,
        };
        let mut attr = attributes(inode.ino, stat, size);
        if inode.ino == ROOT {
            attr.nlink = attr.nlink.saturating_sub(self.format.hidden_in_root());
        }
        Ok(attr)
    }

    /// Whether what is in the volume is bound to its place.
    pub(crate) fn binds(&self) -> Result<Binds, OpError> {
        Ok(match self.tree()?.names_keys() {
            Some(_) => Binds::Yes,
            None => Binds::No,
        })
    }

    fn open_root(&self) -> Result<Arc<Dir>, OpError> {
        let fd = open_dir(self.lower.as_fd(), b".")?;
        let names = self.tree()?.folder(fd.as_fd(), Location::ROOT)?;
        Ok(self.dirs.keep(self.inodes.root(), Dir { fd, names }))
    }

    /// Opens a child directory; its record must belong at this place.
    fn open_child(&self, child: &Arc<Inode>, place: &Place, parent: &Dir) -> Result<Step, OpError> {
        let places = child.places();
        if !places.first().is_some_and(|now| now.is(place)) {
            return Ok(Step::Moved);
        }
        let fd = open_dir(parent.fd.as_fd(), &place.name)?;
        self.same(child, &fstat(&fd)?)?;
        let location = location(parent, &place.name);
        let names = self.tree()?.folder(fd.as_fd(), location)?;
        Ok(Step::There(self.dirs.keep(child, Dir { fd, names })))
    }
}

/// Where `lower_name` in `parent` is.
pub(crate) fn location<'a>(parent: &Dir, lower_name: &'a [u8]) -> Location<'a> {
    Location {
        parent: parent.names.id(),
        lower_name,
    }
}

/// Whether what a volume holds is bound to its place: directories by a record of their own, files and
/// symlinks by what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binds {
    Yes,
    No,
}

/// The lower object of an inode, for a format that has to look at it.
pub(crate) struct Below<'a> {
    pub(crate) fs: &'a VolumeFs,
    pub(crate) inode: &'a Arc<Inode>,
}

impl LowerObject for Below<'_> {
    fn open(&self) -> io::Result<OwnedFd> {
        let open = || {
            if let Some(lower) = self.inode.open.lower()? {
                return Ok(lower);
            }
            let lower = self
                .fs
                .at(self.inode, |dir, name| Ok(open_to_look_at(dir, name)?))?;
            self.fs.same(self.inode, &fstat(&lower)?)?;
            Ok(lower)
        };
        open().map_err(|error: OpError| io::Error::from_raw_os_error(error.errno()))
    }

    fn link_target(&self) -> io::Result<Vec<u8>> {
        let read = || Ok(readlinkat(&self.fs.pin(self.inode)?.fd, "")?.into_vec());
        read().map_err(|error: OpError| io::Error::from_raw_os_error(error.errno()))
    }
}

/// One step of a walk down.
enum Step {
    There(Arc<Dir>),
    /// A rename came in between.
    Moved,
}
