//! One writer a volume: the lock that says a lower folder is mounted.
//!
//! Blocks, slots and records of a native file are written in an order that two writers would break,
//! so a mount holds an open-file-description lock on `.claviger/lock` in the lower root, and so do
//! the tools that write there. The kernel drops it with its last descriptor, also after a crash.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::Uid;

/// The lock file, from the lower root.
pub const LOCK_FILE: &str = ".claviger/lock";

/// The folder that it is in, and its name there.
const FOLDER: &str = ".claviger";
const NAME: &str = "lock";

/// Time between two attempts to take a volume that somebody has.
const PACE: Duration = Duration::from_millis(20);

/// What the holder is going to do in the lower folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read; so may others.
    Read,
    /// Write; nobody else may do anything.
    Write,
}

/// The volume of a lower folder, taken for as long as this lives.
#[derive(Debug)]
pub struct Taken {
    _lock: Lock,
}

/// What keeps others out.
#[derive(Debug)]
#[expect(dead_code, reason = "held, to be let go of")]
enum Lock {
    /// A lock on [`LOCK_FILE`].
    File(File),
    /// One on the lower folder itself, where nothing of ours may lie in it.
    Folder(Flock<OwnedFd>),
    /// None: on a read-only medium nobody can write anyway.
    Needless,
}

/// Why a lower folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Another mount or tool has it.
    #[error("the volume is mounted already, or a tool is writing to it")]
    InUse,
    /// The lock file cannot be opened or locked.
    #[error("{0}")]
    Io(io::Error),
}

impl Taken {
    /// Takes the volume in `lower_root`, and waits up to `patience` for whoever has it: umount(8)
    /// returns while the server that it ended still writes out.
    ///
    /// # Errors
    /// [`TakeError::InUse`] if another mount or tool has it even then.
    pub fn take_within(
        lower_root: &Path,
        purpose: Use,
        patience: Duration,
    ) -> Result<Self, TakeError> {
        within(patience, || Self::take(lower_root, purpose))
    }

    /// Takes the lower folder `lower_root` itself, in which nothing is made for it; waits as
    /// [`Taken::take_within`] does.
    ///
    /// # Errors
    /// [`TakeError::InUse`] if another mount has it even then.
    pub fn take_folder_within(
        lower_root: &OwnedFd,
        purpose: Use,
        patience: Duration,
    ) -> Result<Self, TakeError> {
        let how = match purpose {
            Use::Read => FlockArg::LockSharedNonblock,
            Use::Write => FlockArg::LockExclusiveNonblock,
        };
        within(patience, || {
            // flock(2) locks an open file description: this one must not be shared with others' uses.
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let folder = openat(lower_root, ".", flags, Mode::empty());
            let folder = folder.map_err(|errno| TakeError::Io(errno.into()))?;
            match Flock::lock(folder, how) {
                Ok(lock) => Ok(Self {
                    _lock: Lock::Folder(lock),
                }),
                Err((_, Errno::EWOULDBLOCK)) => Err(TakeError::InUse),
                Err((_, errno)) => Err(TakeError::Io(errno.into())),
            }
        })
    }

    /// Takes the volume in `lower_root` without waiting.
    ///
    /// # Errors
    /// [`TakeError::InUse`] if another mount or tool has it.
    pub fn take(lower_root: &Path, purpose: Use) -> Result<Self, TakeError> {
        let file = match (open_lock_file(lower_root, purpose), purpose) {
            (Ok(file), _) => file,
            // A reader makes no lock file; without one, nobody has ever written there.
            (Err(error), Use::Read) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    _lock: Lock::Needless,
                });
            }
            (Err(error), _) => return Err(TakeError::Io(error)),
        };
        let lock = libc::flock {
            l_type: match purpose {
                Use::Read => libc::F_RDLCK,
                Use::Write => libc::F_WRLCK,
            } as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(Self {
                _lock: Lock::File(file),
            }),
            Err(Errno::EAGAIN | Errno::EACCES) => Err(TakeError::InUse),
            Err(error) => Err(TakeError::Io(error.into())),
        }
    }
}

fn within<T>(patience: Duration, take: impl Fn() -> Result<T, TakeError>) -> Result<T, TakeError> {
    let deadline = Instant::now() + patience;
    loop {
        match take() {
            Err(TakeError::InUse) if Instant::now() < deadline => thread::sleep(PACE),
            outcome => return outcome,
        }
    }
}

