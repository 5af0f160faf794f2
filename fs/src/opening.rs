//! Opening content: who is granted what, and who waits for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use claviger_protocol::Failure;
use claviger_vault::format::{Begun, Content, FileKeys};
use claviger_vault::native::{self, FileError};
use fuser::{FileHandle, FopenFlags, OpenAccMode, OpenFlags};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;

use crate::attr::{Kind, unsigned};
use crate::attributes::touch;
use crate::caller::{Caller, SuidOnChange};
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::Inode;
use crate::keys::Unwrap;
use crate::lower::{open_regular, open_whatever_its_mode};
use crate::open::{Access, Claim, Handle, OpenUse, Want};
use crate::options::Caching;
use crate::park::{Awaited, Flight, Parked, Wanted};
use crate::size_told::Opener;
use crate::tree::{WALKS, location};

/// Takes the content that was asked for, or why there is none.
pub(crate) type Granted = Box<dyn FnOnce(Result<OpenUse, OpError>) + Send>;

impl VolumeFs {
    /// Opens a file, then calls `done`: at once, or when the caller has been granted it.
    pub(crate) fn open(
        self: &Arc<Self>,
        caller: Caller,
        ino: u64,
        flags: OpenFlags,
        done: impl FnOnce(Result<(FileHandle, FopenFlags), OpError>) + Send + 'static,
    ) {
        let inode = match self.inode(ino) {
            Ok(inode) if inode.kind == Kind::REGULAR => inode,
            Ok(_) => return done(Err(Errno::EINVAL.into())),
            Err(error) => return done(Err(error)),
        };
        let access = access_of(flags);
        let want = match (flags.0 & libc::O_TRUNC != 0, access) {
            (true, _) => Want::Truncated,
            (false, Access::Write) => Want::Write,
            (false, Access::Read) => Want::Read,
        };
        let fs = Arc::clone(self);
        let opened = move |open: Result<OpenUse, OpError>| {
            let opened = open.and_then(|open| {
                match want {
                    Want::Truncated => fs.cut(&open, caller)?,
                    Want::Read | Want::Write => check_told(&open, flags)?,
                }
                Ok((
                    fs.hand_out(open, caller, access),
                    open_flags(fs.caching, access),
                ))
            });
            done(opened);
        };
        self.grant(inode, caller, want, Box::new(opened));
    }

    /// A handle for the kernel.
    pub(crate) fn hand_out(&self, open: OpenUse, caller: Caller, access: Access) -> FileHandle {
        let revoked = AtomicBool::new(false);
        self.files.insert(Handle {
            open,
            uid: caller.uid,
            access,
            revoked,
        })
    }

    pub(crate) fn release(&self, handle: FileHandle) {
        self.files.remove(handle);
    }

    /// Gets `caller` the content of `inode`: at once if he has been granted it, else by an unwrap
    /// that all of his who want the same wait for.
    pub(crate) fn grant(
        self: &Arc<Self>,
        inode: Arc<Inode>,
        caller: Caller,
        want: Want,
        done: Granted,
    ) {
        if let Err(error) = self.opening() {
            return done(Err(error));
        }
        let access = want.access();
        if let Some(open) = inode.open.granted(&inode, caller.uid, access) {
            return done(Ok(open));
        }
        let begun = self
            .open_lower(&inode, access)
            .and_then(|lower| Ok(self.format.begin(lower, access.into())?));
        let (lower, head) = match begun {
            Ok(Begun::Sealed { lower, head }) => (lower, head),
            Ok(Begun::Open(_)) => return done(self.grant_at_once(&inode, caller, access)),
            Ok(Begun::Empty(lower)) => return done(self.make_anew(&inode, caller, lower)),
            Ok(Begun::NeverReachedDisk(lower)) if want == Want::Truncated => {
                return done(self.make_anew(&inode, caller, lower));
            }
            Ok(Begun::NeverReachedDisk(_)) => return done(Err(FileError::NeverReachedDisk.into())),
            Err(error) => return done(Err(error)),
        };
        let Caller { uid, pid, .. } = caller;
        let wanted = Wanted {
            ino: inode.ino,
            generation: inode.generation,
            uid,
            access,
        };
        let waiter = Arc::clone(&inode);
        let wake = move |landed: Result<(), OpError>| {
            let open = landed.and_then(|()| {
                waiter
                    .open
                    .granted(&waiter, uid, access)
                    .ok_or(OpError::LOCKED)
            });
            done(open);
        };
        let Parked::First(flight) = self.park.join(wanted, pid, Box::new(wake)) else {
            return;
        };

        let lower_path = inode.lower_path();
        let request = Unwrap {
            uid,
            pid,
            head,
            lower_path,
        };
        let fs = Arc::clone(self);
        let landed = move |keys: Result<Box<dyn FileKeys>, Failure>| {
            fs.land(flight, &inode, uid, access, lower, keys);
        };
        let ticket = self.keys.unwrap(request, Box::new(landed));
        if self.park.started(flight, ticket) == Awaited::No {
            self.keys.cancel(ticket);
        }
    }

