//! Whose request it is, and making lower files that belong to him.

use std::cell::Cell;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::sys;

/// Whose request is served, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// fsuid.
    pub(crate) uid: u32,
    /// fsgid.
    pub(crate) gid: u32,
    /// Thread id; 0 if it is in a pid namespace that we cannot see.
    pub(crate) pid: u32,
}

impl Caller {
    /// What becomes of suid bits when he changes content: only root has `CAP_FSETID` for certain.
    pub(crate) fn suid_on_change(self) -> SuidOnChange {
        if self.uid == 0 { SuidOnChange::Keep } else { SuidOnChange::Clear }
    }
}

/// What becomes of the set-user-id and set-group-id bits when a file's content changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuidOnChange {
    /// The caller may keep them.
    Keep,
    /// They go.
    Clear,
}

/// Who owns new lower files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// We run as root: whoever asks.
    Caller,
    /// We run as a user, and so does everyone who asks.
    Ours,
}

impl Ownership {
    /// What this process can do.
    pub(crate) fn of_process() -> Self {
        if Uid::effective().is_root() { Self::Caller } else { Self::Ours }
    }

    /// Runs `make`, which creates one lower object, as `caller` and with his umask.
    ///
    /// The lower kernel then decides owner, group (setgid directories) and mode (default ACLs) as it
    /// would for the caller himself. Permission is not asked again: the kernel above has decided it,
    /// knowing the supplementary groups that we are not told.
    pub(crate) fn create<T>(self, caller: Caller, mask: u32, make: impl FnOnce() -> T) -> T {
        prepare_thread(self);
        umask(Mode::from_bits_truncate(mask & 0o777));
        match self {
            Self::Ours => make(),
            Self::Caller => {
                let gid = setfsgid(Gid::from_raw(caller.gid));
                let uid = setfsuid(Uid::from_raw(caller.uid));
                let made = make();
                setfsuid(uid);
                setfsgid(gid);
                made
            }
        }
    }
}

thread_local! {
    static PREPARED: Cell<bool> = const { Cell::new(false) };
}

/// Gives this thread an umask of its own and, as root, capabilities that outlast a change of fsuid.
fn prepare_thread(ownership: Ownership) {
    if PREPARED.replace(true) {
        return;
    }
    if let Err(errno) = unshare(CloneFlags::CLONE_FS) {
        tracing::warn!(%errno, "umask is shared between threads: modes of new files may be wrong");
    }
    if ownership == Ownership::Caller
        && let Err(errno) = sys::keep_capabilities_across_setfsuid()
    {
        // Still correct for whoever could have made the lower file himself.
        tracing::warn!(%errno, "creating in directories reached by a supplementary group will fail");
    }
}
