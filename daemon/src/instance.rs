//! One daemon a user: the lock that says so, and the socket that it listens on.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

/// The right to be this user's daemon, while it lives; its control socket goes with it.
#[derive(Debug)]
pub struct Instance {
    // Held for its lock. The lock file stays: removing it would let two daemons lock two files.
    _lock: Flock<File>,
    socket: PathBuf,
}

/// Why this process is not the daemon.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// There is one already.
    #[error("another clavigerd of this user is running")]
    Running,
    /// The runtime folder belongs to somebody else, or others may enter it.
    #[error("{}: must belong to uid {} and be closed to others", .0.display(), Uid::current())]
    OpenToOthers(PathBuf),
    /// It cannot be made.
    // Not a `source`, which whoever shows a chain of causes would say once more.
    #[error("{}: {why}", path.display())]
    Io {
        /// What was being made.
        path: PathBuf,
        /// Why it was not.
        why: io::Error,
    },
}

impl Instance {
    /// Becomes the daemon whose control socket is `socket`: makes its folder, takes the lock, and
    /// replaces a socket that a dead daemon left.
    ///
    /// # Errors
    /// [`InstanceError`].
    pub fn acquire(socket: &Path) -> Result<(Self, UnixListener), InstanceError> {
        let folder = socket.parent().unwrap_or(Path::new("/"));
        private_folder(folder)?;
        let lock_path = socket.with_extension("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| io_error(&lock_path, source))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(InstanceError::Running),
            Err((_, errno)) => return Err(io_error(&lock_path, errno.into())),
        };
        // Whoever holds the lock owns the name: what is there is a dead daemon's.
        match fs::remove_file(socket) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(socket, source));
            }
            _ => {}
        }
        let listener = UnixListener::bind(socket).map_err(|source| io_error(socket, source))?;
        let socket = socket.to_owned();
        Ok((
            Self {
                _lock: lock,
                socket,
            },
            listener,
        ))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.socket) {
            tracing::debug!(%error, "control socket is gone already");
        }
    }
}

/// Makes `folder` with mode 0700, its parents too, and checks that it is ours alone.
///
/// # Errors
/// [`InstanceError`].
pub fn private_folder(folder: &Path) -> Result<(), InstanceError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| io_error(folder, source))?;
    let found = fs::symlink_metadata(folder).map_err(|source| io_error(folder, source))?;
    let ours = found.is_dir() && found.uid() == Uid::effective().as_raw();
    if !ours || found.mode() & 0o077 != 0 {
        return Err(InstanceError::OpenToOthers(folder.into()));
    }
    Ok(())
}

fn io_error(path: &Path, why: io::Error) -> InstanceError {
    InstanceError::Io {
        path: path.into(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_daemon_of_one_user_is_refused_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/daemon.sock");
        let (first, _listener) = Instance::acquire(&socket).unwrap();
        assert!(matches!(
            Instance::acquire(&socket),
            Err(InstanceError::Running)
        ));
        drop(first);
        Instance::acquire(&socket).unwrap();
    }

    #[test]
    fn a_socket_left_by_a_dead_daemon_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/daemon.sock");
        private_folder(&dir.path().join("run")).unwrap();
        drop(UnixListener::bind(&socket).unwrap());
        let (_instance, _listener) = Instance::acquire(&socket).unwrap();
        std::os::unix::net::UnixStream::connect(&socket).unwrap();
    }

    #[test]
    fn the_socket_is_gone_once_the_daemon_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/daemon.sock");
        drop(Instance::acquire(&socket).unwrap());
        assert!(!socket.exists());
    }

    #[test]
    fn a_runtime_folder_that_others_may_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let refused = Instance::acquire(&folder.join("daemon.sock"));
        assert!(matches!(refused, Err(InstanceError::OpenToOthers(_))));
    }
}
