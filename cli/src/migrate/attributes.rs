//! Extended attributes: those of users, and POSIX ACLs.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno as Refused;

use super::folder::proc_path;
use super::loss::{Aspect, Loss};

/// Longest list of names, and longest value, that Linux hands over (limits.h, `XATTR_LIST_MAX` and
/// `XATTR_SIZE_MAX`).
const LONGEST: usize = 65536;

/// What a migration keeps: the namespace of users, and the two ACLs.
const KEPT: [&[u8]; 3] = [
    b"user.",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
];

/// The header of an eCryptfs file, where it is not in the file: through a mount of the kernel's it shows
/// among the attributes of the user. It is eCryptfs's, not the user's.
const HEADER: &[u8] = b"user.ecryptfs";

/// Labels that a machine puts on all its files by rules of its own.
const LABELS: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];

/// The extended attributes of an object.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Names of those that belong to the system.
    others: Vec<Vec<u8>>,
}

impl Attributes {
    /// Reads them from what `held` holds, which is no symlink.
    pub(super) fn read(held: BorrowedFd<'_>) -> Result<Self, Errno> {
        let path = proc_path(held);
        let mut buffer = vec![0; LONGEST];
        let length = match listxattr(&path, buffer.as_mut_slice()) {
            Ok(length) => length,
            Err(Refused::OPNOTSUPP) => return Ok(Self::default()),
            Err(errno) => return Err(plain(errno)),
        };
        let names = buffer.get(..length).unwrap_or_default().to_vec();
        let mut read = Self::default();
        for name in names.split(|byte| *byte == 0) {
            if name.is_empty() || name == HEADER || LABELS.contains(&name) {
                continue;
            }
            if !KEPT.iter().any(|kept| name.starts_with(kept)) {
                read.others.push(name.to_vec());
                continue;
            }
            match getxattr(&path, name, buffer.as_mut_slice()) {
                Ok(length) => {
                    let value = buffer.get(..length).unwrap_or_default();
                    read.kept.insert(name.to_vec(), value.to_vec());
                }
                // Removed since it was listed.
                Err(Refused::NODATA) => {}
                Err(errno) => return Err(plain(errno)),
            }
        }
        Ok(read)
    }

    /// Gives what `held` holds these and no others; says which it did not take.
    pub(super) fn give(&self, held: BorrowedFd<'_>) -> Result<Vec<Loss>, Errno> {
        let path = proc_path(held);
        let has = Self::read(held)?;
        let surplus = |name: &&Vec<u8>| !self.kept.contains_key(*name);
        for name in has.kept.keys().filter(surplus) {
            removexattr(&path, name.as_slice()).map_err(plain)?;
        }
        let mut losses = Vec::new();
        for (name, value) in &self.kept {
            if has.kept.get(name) == Some(value) {
                continue;
            }
            if let Err(errno) = setxattr(&path, name.as_slice(), value, XattrFlags::empty()) {
                // ENOSPC of an attribute is its own: ext4 has a block for all of an inode.
                let refused = [
                    Refused::OPNOTSUPP,
                    Refused::TOOBIG,
                    Refused::NOSPC,
                    Refused::RANGE,
                    Refused::PERM,
                ];
                if !refused.contains(&errno) {
                    return Err(plain(errno));
                }
                losses.push(Loss::new(aspect(name), plain(errno).desc()));
            }
        }
        let others = self.others.iter();
        losses.extend(others.map(|name| Loss::new(aspect(name), "belongs to the system")));
        Ok(losses)
    }

    /// Those that are not alike.
    pub(super) fn differences(&self, other: &Self) -> Vec<Aspect> {
        let mut names: Vec<_> = self.kept.keys().chain(other.kept.keys()).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| self.kept.get(*name) != other.kept.get(*name));
        names.into_iter().map(|name| aspect(name)).collect()
    }
}

fn aspect(name: &[u8]) -> Aspect {
    let name = std::ffi::OsString::from_vec(name.to_vec());
    Aspect::Attribute(name.to_string_lossy().into_owned())
}

fn plain(errno: Refused) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}
