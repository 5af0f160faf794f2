//! Making things: files, directories, symlinks, pipes and sockets, and further names.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use claviger_vault::dir::{DirError, Location, Record};
use claviger_vault::names::{LowerName, NamesKeys, RECORD};
use claviger_vault::native::Links;
use claviger_vault::tree;
use fuser::{FileHandle, OpenFlags};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use crate::attr::Kind;
use crate::caller::Caller;
use crate::dircache::Dir;
use crate::failure::OpError;
use crate::filesystem::{Entry, VolumeFs};
use crate::inode::Inode;
use crate::lower::{Pinned, drop_sidecar, open_dir, remove, rename, temporary_name};
use crate::open::{Access, Claim, OpenUse};
use crate::opening::access_of;
use crate::sys::set_times;
use crate::tree::{Binds, location};

/// Where something is about to be made.
pub(crate) struct Spot {
    pub(crate) parent: Arc<Inode>,
    pub(crate) dir: Arc<Dir>,
    pub(crate) name: LowerName,
}

impl Spot {
    /// For place records.
    pub(crate) fn location(&self) -> Location<'_> {
        location(&self.dir, self.name.as_bytes())
    }
}

impl VolumeFs {
    /// The spot that `name` has in `parent`.
    pub(crate) fn spot(&self, parent: u64, name: &[u8]) -> Result<Spot, OpError> {
        let parent = self.inode(parent)?;
        let dir = self.dir_of(&parent)?;
        let name = dir.names.encrypt(name)?;
        Ok(Spot { parent, dir, name })
    }

    /// Makes something at `spot`: the sidecar of a long name is there before, and goes if it fails.
    fn make<T>(
        &self,
        spot: &Spot,
        make: impl FnOnce(&[u8]) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        tree::write_sidecar(&spot.dir.fd, &spot.name).map_err(DirError::Io)?;
        let made = make(spot.name.as_bytes());
        match &made {
            Ok(_) => self.unsynced.wrote_sidecar(spot.parent.ino, &spot.name),
            Err(_) => drop_sidecar(&spot.dir, &spot.name),
        }
        made
    }

