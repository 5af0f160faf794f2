//! `claviger mount` and `claviger umount`.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use claviger_protocol::control::FolderFormat;
use claviger_protocol::failure::ExitCode;
use claviger_protocol::paths;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::mount::{MntFlags, umount2};
use nix::unistd::Uid;

use super::lock;
use crate::args::{Format, GivenKeys, Mount};
use crate::ecryptfs::{self, Mounting, Options, Purpose};
use crate::print::errln;
use crate::prompter::Prompter;
use crate::{Failed, place};

/// The filesystem program.
const FILESYSTEM: &str = "claviger-fs";

/// The filesystem holds it, from the lower root, as long as it may write there.
const LOCK_FILE: &str = ".claviger/lock";

/// How long the last writes of a mount are waited for.
const LAST_WRITES: Duration = Duration::from_secs(30);

pub(super) fn run(mount: Mount, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let dir = place::lower_folder(&mount.dir)?;
    let format = format(&mount)?;
    if mount.keys.are_given() && (mount.locked || is_for_several_users(&mount)) {
        return Err(Failed::usage(
            "this mount is not unlocked by who makes it, and needs no key",
        ));
    }
    match format {
        Format::Native => native(&dir, &mount, prompter),
        Format::Ecryptfs => of_ecryptfs(&dir, &mount, Options::parse(&mount.options)?, prompter),
    }
}

/// As the command line says, or as fstab(5) does.
fn format(mount: &Mount) -> Result<Format, Failed> {
    let said = FolderFormat::of_options(mount.options.iter().map(String::as_str))
        .map_err(|unknown| Failed::usage(unknown.to_string()))?;
    Ok(said.map_or(mount.format, Format::from))
}

fn native(dir: &Path, mount: &Mount, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let options = &mount.options;
    if !mount.locked && !is_for_several_users(mount) {
        let with = lock::with(&mount.keys)?;
        // What it would refuse, it refuses before anybody is asked for a PIN.
        match filesystem(dir, mount, options, Some("--check"))? {
            ExitCode::Ok => lock::open(dir, with, prompter)?,
            refused => return Ok(refused),
        };
    }
    filesystem(dir, mount, options, mount.foreground.then_some("-f"))
}

fn of_ecryptfs(
    dir: &Path,
    mount: &Mount,
    options: Options,
    prompter: &mut Prompter,
) -> Result<ExitCode, Failed> {
    let mut folder = Mounting::plan(dir, options)?;
    let opens = !mount.locked && !is_for_several_users(mount) && !folder.shows_lower_files();
    if opens {
        if let Some(options) = folder.filesystem_options() {
            match filesystem(dir, mount, &options, Some("--check"))? {
                ExitCode::Ok => {}
                refused => return Ok(refused),
            }
        }
        lock::open_folder(&mut folder, dir, (&mount.keys, Purpose::Mount), prompter)?;
    }
    let options = folder.filesystem_options().ok_or_else(|| {
        Failed::usage(format!(
            "{} does not say whom new files are for",
            dir.display()
        ))
        .advise("Name a key by '-o ecryptfs_sig=SIG'")
    })?;
    errln!("claviger: {}", ecryptfs::WARNING);
    filesystem(dir, mount, &options, mount.foreground.then_some("-f"))
}

/// Mounts the volume in `dir`, which has been unlocked, for this user alone.
pub(super) fn volume_privately(dir: &Path, mountpoint: &Path) -> Result<(), Failed> {
    let mount = private(dir, mountpoint, Format::Native, GivenKeys::default());
    mounted(dir, filesystem(dir, &mount, &mount.options, None)?)
}

/// Unlocks the folder of eCryptfs in `dir` and mounts it read-only for this user alone.
pub(super) fn ecryptfs_privately(
    dir: &Path,
    mountpoint: &Path,
    (keys, options): (&GivenKeys, Options),
    prompter: &mut Prompter,
) -> Result<(), Failed> {
    let mount = private(dir, mountpoint, Format::Ecryptfs, keys.clone());
    let options = options.read_only_alone();
    mounted(dir, of_ecryptfs(dir, &mount, options, prompter)?)
}

fn private(dir: &Path, mountpoint: &Path, format: Format, keys: GivenKeys) -> Mount {
    Mount {
        options: Vec::new(),
        foreground: false,
        locked: false,
        format,
        keys,
        dir: dir.to_owned(),
        mountpoint: mountpoint.to_owned(),
    }
}

fn mounted(dir: &Path, code: ExitCode) -> Result<(), Failed> {
    match code {
        ExitCode::Ok => Ok(()),
        code => {
            let what = format!("{} cannot be mounted", dir.display());
            Err(Failed::new(code, what))
        }
    }
}

/// Runs the filesystem program, which says itself what is wrong.
fn filesystem(
    dir: &Path,
    mount: &Mount,
    options: &[String],
    flag: Option<&str>,
) -> Result<ExitCode, Failed> {
    let program = paths::program(FILESYSTEM);
    let mut command = Command::new(&program);
    command.args(flag).arg(dir).arg(&mount.mountpoint);
    if !options.is_empty() {
        command.arg("-o").arg(options.join(","));
    }
    let status = command
        .status()
        .map_err(|error| Failed::file(&program, &error))?;
    // Its exit codes are those of this program.
    let code = ExitCode::TABLE
        .iter()
        .map(|(code, _)| *code)
        .find(|code| status.code() == Some(*code as i32));
    Ok(code.unwrap_or(ExitCode::Internal))
}

