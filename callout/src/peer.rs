//! Who may talk: uids as the kernel vouches for them, and nothing else.

use std::fs;
use std::io;

use nix::unistd::Uid;

/// Who sent a frame, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    /// The only thing trusted.
    pub(crate) uid: u32,
    /// Used to notice that a process ended, never to allow anything: it is not translated across
    /// pid namespaces on netlink.
    pub(crate) pid: i32,
    /// Netlink port id; 0 on a unix socket.
    pub(crate) port: u32,
}

/// Inode of the initial user namespace (`PROC_USER_INIT_INO`, Linux `include/linux/proc_ns.h`).
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// What this process knows of uids.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uids {
    /// Its own.
    pub(crate) own: u32,
    /// What the kernel says for a uid that has no number here.
    overflow: u32,
    root: Root,
}

/// What uid 0 means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    /// The machine's administrator.
    Real,
    /// Whoever made this user namespace.
    OfNamespace,
}

impl Uids {
    /// Reads them from the kernel.
    ///
    /// # Errors
    /// If `/proc` is not mounted, or this process has no uid of its own here, or two.
    pub(crate) fn read() -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;

        let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid")?;
        let overflow = overflow.trim().parse().map_err(io::Error::other)?;
        let namespace = fs::metadata("/proc/self/ns/user")?.ino();
        let root = match namespace {
            INITIAL_USER_NAMESPACE => Root::Real,
            _ => Root::OfNamespace,
        };
        // Messages carry the real uid (scm_set_cred, Linux `include/net/scm.h`), files the effective.
        let own = Uid::current().as_raw();
        if own != Uid::effective().as_raw() {
            return Err(io::Error::other("real and effective uid differ"));
        }
        if own == overflow {
            return Err(io::Error::other(
                "this process has no uid in its user namespace",
            ));
        }
        Ok(Self {
            own,
            overflow,
            root,
        })
    }

    /// Whether `uid` says who somebody is: many are shown as the overflow uid.
    pub(crate) fn is_somebody(&self, uid: u32) -> bool {
        uid != self.overflow
    }

    /// Whether what `owner` publishes is to be believed: this uid, or the machine's root.
    pub(crate) fn trusts(&self, owner: u32) -> bool {
        self.is_somebody(owner) && (owner == self.own || (owner == 0 && self.root == Root::Real))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_oneself_and_the_machines_root_are_trusted() {
        let uids = Uids {
            own: 1000,
            overflow: 65534,
            root: Root::Real,
        };
        assert!(uids.trusts(1000) && uids.trusts(0));
        assert!(!uids.trusts(1001) && !uids.trusts(65534));
        let contained = Uids {
            root: Root::OfNamespace,
            ..uids
        };
        assert!(contained.trusts(1000) && !contained.trusts(0));
        let overflowed = Uids { own: 65534, ..uids };
        assert!(!overflowed.trusts(65534));
    }
}
