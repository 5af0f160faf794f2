//! Publishing an entry, and taking it back.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{Entry, SUFFIX};
use crate::peer::Uids;
use crate::{Instance, Serves};

/// An entry that responders can see; gone, with its socket, when this is dropped.
pub(crate) struct Publication {
    file: PathBuf,
    socket: Option<PathBuf>,
    /// Held as long as the requester lives, killed or not: what tells a dead entry.
    _alive: Flock<File>,
}

impl Publication {
    /// Puts `entry` into `folder`. Its sockets must be listening already.
    pub(crate) fn publish(folder: &Path, entry: &Entry, serves: Serves) -> io::Result<Self> {
        let text = entry.write().map_err(io::Error::other)?;
        let file = folder.join(format!("{}.{SUFFIX}", entry.instance));
        let socket = entry.socket.as_ref().map(|name| folder.join(name));
        // Complete under a name nobody reads, then renamed: a reader sees all of it or nothing.
        let draft = folder.join(format!(".{}.draft", entry.instance));
        let published = write_new(&draft, text.as_bytes(), serves)
            .and_then(|alive| fs::rename(&draft, &file).map(|()| alive));
        match published {
            Ok(alive) => Ok(Self {
                file,
                socket,
                _alive: alive,
            }),
            Err(error) => {
                let leftovers = std::iter::once(draft).chain(socket);
                leftovers.for_each(|path| drop(fs::remove_file(path)));
                Err(error)
            }
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        remove(&self.file, self.socket.as_deref());
    }
}

fn remove(file: &Path, socket: Option<&Path>) {
    for path in std::iter::once(file).chain(socket) {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "rendezvous entry stays behind");
        }
    }
}

fn write_new(path: &Path, contents: &[u8], serves: Serves) -> io::Result<Flock<File>> {
    let mode = match serves {
        Serves::Owner => 0o600,
        Serves::AnyUid => 0o644,
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // The umask may have taken bits others need.
    file.set_permissions(Permissions::from_mode(mode))?;
    let mut file =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
    file.write_all(contents)?;
    Ok(file)
}

/// Makes the folder if it is missing, and checks that nobody else may put things there or take them
/// away; then removes entries whose requester is dead.
pub(crate) fn prepare_folder(folder: &Path, serves: Serves, uids: &Uids) -> io::Result<()> {
    let mode = match serves {
        Serves::Owner => 0o700,
        Serves::AnyUid => 0o755,
    };
    make_folder(folder, mode)?;
    let metadata = fs::metadata(folder)?;
    if !metadata.is_dir() || !uids.trusts(metadata.uid()) || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "folder belongs to, or may be written by, another user",
        ));
    }
    sweep(folder, uids);
    Ok(())
}

/// Makes what is missing of the way to `folder`, whatever the umask.
fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        make_folder(parent, mode)?;
    }
    match DirBuilder::new().mode(mode).create(folder) {
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(mode)),
        // Another requester was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// A requester that was killed leaves its entry behind, and no lock on it.
fn sweep(folder: &Path, uids: &Uids) {
    let Ok(names) = fs::read_dir(folder) else {
        return;
    };
    for path in names.flatten().map(|name| name.path()) {
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        let (Ok(instance), Some(SUFFIX)) = (
            stem.parse::<Instance>(),
            path.extension().and_then(|extension| extension.to_str()),
        ) else {
            continue;
        };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        let own = file.ok().filter(|file| {
            file.metadata()
                .is_ok_and(|metadata| metadata.is_file() && metadata.uid() == uids.own)
        });
        if own.is_some_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()) {
            tracing::debug!(%instance, "removing the entry of a dead requester");
            remove(&path, Some(&folder.join(format!("{instance}.sock"))));
        }
    }
}