/// On root's mount for several users each opens with a key and a daemon of their own.
fn is_for_several_users(mount: &Mount) -> bool {
    Uid::effective().is_root() && mount.options.iter().any(|option| option == "allow_other")
}

pub(super) fn unmount(mountpoint: &Path) -> Result<ExitCode, Failed> {
    let mountpoint =
        std::path::absolute(mountpoint).map_err(|error| Failed::file(mountpoint, &error))?;
    let mount = place::mount_at(&mountpoint)?;
    let named = mount.as_ref().map(|mount| mount.mountpoint.as_path());
    detach(named.unwrap_or(&mountpoint), mount.as_ref())?;
    if let Some(mount) = mount {
        wait_for_last_writes(&mount.lower, LAST_WRITES)?;
    }
    Ok(ExitCode::Ok)
}

/// Unmounts what is at `mountpoint`; `known` is what the table of mounts has there of ours.
fn detach(mountpoint: &Path, known: Option<&place::Mounted>) -> Result<(), Failed> {
    if Uid::effective().is_root() {
        return umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|errno| refused(mountpoint, errno));
    }
    let output = Command::new("fusermount3")
        .arg("-u")
        .arg("--")
        .arg(mountpoint)
        .output()
        .map_err(|error| Failed::file(Path::new("fusermount3"), &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(refused(mountpoint, Errno::EBUSY));
    }
    // "entry for … not found in /etc/mtab", if there is no mount or it is another user's.
    let refusal = match known {
        Some(_) if !said.contains("not found") => Failed::new(
            ExitCode::Internal,
            format!("{} could not be unmounted", mountpoint.display()),
        ),
        _ => refused(mountpoint, Errno::EINVAL),
    };
    Err(refusal.advise(said.trim()))
}

/// The kernel detaches the mount before the filesystem has written everything out; whoever unplugs or
/// copies the lower folder next must find it whole. The filesystem's lock goes when it has.
fn wait_for_last_writes(lower: &Path, at_most: Duration) -> Result<(), Failed> {
    let is_done: Box<dyn Fn() -> bool + '_> =
        match (File::open(lower.join(LOCK_FILE)), File::open(lower)) {
            (Ok(file), _) => Box::new(move || is_unlocked(&file)),
            // A folder of eCryptfs has nothing of ours in it, and is locked itself.
            (Err(_), Ok(_)) => Box::new(|| {
                let folder = File::open(lower);
                folder.is_ok_and(|it| Flock::lock(it, FlockArg::LockSharedNonblock).is_ok())
            }),
            // Not ours to see: another user's mount, unmounted by root.
            (Err(_), Err(_)) => return Ok(()),
        };
    let begun = Instant::now();
    while begun.elapsed() < at_most {
        if is_done() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let what = format!("the filesystem is still writing to {}", lower.display());
    Err(Failed::new(ExitCode::Busy, what)
        .advise("It is unmounted; copy or unplug that folder when claviger-fs has ended"))
}

fn is_unlocked(file: &File) -> bool {
    let mut lock = whole(libc::F_RDLCK);
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_err() || lock.l_type == libc::F_UNLCK as libc::c_short
}

/// A lock of the whole file.
fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn refused(mountpoint: &Path, errno: Errno) -> Failed {
    let at = mountpoint.display();
    match errno {
        Errno::EBUSY => Failed::new(ExitCode::Busy, format!("{at} is in use")).advise(format!(
            "'fuser -vm {at}' shows by whom; 'claviger lock {at}' closes it to everyone now"
        )),
        Errno::EINVAL | Errno::ENOENT => Failed::new(
            ExitCode::BadMountpoint,
            format!("nothing of yours is mounted at {at}"),
        ),
        Errno::EPERM => Failed::new(
            ExitCode::Permission,
            format!("{at} was mounted by somebody else"),
        ),
        other => Failed::new(ExitCode::Internal, format!("{at}: {}", other.desc())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::DirBuilder;

    use super::*;

    #[test]
    fn last_writes_that_take_too_long_are_an_error() {
        let volume = tempfile::tempdir().unwrap();
        DirBuilder::new()
            .create(volume.path().join(".claviger"))
            .unwrap();
        let file = File::create(volume.path().join(LOCK_FILE)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let lock = whole(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        let folders = File::open(folder.path()).unwrap();
        let locked = Flock::lock(folders, FlockArg::LockExclusive).unwrap();
        let wait = |dir: &tempfile::TempDir| {
            wait_for_last_writes(dir.path(), Duration::from_millis(20)).map_err(|it| it.code())
        };
        assert_eq!(wait(&volume), Err(ExitCode::Busy));
        assert_eq!(wait(&folder), Err(ExitCode::Busy));
        drop((file, locked));
        assert_eq!((wait(&volume), wait(&folder)), (Ok(()), Ok(())));
    }
}
