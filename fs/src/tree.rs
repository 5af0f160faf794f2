//! From inode numbers to lower objects.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use claviger_vault::dir::{Location, Record};
use claviger_vault::names::LowerName;
use claviger_vault::native;
use fuser::FileAttr;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstat, fstatat};

use crate::attr::{Kind, attributes, unsigned};
use crate::dircache::Dir;
use crate::failure::OpError;
use crate::filesystem::{Entry, VolumeFs};
use crate::inode::{Inode, Links, Place, ROOT};
use crate::lower::{Pinned, open_dir};

/// Walks that find the tree changed under them begin again; who changes it that often is not us.
const WALKS: usize = 64;

impl VolumeFs {
    /// The inode that the kernel names.
    pub(crate) fn inode(&self, ino: u64) -> Result<Arc<Inode>, OpError> {
        // An unlocked volume is asked for first: a locked one tells nothing.
        self.names()?;
        self.inodes.find(ino).ok_or(OpError::Errno(Errno::ESTALE))
    }

    /// `inode`'s directory. Walks down from the nearest ancestor that is at hand, one step at a time:
    /// a lower path may be longer than `PATH_MAX`.
    pub(crate) fn dir_of(&self, inode: &Arc<Inode>) -> Result<Arc<Dir>, OpError> {
        self.names()?;
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
        mut work: impl FnMut(BorrowedFd<'_>, &str) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        if inode.ino == ROOT {
            return work(self.lower.as_fd(), ".");
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
        let same = self.inodes.number(stat.st_ino) == inode.ino
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
        let name = lower.as_str();
        let stat = fstatat(dir.fd.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        self.known(parent, name, &stat)
    }

    /// Hands the kernel a reference to the lower object of attributes `stat`, which is `name` in
    /// `parent`.
    pub(crate) fn known(
        &self,
        parent: &Arc<Inode>,
        name: &str,
        stat: &FileStat,
    ) -> Result<Entry, OpError> {
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
        let inode = self.inodes.looked_up(stat.st_ino, kind, place, links);
        let attr = self.attributes_of(&inode, stat);
        Ok(Entry {
            attr,
            generation: inode.generation,
        })
    }

    /// What the kernel is told of `inode`, whose lower object has attributes `stat`.
    pub(crate) fn attributes_of(&self, inode: &Inode, stat: &FileStat) -> FileAttr {
        let lower = unsigned(stat.st_size);
        let size = match inode.kind {
            Kind::REGULAR => inode
                .open
                .size()
                .unwrap_or_else(|| native::stat_size(lower, self.scope)),
            Kind::SYMLINK => claviger_vault::symlink::target_len(lower),
            _ => lower,
        };
        let mut attr = attributes(inode.ino, stat, size);
        // `.claviger` is not shown.
        if inode.ino == ROOT {
            attr.nlink = attr.nlink.saturating_sub(1);
        }
        attr
    }

    fn open_root(&self) -> Result<Arc<Dir>, OpError> {
        let fd = open_dir(self.lower.as_fd(), ".")?;
        let names = self.names()?;
        let names = Record::open(&fd, &names, Location::ROOT)?.names(&names)?;
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
        let names = self.names()?;
        let location = location(parent, &place.name);
        let names = Record::open(&fd, &names, location)?.names(&names)?;
        Ok(Step::There(self.dirs.keep(child, Dir { fd, names })))
    }
}

/// Where `lower_name` in `parent` is.
pub(crate) fn location<'a>(parent: &Dir, lower_name: &'a str) -> Location<'a> {
    Location {
        parent: parent.names.dir(),
        lower_name: lower_name.as_bytes(),
    }
}

/// One step of a walk down.
enum Step {
    There(Arc<Dir>),
    /// A rename came in between.
    Moved,
}
