//! From FUSE requests to file operations and back: nothing is decided here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use crate::attributes::{Change, NewTime};
use crate::caller::{Caller, SuidOnChange};
use crate::failure::OpError;
use crate::filesystem::{Entry, VolumeFs};
use crate::lookout::Lookout;
use crate::open::Access;
use crate::opening::open_flags;
use crate::readdir::Room;
use crate::xattrs::XattrReply;

/// How long the kernel may keep names, absent names and attributes: nobody else writes below, and
/// what we change ourselves the kernel has asked for.
const TTL: Duration = Duration::from_secs(3600);

/// The same for a file with set-id bits: a write takes them away, and the kernel, which leaves that to us
/// (`FUSE_HANDLE_KILLPRIV_V2`), goes on showing what it knows.
const TTL_OF_SET_ID: Duration = Duration::ZERO;

/// Largest WRITE. The kernel takes no more than 256 pages unless an administrator says so.
const MAX_WRITE: u32 = 1024 * 1024;

/// What the kernel is asked for. It offers all of it from Linux 5.11 on, and 5.10 all but
/// `FUSE_HANDLE_KILLPRIV_V2`: there the kernel clears suid bits itself, by SETATTR before each WRITE.
const CAPABILITIES: &[InitFlags] = &[
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_READDIRPLUS_AUTO,
];

/// A volume as `fuser` serves it.
pub struct Engine {
    volume: Arc<VolumeFs>,
    /// Of no use even where the kernel offers them.
    without: InitFlags,
    lookout: Arc<Lookout>,
}

impl Engine {
    /// Serves `volume`, with all that this kernel offers.
    pub fn new(volume: Arc<VolumeFs>) -> Self {
        Self::without(InitFlags::empty(), volume)
    }

    /// The same, as on a kernel that does not offer `capabilities`.
    pub fn without(capabilities: InitFlags, volume: Arc<VolumeFs>) -> Self {
        Self {
            volume,
            without: capabilities,
            lookout: Arc::default(),
        }
    }

    /// What looks out for requests, once it is told where.
    pub(crate) fn lookout(&self) -> Arc<Lookout> {
        Arc::clone(&self.lookout)
    }
}

/// How long the kernel may keep these.
fn ttl(attr: &FileAttr) -> Duration {
    let set_id = (libc::S_ISUID | libc::S_ISGID) as u16;
    if attr.kind == FileType::RegularFile && attr.perm & set_id != 0 {
        return TTL_OF_SET_ID;
    }
    TTL
}

impl From<&Request> for Caller {
    fn from(request: &Request) -> Self {
        Self {
            uid: request.uid(),
            gid: request.gid(),
            pid: request.pid(),
        }
    }
}

/// Answers a request that has no content in its reply.
macro_rules! empty {
    ($self:ident, $op:literal, $ino:expr, $reply:ident, $result:expr) => {
        match $result {
            Ok(()) => $reply.ok(),
            Err(error) => $reply.error($self.volume.report($op, $ino.0, &error)),
        }
    };
}

/// Answers a request whose reply names an inode that the kernel will hold.
macro_rules! entry {
    ($self:ident, $op:literal, $parent:expr, $reply:ident, $result:expr) => {
        match $result {
            Ok(Entry { attr, generation }) => {
                $reply.entry(&ttl(&attr), &attr, Generation(generation));
            }
            Err(error) => $reply.error($self.volume.report($op, $parent.0, &error)),
        }
    };
}