    pub(crate) fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        umask: u32,
        flags: OpenFlags,
    ) -> Result<(Entry, FileHandle), OpError> {
        let spot = self.spot(parent, name)?;
        let (entry, open) = self.make_file(caller, &spot, mode, umask)?;
        Ok((entry, self.hand_out(open, caller, access_of(flags))))
    }

    pub(crate) fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        umask: u32,
        device: u32,
    ) -> Result<Entry, OpError> {
        let spot = self.spot(parent, name)?;
        if Kind::of_mode(mode) == Kind::REGULAR {
            return Ok(self.make_file(caller, &spot, mode, umask)?.0);
        }
        let kind = SFlag::from_bits_truncate(mode & libc::S_IFMT);
        let permissions = Mode::from_bits_truncate(mode & 0o7777);
        self.make(&spot, |lower| {
            Ok(self.ownership.create(caller, umask, || {
                mknodat(
                    &spot.dir.fd,
                    lower,
                    kind,
                    permissions,
                    decode_device(device),
                )
            })?)
        })?;
        self.entry(&spot.parent, &spot.dir, &spot.name)
    }

    pub(crate) fn symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry, OpError> {
        let spot = self.spot(parent, name)?;
        let target = spot.dir.names.seal_target(target)?;
        self.make(&spot, |lower| {
            let link = || symlinkat(target.as_slice(), &spot.dir.fd, lower);
            Ok(self.ownership.create(caller, 0, link)?)
        })?;
        self.entry(&spot.parent, &spot.dir, &spot.name)
    }

    pub(crate) fn readlink(&self, ino: u64) -> Result<Vec<u8>, OpError> {
        let inode = self.inode(ino)?;
        let place = inode.place().ok_or(Errno::ESTALE)?;
        let dir = self.dir_of(&place.parent)?;
        let pinned = self.pin(&inode)?;
        let lower = readlinkat(&pinned.fd, "")?;
        Ok(dir.names.open_target(lower.as_bytes())?)
    }

    pub(crate) fn mkdir(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        umask: u32,
    ) -> Result<Entry, OpError> {
        let spot = self.spot(parent, name)?;
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        let make = |name: &[u8]| {
            let make = || mkdirat(&spot.dir.fd, name, mode);
            Ok(self.ownership.create(caller, umask, make)?)
        };
        let tree = self.tree()?;
        match tree.names_keys() {
            Some(names) => self.make_recorded_dir(caller, &spot, names, make),
            None => {
                self.make(&spot, make)?;
                self.entry(&spot.parent, &spot.dir, &spot.name)
            }
        }
    }

    /// Makes a directory under a temporary name, writes its record, and puts it into place: whatever
    /// has a name of ours has a record.
    fn make_recorded_dir(
        &self,
        caller: Caller,
        spot: &Spot,
        names: &NamesKeys,
        make: impl Fn(&[u8]) -> Result<(), OpError>,
    ) -> Result<Entry, OpError> {
        let now = self.syncs.now();
        let (pinned, record) = self.make(spot, |lower| {
            let temporary = temporary_name();
            make(&temporary)?;
            let made = self.fill_dir(caller, spot, names, &temporary);
            let made = made.and_then(|made| {
                let (from, to) = ((&*spot.dir, temporary.as_slice()), (&*spot.dir, lower));
                rename(from, to, RenameFlags::RENAME_NOREPLACE)?;
                Ok(made)
            });
            if made.is_err() {
                discard_dir(&spot.dir, &temporary);
            }
            made
        })?;
        let stat = fstat(&pinned.fd)?;
        let entry = self.known(&spot.parent, spot.name.as_bytes(), &stat)?;
        if let Some(inode) = self.inodes.find(entry.attr.ino.0) {
            inode.is_made(now);
            self.unsynced.wrote(inode.ino, RECORD);
            let names = Box::new(record.names(names)?);
            let fd = pinned.fd;
            self.dirs.keep(&inode, Dir { fd, names });
        }
        Ok(entry)
    }

    /// Writes the record of the new directory `temporary`, which will be at `spot`.
    fn fill_dir(
        &self,
        caller: Caller,
        spot: &Spot,
        names: &NamesKeys,
        temporary: &[u8],
    ) -> Result<(Pinned, Record), OpError> {
        let pinned = Pinned::new(spot.dir.fd.as_fd(), temporary)?;
        let mode = pinned.mode();
        // One who may not write in his own new directory still makes it with its record.
        if !mode.contains(Mode::S_IRWXU) {
            pinned.set_mode(mode | Mode::S_IRWXU)?;
        }
        let create = || Record::create(&pinned.fd, names, spot.location());
        let record = self.ownership.create(caller, 0, create)?;
        if !mode.contains(Mode::S_IRWXU) {
            pinned.set_mode(mode)?;
        }
        Ok((pinned, record))
    }

    /// Gives `ino` another name.
    pub(crate) fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Entry, OpError> {
        let _changing = self.changing_places();
        let inode = self.inode(ino)?;
        let spot = self.spot(parent, name)?;
        match inode.kind {
            Kind::SYMLINK if self.binds()? == Binds::Yes => {
                return self.copy_symlink(&inode, &spot);
            }
            // From now on it is bound to none of its names.
            Kind::REGULAR => self.unbind(&inode)?,
            _ => {}
        }
        self.make(&spot, |lower| {
            self.sync_name(&spot, Some(&inode))?;
            self.at(&inode, |dir, old| {
                Ok(linkat(dir, old, &spot.dir.fd, lower, AtFlags::empty())?)
            })
        })?;
        self.entry(&spot.parent, &spot.dir, &spot.name)
    }

    /// Another name for a symlink. In another directory that is a symlink of its own: a target is
    /// sealed for one directory.
    fn copy_symlink(&self, inode: &Arc<Inode>, spot: &Spot) -> Result<Entry, OpError> {
        let place = inode.place().ok_or(Errno::ESTALE)?;
        let old = self.dir_of(&place.parent)?;
        self.make(spot, |lower| {
            self.sync_name(spot, Some(inode))?;
            if place.parent.ino == spot.parent.ino {
                return Ok(linkat(
                    &old.fd,
                    &*place.name,
                    &old.fd,
                    lower,
                    AtFlags::empty(),
                )?);
            }
            reseal_symlink((&old, &place.name), (&spot.dir, lower))
        })?;
        self.entry(&spot.parent, &spot.dir, &spot.name)
    }

    /// Makes a regular file and opens it for who made it.
    fn make_file(
        &self,
        caller: Caller,
        spot: &Spot,
        mode: u32,
        umask: u32,
    ) -> Result<(Entry, OpenUse), OpError> {
        let _opening = self.opening()?;
        let fresh = self.keys.fresh(caller.uid)?;
        let tree = self.tree()?;
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let now = self.syncs.now();
        self.make(spot, |lower| {
            let create = || openat(&spot.dir.fd, lower, flags, mode);
            let fd: OwnedFd = self.ownership.create(caller, umask, create)?;
            let claim = Claim::NewFile(fresh.mark());
            let made = fresh.create(fd, &*tree, spot.location(), Links::One);
            let made = made.map_err(OpError::from).and_then(|content| {
                let stat = fstat(content.as_fd())?;
                let inode = self.known_inode(&spot.parent, lower, &stat)?;
                inode.is_made(now);
                let open = || Ok(content);
                let (slot, access) = (&inode.open, Access::Write);
                let open = slot.grant(&inode, caller.uid, access, &self.linger, claim, open)?;
                let entry = Entry {
                    attr: self.attributes_of(&inode, &stat)?,
                    generation: inode.generation,
                };
                Ok((entry, open))
            });
            if made.is_err() {
                remove(&spot.dir, lower);
            }
            made
        })
    }
}