    /// Grants a file that needs no key.
    fn grant_at_once(
        &self,
        inode: &Arc<Inode>,
        caller: Caller,
        access: Access,
    ) -> Result<OpenUse, OpError> {
        let _opening = self.opening()?;
        // Since it was looked at, somebody may have given it a key.
        let open = || {
            let lower = self.open_lower(inode, access)?;
            match self.format.begin(lower, access.into())? {
                Begun::Open(content) => Ok(content),
                Begun::Sealed { .. } | Begun::Empty(_) | Begun::NeverReachedDisk(_) => {
                    Err(Errno::ESTALE.into())
                }
            }
        };
        let slot = &inode.open;
        slot.grant(inode, caller.uid, access, &self.linger, Claim::NoKey, open)
    }

    /// Completes an unwrap: opens the content, grants it, and answers who waits.
    fn land(
        &self,
        flight: Flight,
        inode: &Arc<Inode>,
        uid: u32,
        access: Access,
        lower: OwnedFd,
        keys: Result<Box<dyn FileKeys>, Failure>,
    ) {
        let waiting = self.park.land(flight);
        if waiting.is_empty() {
            return;
        }
        let opened = keys.map_err(OpError::from).and_then(|keys| {
            let _opening = self.opening()?;
            let claim = Claim::Keys(keys.mark());
            let open = || self.open_content(inode, lower, access, keys);
            let slot = &inode.open;
            slot.grant(inode, uid, access, &self.linger, claim, open)
        });
        // Held until all have a use of their own, so that the first to close does not end it.
        let result = opened.as_ref().map(drop).map_err(Clone::clone);
        for wake in waiting {
            wake(result.clone());
        }
    }

