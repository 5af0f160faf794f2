//! What a mountpoint must be, checked before anything is started.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use claviger_protocol::Failure;
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;

use crate::mount_table;
use crate::options::Audience;

/// Why nothing can be mounted there. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountpointError {
    /// It does not exist.
    #[error("mountpoint {0} does not exist\nmake it: mkdir -p {0}")]
    Missing(PathBuf),
    /// It is something else.
    #[error("mountpoint {0} is not a directory")]
    NotADirectory(PathBuf),
    /// What is in it would be hidden.
    #[error(
        "mountpoint {0} is not empty\nmount on an empty directory: its content would be hidden"
    )]
    NotEmpty(PathBuf),
    /// A FUSE filesystem is mounted there.
    #[error(
        "{mountpoint} is a mountpoint already, of {source_name}\nunmount it first: claviger umount {mountpoint}"
    )]
    InUse {
        /// Where.
        mountpoint: PathBuf,
        /// The device column of the mount table.
        source_name: String,
    },
    /// A filesystem was mounted there whose server has gone.
    #[error(
        "{0}: the filesystem mounted there has ended without unmounting\nclean up: fusermount3 -u {0}"
    )]
    Stale(PathBuf),
    /// The plaintext would appear within the ciphertext, or over it.
    #[error("mountpoint {mountpoint} lies in the lower folder {lower}\nmount elsewhere")]
    WithinLower {
        /// Where.
        mountpoint: PathBuf,
        /// The lower folder.
        lower: PathBuf,
    },
    /// It cannot be looked at.
    #[error("mountpoint {mountpoint}: {source}")]
    Unreadable {
        /// Where.
        mountpoint: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine does not let users show their mounts to others.
    #[error(
        "allow_other is not permitted to users here\nroot permits it by the line 'user_allow_other' in {0}"
    )]
    AllowOther(PathBuf),
}

impl From<MountpointError> for Failure {
    fn from(error: MountpointError) -> Self {
        let text = error.to_string();
        match error {
            MountpointError::AllowOther(_) => Self::Permission(text),
            MountpointError::Missing(_)
            | MountpointError::NotADirectory(_)
            | MountpointError::NotEmpty(_)
            | MountpointError::InUse { .. }
            | MountpointError::Stale(_)
            | MountpointError::WithinLower { .. }
            | MountpointError::Unreadable { .. } => Self::BadMountpoint(text),
        }
    }
}

/// Checks that `mountpoint` can take the plaintext of `lower`, and returns its absolute path.
///
/// `lower` is absolute and has no symbolic links.
///
/// # Errors
/// [`MountpointError`].
pub fn check(mountpoint: &Path, lower: &Path) -> Result<PathBuf, MountpointError> {
    let here = || mountpoint.to_path_buf();
    let metadata = match fs::metadata(mountpoint) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountpointError::Missing(here()));
        }
        // The errno of every path below a mount whose /dev/fuse descriptors have been closed.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            return Err(MountpointError::Stale(here()));
        }
        Err(source) => {
            return Err(MountpointError::Unreadable {
                mountpoint: here(),
                source,
            });
        }
    };
    if !metadata.is_dir() {
        return Err(MountpointError::NotADirectory(here()));
    }
    let unreadable = |source| MountpointError::Unreadable {
        mountpoint: here(),
        source,
    };
    let path = mountpoint.canonicalize().map_err(unreadable)?;
    if path.starts_with(lower) {
        return Err(MountpointError::WithinLower {
            mountpoint: path,
            lower: lower.into(),
        });
    }
    let mounts = claviger_protocol::mount_table::read().map_err(unreadable)?;
    if let Some(source_name) = mount_table::fuse_mount_at(&path, mounts) {
        // Attributes may still be cached, this is not.
        return Err(match statvfs(&path) {
            Err(Errno::ENOTCONN) => MountpointError::Stale(here()),
            Ok(_) | Err(_) => MountpointError::InUse {
                mountpoint: path,
                source_name,
            },
        });
    }
    if fs::read_dir(&path).map_err(unreadable)?.next().is_some() {
        return Err(MountpointError::NotEmpty(path));
    }
    Ok(path)
}

/// Checks that a user may show his mount to others: `fusermount3` refuses it unless root wrote
/// `user_allow_other` into `fuse_conf`, with a message that does not reach the user.
///
/// # Errors
/// [`MountpointError::AllowOther`].
pub fn check_audience(
    audience: Audience,
    user: Uid,
    fuse_conf: &Path,
) -> Result<(), MountpointError> {
    if audience == Audience::Owner || user.is_root() {
        return Ok(());
    }
    let text = fs::read_to_string(fuse_conf).unwrap_or_default();
    if text.lines().any(|line| line.trim() == "user_allow_other") {
        return Ok(());
    }
    Err(MountpointError::AllowOther(fuse_conf.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Folders {
        root: tempfile::TempDir,
        lower: PathBuf,
    }

    fn folders() -> Folders {
        let root = tempfile::tempdir().unwrap();
        let lower = root.path().canonicalize().unwrap().join("lower");
        fs::create_dir_all(lower.join("inner")).unwrap();
        Folders { root, lower }
    }

    fn refusal(folders: &Folders, mountpoint: &Path) -> String {
        check(mountpoint, &folders.lower).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_directory_is_taken_and_named_by_its_real_path() {
        let f = folders();
        let real = f.lower.with_file_name("mnt");
        fs::create_dir(&real).unwrap();
        let link = f.root.path().join("link");
        symlink(&real, &link).unwrap();
        assert_eq!(check(&link, &f.lower).unwrap(), real);
    }

    #[test]
    fn each_unfit_mountpoint_is_refused_in_words_of_its_own() {
        let f = folders();
        let at = |name: &str| f.lower.with_file_name(name);

        let missing = at("missing");
        assert_eq!(
            refusal(&f, &missing),
            format!(
                "mountpoint {0} does not exist\nmake it: mkdir -p {0}",
                missing.display()
            )
        );

        let file = at("file");
        fs::write(&file, "").unwrap();
        assert_eq!(
            refusal(&f, &file),
            format!("mountpoint {} is not a directory", file.display())
        );

        let full = at("full");
        fs::create_dir_all(full.join("something")).unwrap();
        assert_eq!(
            refusal(&f, &full),
            format!(
                "mountpoint {} is not empty\n\
                 mount on an empty directory: its content would be hidden",
                full.display()
            )
        );

        let inner = f.lower.join("inner");
        assert_eq!(
            refusal(&f, &inner),
            format!(
                "mountpoint {} lies in the lower folder {}\nmount elsewhere",
                inner.display(),
                f.lower.display()
            )
        );
    }

    #[test]
    fn a_user_shows_his_mount_to_others_only_where_root_permits_it() {
        let f = folders();
        let conf = f.root.path().join("fuse.conf");
        let ann = Uid::from_raw(1000);
        let allowed = |audience, user| check_audience(audience, user, &conf).map_err(Failure::from);

        fs::write(&conf, "# user_allow_other\n").unwrap();
        assert_eq!(allowed(Audience::Owner, ann), Ok(()));
        assert_eq!(allowed(Audience::Everyone, Uid::from_raw(0)), Ok(()));
        assert_eq!(
            allowed(Audience::Everyone, ann),
            Err(Failure::Permission(format!(
                "allow_other is not permitted to users here\n\
                 root permits it by the line 'user_allow_other' in {}",
                conf.display()
            )))
        );

        fs::write(&conf, "mount_max = 10\nuser_allow_other\n").unwrap();
        assert_eq!(allowed(Audience::Everyone, ann), Ok(()));
    }
}