/// Opens the lock file, and for a writer makes it.
///
/// Root does this in a folder whose owner may swap what is there meanwhile: nothing leads out of the
/// folder that was opened, nothing waits, and root gives away only what it has just made.
fn open_lock_file(lower_root: &Path, purpose: Use) -> io::Result<File> {
    let folder_flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = open(&lower_root.join(FOLDER), folder_flags, Mode::empty())?;
    let safe = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let access = match purpose {
        Use::Read => OFlag::O_RDONLY,
        Use::Write => OFlag::O_RDWR,
    };
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    if purpose == Use::Write {
        match openat(
            &folder,
            NAME,
            access | safe | OFlag::O_CREAT | OFlag::O_EXCL,
            mode,
        ) {
            Ok(made) => {
                give_to_owner(&made, &folder)?;
                return Ok(made.into());
            }
            Err(Errno::EEXIST) => (),
            Err(errno) => return Err(errno.into()),
        }
    }
    let file = File::from(openat(&folder, NAME, access | safe, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(file)
}

/// Gives a lock file that root made to whom the volume belongs: he is to mount it himself, too.
fn give_to_owner(made: &OwnedFd, folder: &OwnedFd) -> io::Result<()> {
    let owner = fstat(folder)?;
    if !Uid::effective().is_root() || owner.st_uid == 0 {
        return Ok(());
    }
    fchown(made, Some(owner.st_uid), Some(owner.st_gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower() -> tempfile::TempDir {
        let lower = tempfile::tempdir().unwrap();
        std::fs::create_dir(lower.path().join(".claviger")).unwrap();
        lower
    }

    #[test]
    fn a_second_writer_is_refused_until_the_first_has_gone() {
        let lower = lower();
        let take = |purpose| Taken::take(lower.path(), purpose);
        let first = take(Use::Write).unwrap();
        assert!(matches!(take(Use::Write), Err(TakeError::InUse)));
        assert!(matches!(take(Use::Read), Err(TakeError::InUse)));
        drop(first);
        take(Use::Write).unwrap();
    }

    #[test]
    fn a_writer_who_goes_in_time_is_waited_for() {
        let lower = lower();
        let first = Taken::take(lower.path(), Use::Write).unwrap();
        let going = thread::spawn(move || drop(first));
        Taken::take_within(lower.path(), Use::Write, Duration::from_secs(10)).unwrap();
        going.join().unwrap();
    }

    #[test]
    fn readers_keep_each_other_company_and_writers_out() {
        let lower = lower();
        let take = |purpose| Taken::take(lower.path(), purpose);
        drop(take(Use::Write).unwrap());
        let _first = take(Use::Read).unwrap();
        let _second = take(Use::Read).unwrap();
        assert!(matches!(take(Use::Write), Err(TakeError::InUse)));
    }

    #[test]
    fn a_folder_that_nothing_may_be_made_in_is_taken_itself() {
        let lower = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(File::open(lower.path()).unwrap());
        let take = |purpose| Taken::take_folder_within(&root, purpose, Duration::ZERO);
        let first = take(Use::Write).unwrap();
        assert!(matches!(take(Use::Write), Err(TakeError::InUse)));
        assert!(matches!(take(Use::Read), Err(TakeError::InUse)));
        drop(first);
        let _readers = (take(Use::Read).unwrap(), take(Use::Read).unwrap());
        assert!(matches!(take(Use::Write), Err(TakeError::InUse)));
        assert_eq!(std::fs::read_dir(lower.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_place_of_the_lock_file_is_not_followed() {
        let lower = lower();
        let target = lower.path().join("target");
        std::os::unix::fs::symlink(&target, lower.path().join(LOCK_FILE)).unwrap();
        assert!(matches!(
            Taken::take(lower.path(), Use::Write),
            Err(TakeError::Io(_))
        ));
        assert!(!target.exists());
    }

    #[test]
    fn a_link_in_place_of_its_folder_is_not_followed() {
        let lower = lower();
        let elsewhere = lower.path().join("elsewhere");
        std::fs::rename(lower.path().join(FOLDER), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, lower.path().join(FOLDER)).unwrap();
        assert!(matches!(
            Taken::take(lower.path(), Use::Write),
            Err(TakeError::Io(_))
        ));
        assert!(!elsewhere.join(NAME).exists());
    }

    #[test]
    fn a_fifo_in_place_of_the_lock_file_is_refused_and_holds_up_nobody() {
        let lower = lower();
        nix::unistd::mkfifo(&lower.path().join(LOCK_FILE), Mode::S_IRWXU).unwrap();
        for purpose in [Use::Read, Use::Write] {
            let taken = Taken::take(lower.path(), purpose);
            assert!(matches!(taken, Err(TakeError::Io(_))), "{purpose:?}");
        }
    }
}