/// Makes a symlink `to` with the target, owner and times of the one `from`.
pub(crate) fn reseal_symlink(from: (&Dir, &[u8]), to: (&Dir, &[u8])) -> Result<(), OpError> {
    let old = Pinned::new(from.0.fd.as_fd(), from.1)?;
    let target = readlinkat(&old.fd, "")?;
    let target = from.0.names.open_target(target.as_bytes())?;
    let target = to.0.names.seal_target(&target)?;
    symlinkat(target.as_slice(), &to.0.fd, to.1)?;
    let new = Pinned::new(to.0.fd.as_fd(), to.1)?;
    let (uid, gid) = (old.stat.st_uid.into(), old.stat.st_gid.into());
    fchownat(&new.fd, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    let time = |tv_sec, tv_nsec| libc::timespec { tv_sec, tv_nsec };
    let accessed = time(old.stat.st_atime, old.stat.st_atime_nsec);
    let modified = time(old.stat.st_mtime, old.stat.st_mtime_nsec);
    Ok(set_times(new.fd.as_fd(), accessed, modified)?)
}

/// Removes a directory that was not to be, or no longer is.
pub(crate) fn discard_dir(parent: &Dir, name: &[u8]) {
    if let Ok(fd) = open_dir(parent.fd.as_fd(), name) {
        let _ = unlinkat(fd, RECORD, UnlinkatFlags::NoRemoveDir);
    }
    if let Err(errno) = unlinkat(&parent.fd, name, UnlinkatFlags::RemoveDir) {
        tracing::warn!(name = %name.escape_ascii(), %errno, "left behind in the lower folder");
    }
}

/// A device number in the kernel's 32-bit coding, as FUSE has it.
fn decode_device(device: u32) -> libc::dev_t {
    let major = (device & 0xf_ff00) >> 8;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    libc::makedev(major, minor)
}