impl fuser::Filesystem for Engine {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if self.without.contains(*capability) || config.add_capabilities(*capability).is_err() {
                tracing::debug!(?capability, "not offered by this kernel");
            }
        }
        // The kernel clamps it, and an older one may offer less.
        if let Err(most) = config.set_max_write(MAX_WRITE) {
            config
                .set_max_write(most)
                .map_err(|_| io::ErrorKind::InvalidInput)?;
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _afterwards = self.lookout.afterwards();
        match self.volume.lookup(parent.0, name.as_bytes()) {
            Ok(Entry { attr, generation }) => {
                reply.entry(&ttl(&attr), &attr, Generation(generation));
            }
            // A reply that names inode 0 lets the kernel remember that there is no such name.
            Err(OpError::Errno(nix::errno::Errno::ENOENT)) => {
                reply.entry(&TTL, &absent(), Generation(0));
            }
            Err(error) => reply.error(self.volume.report("lookup", parent.0, &error)),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        let _afterwards = self.lookout.afterwards();
        self.volume.forget(ino.0, lookups);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let _afterwards = self.lookout.afterwards();
        match self.volume.getattr(ino.0, fh) {
            Ok(attr) => reply.attr(&ttl(&attr), &attr),
            Err(error) => reply.error(self.volume.report("getattr", ino.0, &error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _afterwards = self.lookout.afterwards();
        let new_time = |time| match time {
            None => NewTime::Unchanged,
            Some(TimeOrNow::Now) => NewTime::Now,
            Some(TimeOrNow::SpecificTime(time)) => NewTime::At(time),
        };
        let (atime, mtime) = (new_time(atime), new_time(mtime));
        let change = Change {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        let fs = Arc::clone(&self.volume);
        // A truncation by path may have to wait for a key: then this is answered from elsewhere.
        self.volume.setattr(
            request.into(),
            ino.0,
            fh,
            change,
            move |changed| match changed {
                Ok(attr) => reply.attr(&ttl(&attr), &attr),
                Err(error) => reply.error(fs.report("setattr", ino.0, &error)),
            },
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let _afterwards = self.lookout.afterwards();
        match self.volume.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(self.volume.report("readlink", ino.0, &error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let _afterwards = self.lookout.afterwards();
        let made = self
            .volume
            .mknod(request.into(), parent.0, name.as_bytes(), mode, umask, rdev);
        entry!(self, "mknod", parent, reply, made);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let _afterwards = self.lookout.afterwards();
        let made = self
            .volume
            .mkdir(request.into(), parent.0, name.as_bytes(), mode, umask);
        entry!(self, "mkdir", parent, reply, made);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _afterwards = self.lookout.afterwards();
        empty!(
            self,
            "unlink",
            parent,
            reply,
            self.volume.unlink(parent.0, name.as_bytes())
        );
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _afterwards = self.lookout.afterwards();
        empty!(
            self,
            "rmdir",
            parent,
            reply,
            self.volume.rmdir(parent.0, name.as_bytes())
        );
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let _afterwards = self.lookout.afterwards();
        let target = target.as_os_str().as_bytes();
        let made = self
            .volume
            .symlink(request.into(), parent.0, name.as_bytes(), target);
        entry!(self, "symlink", parent, reply, made);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _afterwards = self.lookout.afterwards();
        let from = (parent.0, name.as_bytes());
        let to = (new_parent.0, new_name.as_bytes());
        empty!(
            self,
            "rename",
            parent,
            reply,
            self.volume.rename(from, to, flags)
        );
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let _afterwards = self.lookout.afterwards();
        let made = self.volume.link(ino.0, new_parent.0, new_name.as_bytes());
        entry!(self, "link", ino, reply, made);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _afterwards = self.lookout.afterwards();
        let fs = Arc::clone(&self.volume);
        self.volume
            .open(request.into(), ino.0, flags, move |opened| match opened {
                Ok((handle, flags)) => reply.opened(handle, flags),
                Err(error) => reply.error(fs.report("open", ino.0, &error)),
            });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let _afterwards = self.lookout.afterwards();
        let name = name.as_bytes();
        match self.volume.create(
            request.into(),
            parent.0,
            name,
            mode,
            umask,
            OpenFlags(flags),
        ) {
            Ok((Entry { attr, generation }, handle)) => {
                let flags = open_flags(self.volume.caching, Access::Write);
                reply.created(&ttl(&attr), &attr, Generation(generation), handle, flags);
            }
            Err(error) => reply.error(self.volume.report("create", parent.0, &error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _afterwards = self.lookout.afterwards();
        self.volume
            .read(fh, offset, size as usize, |read| match read {
                Ok(data) => reply.data(data),
                Err(error) => reply.error(self.volume.report("read", ino.0, &error)),
            });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _afterwards = self.lookout.afterwards();
        let suid = if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            SuidOnChange::Clear
        } else {
            SuidOnChange::Keep
        };
        match self.volume.write(fh, offset, data, suid) {
            // A WRITE is at most MAX_WRITE long.
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(self.volume.report("write", ino.0, &error)),
        }
    }

    /// Nothing waits for close(2): the lower file tells the size with each write. After this answer the
    /// kernel does not ask again.
    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _afterwards = self.lookout.afterwards();
        self.volume.release(fh);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        empty!(self, "fsync", ino, reply, self.volume.fsync(fh));
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _afterwards = self.lookout.afterwards();
        match self.volume.opendir(ino.0) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(self.volume.report("opendir", ino.0, &error)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _afterwards = self.lookout.afterwards();
        let read = self.volume.readdir(fh, offset, |entry| {
            let name = OsStr::from_bytes(entry.name);
            let kind = entry.kind.file_type();
            Room::of_added(reply.add(INodeNo(entry.ino), entry.next, kind, name))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.volume.report("readdir", ino.0, &error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _afterwards = self.lookout.afterwards();
        let read = self.volume.readdirplus(fh, offset, |name, next, entry| {
            let Entry { attr, generation } = entry;
            let name = OsStr::from_bytes(name);
            let generation = Generation(*generation);
            Room::of_added(reply.add(attr.ino, next, name, &ttl(attr), attr, generation))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.volume.report("readdirplus", ino.0, &error)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _afterwards = self.lookout.afterwards();
        self.volume.releasedir(fh);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        empty!(self, "fsyncdir", ino, reply, self.volume.fsyncdir(ino.0));
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.volume.statfs() {
            Ok(lower) => reply.statfs(
                lower.blocks(),
                lower.blocks_free(),
                lower.blocks_available(),
                lower.files(),
                lower.files_free(),
                u32::try_from(lower.block_size()).unwrap_or(4096),
                self.volume.format.name_max(),
                u32::try_from(lower.fragment_size()).unwrap_or(4096),
            ),
            Err(error) => reply.error(self.volume.report("statfs", ino.0, &error)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let _afterwards = self.lookout.afterwards();
        let set = self.volume.setxattr(ino.0, name.as_bytes(), value, flags);
        empty!(self, "setxattr", ino, reply, set);
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let _afterwards = self.lookout.afterwards();
        let value = self.volume.getxattr(ino.0, name.as_bytes());
        self.reply_xattr("getxattr", ino, value, size, reply);
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _afterwards = self.lookout.afterwards();
        let names = self.volume.listxattr(ino.0);
        self.reply_xattr("listxattr", ino, names, size, reply);
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _afterwards = self.lookout.afterwards();
        empty!(
            self,
            "removexattr",
            ino,
            reply,
            self.volume.removexattr(ino.0, name.as_bytes())
        );
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = self
            .volume
            .fallocate(request.into(), fh, offset, length, mode);
        empty!(self, "fallocate", ino, reply, done);
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.volume.lseek(fh, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(self.volume.report("lseek", ino.0, &error)),
        }
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// The kernel then copies through the page cache: blocks are bound to their file, so nothing
    /// below could be shared.
    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn destroy(&mut self) {
        for lost in self.volume.sync_all() {
            tracing::error!(lower = %lost.escape_ascii(), "last writes could not be written out");
        }
    }
}

impl Engine {
    fn reply_xattr(
        &self,
        op: &'static str,
        ino: INodeNo,
        value: Result<Vec<u8>, OpError>,
        size: u32,
        reply: ReplyXattr,
    ) {
        match value.map(|value| XattrReply::of(value, size)) {
            Ok(XattrReply::Length(length)) => reply.size(length),
            Ok(XattrReply::Value(value)) => reply.data(&value),
            Ok(XattrReply::TooSmall) => reply.error(Errno::ERANGE),
            Err(error) => reply.error(self.volume.report(op, ino.0, &error)),
        }
    }
}

/// Attributes of nothing: inode 0 in the reply to a lookup says that the name is absent.
fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
