//! Mounting and unmounting themselves: mount(2) for root, fusermount3 for users.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use claviger_protocol::Failure;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{Uid, getgid, getuid};

use crate::fuse::Engine;
use crate::options::{Audience, Options};

/// The subtype in mount tables: `fuse.claviger`.
const SUBTYPE: &str = "claviger";

/// Where the kernel hands out mounts.
const DEVICE: &str = "/dev/fuse";

/// Event loops at most: each serves inline, so more than there are processors only take turns.
const LOOPS_MAX: usize = 8;

/// How many event loops a mount has.
pub(crate) fn loops() -> usize {
    thread::available_parallelism()
        .map_or(1, usize::from)
        .min(LOOPS_MAX)
}

/// Mounts, and answers the kernel's first request.
pub(crate) fn attach(
    engine: Engine,
    lower: &Path,
    mountpoint: &Path,
    options: &Options,
) -> Result<Session<Engine>, Failure> {
    let source = options.source_name.clone();
    let source = source.unwrap_or_else(|| lower.to_string_lossy().into_owned());
    let mut config = Config::default();
    config.acl = match options.audience {
        Audience::Owner => SessionACL::Owner,
        Audience::Everyone => SessionACL::All,
    };
    config.n_threads = Some(loops());
    config.clone_fd = true;
    match mount_as_root(&source, mountpoint, options) {
        Ok(device) => {
            let acl = config.acl;
            Session::from_fd(engine, device, acl, config).map_err(|error| {
                // Nobody would answer for it.
                let _ = umount2(mountpoint, MntFlags::MNT_DETACH);
                refusal(mountpoint, &error)
            })
        }
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            config.mount_options = mount_options(&source, options.flags);
            let session = Session::new(engine, mountpoint, &config);
            session.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Failure::Internal(
                    "fusermount3 is not there, by which users mount: it is in the package fuse3"
                        .into(),
                ),
                _ => refusal(mountpoint, &error),
            })
        }
        Err(error) => Err(refusal(mountpoint, &error)),
    }
}

fn refusal(mountpoint: &Path, error: &io::Error) -> Failure {
    if !Path::new(DEVICE).exists() {
        return Failure::Internal(format!("there is no {DEVICE}: modprobe fuse"));
    }
    let text = format!("mounting on {}: {error}", mountpoint.display());
    Failure::BadMountpoint(text.trim_end().into())
}

/// mount(2), which fuser does too, but without the subtype: mount tables and `mount -t` would not
/// know the mount for what it is. `EPERM` for whoever has to go through fusermount3.
fn mount_as_root(source: &str, mountpoint: &Path, options: &Options) -> io::Result<OwnedFd> {
    if !Uid::effective().is_root() {
        return Err(Errno::EPERM.into());
    }
    let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    let mode = fs::metadata(mountpoint)?.mode();
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        getuid(),
        getgid(),
    );
    if options.audience == Audience::Everyone {
        data.push_str(",allow_other");
    }
    let kind = format!("fuse.{SUBTYPE}");
    mount(
        Some(source),
        mountpoint,
        Some(kind.as_str()),
        options.flags,
        Some(data.as_str()),
    )?;
    Ok(device.into())
}

/// The same for fusermount3, which takes words between commas; fuser 0.18 escapes none.
fn mount_options(source: &str, flags: MsFlags) -> Vec<MountOption> {
    let source = source.replace('\\', "\\\\").replace(',', "\\,");
    let mut words = vec![
        MountOption::FSName(source),
        MountOption::Subtype(SUBTYPE.into()),
        MountOption::DefaultPermissions,
    ];
    let table = [
        (MsFlags::MS_RDONLY, MountOption::RO),
        (MsFlags::MS_NOSUID, MountOption::NoSuid),
        (MsFlags::MS_NODEV, MountOption::NoDev),
        (MsFlags::MS_NOEXEC, MountOption::NoExec),
        (MsFlags::MS_NOATIME, MountOption::NoAtime),
    ];
    let set = table.into_iter().filter(|(flag, _)| flags.contains(*flag));
    words.extend(set.map(|(_, word)| word));
    words
}

/// What becomes of a mount that has open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// It stays.
    Refuse,
    /// It leaves the tree now, and ends with its last file.
    Detach,
}

/// Unmounts, as root or through fusermount3.
///
/// # Errors
/// Also if the mount is busy and [`Busy::Refuse`].
pub(crate) fn unmount(mountpoint: &Path, busy: Busy) -> io::Result<()> {
    let flags = match busy {
        Busy::Refuse => MntFlags::empty(),
        Busy::Detach => MntFlags::MNT_DETACH,
    };
    match umount2(mountpoint, flags) {
        Ok(()) => return Ok(()),
        Err(Errno::EPERM) => (),
        Err(errno) => return Err(errno.into()),
    }
    let mut helper = Command::new("fusermount3");
    helper.arg("-u");
    if busy == Busy::Detach {
        helper.arg("-z");
    }
    let output = helper.arg("--").arg(mountpoint).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}
