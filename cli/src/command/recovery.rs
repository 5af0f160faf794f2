//! Where a new recovery key goes. It is told once, so there must be room for it before there is one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use claviger_protocol::Secret;
use claviger_protocol::failure::ExitCode;
use nix::unistd::Uid;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::print::outln;
use crate::{Failed, shell_word};

/// More than its text has.
const ROOM: u64 = 256;

/// Where it goes.
#[derive(Debug)]
pub(super) enum Destination {
    /// To standard output.
    Shown,
    /// Into this file, which is empty and has room for it.
    File(File, PathBuf),
}

impl Destination {
    /// Makes the file `path`, if there is one, and room in it.
    ///
    /// # Errors
    /// [`Failed`] if it exists, and not as an empty one that an interrupted command left behind; or if
    /// there is no room.
    pub(super) fn prepare(path: Option<&Path>) -> Result<Self, Failed> {
        let Some(path) = path else {
            return Ok(Self::Shown);
        };
        let failed = |error: &io::Error| Failed::file(path, error);
        let file = match open(OpenOptions::new().create_new(true), path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => left_behind(path)?,
            made => made.map_err(|error| failed(&error))?,
        };
        let room = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, ROOM);
        match room {
            // Where room cannot be kept, the key is shown if there is none.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Self::File(file, path.into())),
            Err(errno) => {
                let _ = fs::remove_file(path);
                Err(failed(&errno.into()))
            }
        }
    }

    /// There is no key: leaves no file that looks like one.
    pub(super) fn give_up(self) {
        match self {
            Self::Shown => {}
            // What went wrong before is what counts.
            Self::File(_, path) => drop(fs::remove_file(path)),
        }
    }

    /// Tells the key of the volume in `dir`: on standard output at least.
    ///
    /// # Errors
    /// [`Failed`], which says whether the key is lost.
    pub(super) fn tell(self, key: &Secret, dir: &Path) -> Result<(), Failed> {
        let (mut file, path) = match self {
            Self::Shown => return show(key, dir),
            Self::File(file, path) => (file, path),
        };
        match write(&mut file, key) {
            Ok(()) => {
                let path = path.display();
                outln!("Recovery key written to {path}: keep it off this machine.");
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(&path);
                show(key, dir)?;
                let advice = "The volume is made; its recovery key is shown instead";
                Err(Failed::file(&path, &error).advise(advice))
            }
        }
    }
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// An empty file that only this user can read is no recovery key.
fn left_behind(path: &Path) -> Result<File, Failed> {
    let file = open(&mut OpenOptions::new(), path).ok().filter(|file| {
        file.metadata().is_ok_and(|it| {
            let is_ours = it.uid() == Uid::effective().as_raw();
            it.is_file() && it.len() == 0 && is_ours && it.mode() & 0o077 == 0
        })
    });
    file.ok_or_else(|| {
        Failed::usage(format!("{} exists already", path.display()))
            .advise("It may hold a volume's recovery key: name a new file")
    })
}

fn write(file: &mut File, key: &Secret) -> io::Result<()> {
    file.write_all(key.expose())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Shows the key on standard output.
fn show(key: &Secret, dir: &Path) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    out.write_all(
        b"\nRecovery key, shown this once. Write it down and keep it off this machine:\n\n    ",
    )
    .and_then(|()| out.write_all(key.expose()))
    .and_then(|()| out.write_all(b"\n\n"))
    .and_then(|()| out.flush())
    .map_err(|error| {
        let what = format!("standard output: {error}: the new recovery key is lost");
        let dir = shell_word::shown(dir);
        Failed::new(ExitCode::Internal, what).advise(format!(
            "'claviger recipient add {dir} --recovery' makes another"
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key() -> Secret {
        Secret::new(b"the key".to_vec())
    }

    #[test]
    fn an_empty_file_of_ones_own_is_written_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery");
        let prepare = || Destination::prepare(Some(&path));
        // Left behind by one that was killed.
        drop(prepare().unwrap());
        prepare().unwrap().tell(&key(), dir.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"the key\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let said = prepare().unwrap_err().to_string();
        assert!(said.contains("exists already\n  It may hold"), "{said}");

        let public = dir.path().join("public");
        fs::write(&public, "").unwrap();
        fs::set_permissions(&public, Permissions::from_mode(0o644)).unwrap();
        Destination::prepare(Some(&public)).unwrap_err();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        Destination::prepare(Some(&link)).unwrap_err();
    }

    #[test]
    fn a_file_for_which_there_is_no_key_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery");
        Destination::prepare(Some(&path)).unwrap().give_up();
        assert!(!path.exists());
    }
}
