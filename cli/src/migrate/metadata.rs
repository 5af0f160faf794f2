//! Owner, mode, times and attributes, given to what has been made in NEW.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat};
use nix::unistd::{Gid, Uid, fchownat};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::attributes::Attributes;
use super::folder::proc_path;
use super::loss::{Aspect, Loss};
use super::object::{Kind, Object, Time};

/// Set-user-id and set-group-id.
const SETID: u32 = libc::S_ISUID | libc::S_ISGID;

/// An object with all that is kept of it besides its content.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) object: Object,
    attributes: Attributes,
}

impl Metadata {
    /// Reads what is known of what `held` holds.
    pub(super) fn read(held: BorrowedFd<'_>) -> Result<Self, Errno> {
        let object = Object::of(&fstat(held)?);
        let attributes = match object.kind {
            Kind::Symlink => Attributes::default(),
            _ => Attributes::read(held)?,
        };
        Ok(Self { object, attributes })
    }

    /// Gives it to what `held` holds. What that is then, and what it did not take.
    pub(super) fn give(&self, held: BorrowedFd<'_>) -> Result<(Object, Vec<Loss>), Errno> {
        let mut losses = Vec::new();
        let mut mode = self.object.mode;
        if let Owner::Other = self.give_owner(held)? {
            losses.push(Loss::new(
                Aspect::Owner,
                format!(
                    "only root can give it to {}:{}",
                    self.object.uid, self.object.gid
                ),
            ));
            if self.object.kind != Kind::Directory {
                // As cp(1) does: a program of somebody else's must not become one of ours.
                mode &= !SETID;
            }
        }
        if self.object.kind != Kind::Symlink {
            losses.extend(self.attributes.give(held)?);
            set_mode(held, mode)?;
        }
        set_times(held, self.object.accessed, Some(self.object.modified))?;
        let new = Object::of(&fstat(held)?);
        if self.object.kind != Kind::Symlink && new.mode != self.object.mode {
            losses.push(Loss::new(
                Aspect::Mode,
                format!("{:o} instead of {:o}", new.mode, self.object.mode),
            ));
        }
        if new.modified != self.object.modified {
            let why = "the lower filesystem keeps them less exactly";
            losses.push(Loss::new(Aspect::Times, why));
        }
        Ok((new, losses))
    }

    fn give_owner(&self, held: BorrowedFd<'_>) -> Result<Owner, Errno> {
        let new = Object::of(&fstat(held)?);
        let (uid, gid) = (self.object.uid, self.object.gid);
        if (new.uid, new.gid) == (uid, gid) {
            return Ok(Owner::Same);
        }
        let chown = |uid: Option<u32>| {
            let uid = uid.map(Uid::from_raw);
            fchownat(
                held,
                "",
                uid,
                Some(Gid::from_raw(gid)),
                AtFlags::AT_EMPTY_PATH,
            )
        };
        match chown(Some(uid)) {
            Ok(()) => Ok(Owner::Same),
            // A group that one is in can be given alone. EINVAL: an id that a user namespace lacks.
            Err(Errno::EPERM | Errno::EINVAL) => match chown(None) {
                Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => Ok(Owner::Other),
                Err(errno) => Err(errno),
            },
            Err(errno) => Err(errno),
        }
    }

    /// In what `new` is not as this.
    pub(super) fn differences(&self, new: &Self) -> Vec<Aspect> {
        let (was, is) = (&self.object, &new.object);
        let mut differences = self.attributes.differences(&new.attributes);
        if (was.uid, was.gid) != (is.uid, is.gid) {
            differences.push(Aspect::Owner);
        }
        if was.kind != Kind::Symlink && was.mode != is.mode {
            differences.push(Aspect::Mode);
        }
        if was.modified != is.modified {
            differences.push(Aspect::Times);
        }
        if was.number != is.number {
            differences.push(Aspect::Number);
        }
        differences
    }
}

/// Whose the new object is.
enum Owner {
    Same,
    Other,
}

/// Sets the permissions of what `held` holds, which is no symlink.
pub(super) fn set_mode(held: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_bits_truncate(mode);
    fchmodat(
        AT_FDCWD,
        &proc_path(held),
        mode,
        FchmodatFlags::FollowSymlink,
    )
}

/// Sets the times of what `held` holds, even of a symlink; `None` stays.
pub(super) fn set_times(
    held: BorrowedFd<'_>,
    accessed: Time,
    modified: Option<Time>,
) -> Result<(), Errno> {
    let time = |time: Time| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds,
    };
    let omitted = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let times = Timestamps {
        last_access: time(accessed),
        last_modification: modified.map_or(omitted, time),
    };
    utimensat(held, "", &times, rustix::fs::AtFlags::EMPTY_PATH)
        .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}