    /// Opens a file by its keys; refuses one that is not where it belongs.
    fn open_content(
        &self,
        inode: &Inode,
        lower: OwnedFd,
        access: Access,
        keys: Box<dyn FileKeys>,
    ) -> Result<Box<dyn Content>, OpError> {
        let tree = self.tree()?;
        for _ in 0..WALKS {
            let place = inode.place();
            let parent = place
                .as_ref()
                .map(|place| self.dir_of(&place.parent))
                .transpose()?;
            // What it is bound to and where it is change together.
            let places = inode.places();
            let stays = match (places.first(), &place) {
                (Some(now), Some(then)) => now.is(then),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if stays {
                let at = parent.as_deref().zip(place.as_ref());
                let at = at.map(|(parent, place)| location(parent, &place.name));
                let content = keys.open(lower, access.into(), &*tree, at)?;
                if let Some(edition) = content.edition()
                    && let Some(before) = self.linger.editions.before(edition)
                {
                    // Somebody has written it below: what the kernel knows is of then.
                    inode.size_told.of_another(before.size);
                }
                return Ok(content);
            }
        }
        Err(Errno::ESTALE.into())
    }

    /// Gives a file whose header never reached the disk a new one: nothing of it is wanted.
    fn make_anew(
        &self,
        inode: &Arc<Inode>,
        caller: Caller,
        lower: OwnedFd,
    ) -> Result<OpenUse, OpError> {
        let _opening = self.opening()?;
        let place = inode.place().ok_or(Errno::ESTALE)?;
        let parent = self.dir_of(&place.parent)?;
        let fresh = self.keys.fresh(caller.uid)?;
        let links = if fstat(&lower)?.st_nlink > 1 {
            native::Links::Several
        } else {
            native::Links::One
        };
        let tree = self.tree()?;
        let claim = Claim::NewFile(fresh.mark());
        let create = || {
            // Since it was looked at, somebody may have made it, and written it.
            let lower = match self.format.begin(lower, native::Access::ReadWrite)? {
                Begun::Empty(lower) | Begun::NeverReachedDisk(lower) => lower,
                Begun::Sealed { .. } | Begun::Open(_) => return Err(Errno::ESTALE.into()),
            };
            nix::unistd::ftruncate(&lower, 0)?;
            let at = location(&parent, &place.name);
            Ok(fresh.create(lower, &*tree, at, links)?)
        };
        let (slot, access) = (&inode.open, Access::Write);
        slot.grant(inode, caller.uid, access, &self.linger, claim, create)
    }

    /// O_TRUNC: nothing is left of the content, and of what its old author was trusted with.
    fn cut(&self, open: &OpenUse, caller: Caller) -> Result<(), OpError> {
        open.truncate(0)?;
        // As a change: it is not put back after what is being written for other reasons.
        open.change(|content| {
            if caller.suid_on_change() == SuidOnChange::Clear {
                self.clear_suid(content.as_fd())?;
            }
            // The time is set even where there was nothing to cut.
            Ok(touch(content.as_fd())?)
        })
    }

    /// Opens the lower file. Writing needs reading, too: blocks are larger than what is written.
    fn open_lower(&self, inode: &Inode, access: Access) -> Result<OwnedFd, OpError> {
        // Another may have its number below, and be open.
        if inode.is_gone() {
            return Err(Errno::ESTALE.into());
        }
        let flags = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::Write => OFlag::O_RDWR,
        };
        let lower = match self.at(inode, |dir, name| Ok(open_regular(dir, name, flags)?)) {
            // The kernel has granted the access that was asked for. We need more, to read what may
            // only be written: as the owner we may take it.
            Err(OpError::Errno(Errno::EACCES)) => {
                let place = inode.place().ok_or(Errno::ESTALE)?;
                open_whatever_its_mode(&*self.dir_of(&place.parent)?, &place.name, flags)?
            }
            lower => lower?,
        };
        self.same(inode, &fstat(&lower)?)?;
        Ok(lower)
    }
}

impl From<Access> for native::Access {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::ReadOnly,
            Access::Write => Self::ReadWrite,
        }
    }
}

/// What a handle may be used for.
pub(crate) fn access_of(flags: OpenFlags) -> Access {
    match flags.acc_mode() {
        OpenAccMode::O_RDONLY => Access::Read,
        OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => Access::Write,
    }
}

/// Refuses to open what the kernel believes to have another size than it has.
fn check_told(open: &OpenUse, flags: OpenFlags) -> Result<(), OpError> {
    let told = &open.inode().size_told;
    if told.is_verified() {
        return Ok(());
    }
    let opener = match flags.0 & libc::O_APPEND {
        0 => Opener::Other,
        _ => Opener::Appends,
    };
    open.file().with(|content| {
        let lower_len = || Ok(unsigned(fstat(content.as_fd())?.st_size));
        told.check(content.size(), opener, lower_len)
    })
}

/// What the kernel may do: keep its pages, since nobody changes a file but through it, unless it was
/// told not to; and close without asking what was only read. Not `FOPEN_NOFLUSH` for writers: the kernel
/// would not write pages of a shared mapping at close(2) (decision 096).
pub(crate) fn open_flags(caching: Caching, access: Access) -> FopenFlags {
    let pages = match caching {
        Caching::Kept => FopenFlags::FOPEN_KEEP_CACHE,
        Caching::DirectIo => FopenFlags::FOPEN_DIRECT_IO,
    };
    match access {
        Access::Read => pages | FopenFlags::FOPEN_NOFLUSH,
        Access::Write => pages,
    }
}
