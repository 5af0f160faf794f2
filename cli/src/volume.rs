//! A volume read without mounting it: keys from the daemon over callout, files from the lower folder.

use core::fmt;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use claviger_protocol::Failure;
use claviger_protocol::failure::ExitCode;
use claviger_protocol::keys::{KeyReply, KeyRequest};
use claviger_vault::ids::VolumeId;
use claviger_vault::manifest::{self, ManifestError};
use claviger_vault::names::NamesKeys;
use claviger_vault::native::{Access, Feks, FileError, NativeFile};
use claviger_vault::secret::{Fek, NamesKey};
use claviger_vault::tree::{Folder, TreeError};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::Failed;
use crate::asking::Asking;
use crate::prompter::Prompter;

/// How long one key may take: longer than the daemon waits for a person, so that it says what for.
const KEY_TIMEOUT: Duration = Duration::from_secs(600);

/// A volume whose names can be read.
pub(crate) struct Volume {
    id: VolumeId,
    root: OwnedFd,
    keys: NamesKeys,
    asking: Asking,
}

impl Volume {
    /// Opens the volume in `dir`, which is unlocked already.
    ///
    /// # Errors
    /// [`Failed`]: no volume there, or no keys.
    pub(crate) fn open(dir: &Path, prompter: Prompter) -> Result<Self, Failed> {
        let root = open_folder(dir)?;
        let id = manifest::load(&root)
            .map_err(|error| manifest_failed(dir, &error))?
            .manifest
            .claims()
            .volume();
        let about = BTreeMap::from([
            ("volume".to_owned(), id.to_string()),
            ("lower".to_owned(), dir.to_string_lossy().into_owned()),
        ]);
        let asking = Asking::start(about, prompter)?;
        let request = KeyRequest::Names {
            volume: id,
            lower_root: path_bytes(dir),
        };
        let KeyReply::Names {
            current,
            minimum,
            keys,
            ..
        } = asking.ask(&request, key_deadline())?
        else {
            return Err(Failure::Internal("not names keys".into()).into());
        };
        let keys = keys.iter().filter_map(|(epoch, key)| {
            let mut bytes = key.to_array::<32>()?;
            Some((*epoch, NamesKey::new(&mut bytes)))
        });
        let keys = NamesKeys::new(current, minimum, keys)
            .map_err(|error| Failed::from(Failure::Internal(error.to_string())))?;
        Ok(Self {
            id,
            root,
            keys,
            asking,
        })
    }

    /// Its root folder.
    ///
    /// # Errors
    /// [`TreeError`] if its record does not verify.
    pub(crate) fn root(&self) -> Result<Folder, TreeError> {
        let root = self.root.try_clone().map_err(TreeError::Io)?;
        Folder::root(root, &self.keys)
    }

    /// Its names keys.
    pub(crate) fn keys(&self) -> &NamesKeys {
        &self.keys
    }

    /// Opens the lower file `lower` in `folder` for reading: its place, head and shape verify.
    ///
    /// # Errors
    /// [`OpenFileError`].
    pub(crate) fn open_file(
        &self,
        folder: &Folder,
        lower: &[u8],
        path: &[u8],
    ) -> Result<NativeFile, OpenFileError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd =
            nix::fcntl::openat(folder, lower, flags, Mode::empty()).map_err(FileError::from)?;
        let head = NativeFile::read_head(fd.as_fd())?;
        let names = |epoch| self.keys.places(epoch).ok();
        claviger_vault::native::check_place(fd.as_fd(), names, &folder.id(), lower)?;
        let request = KeyRequest::UnwrapFek {
            volume: self.id,
            header: head.clone(),
            lower_path: path.to_vec(),
            pid: std::process::id(),
        };
        let KeyReply::Feks { feks, newest, .. } = self.asking.ask(&request, key_deadline())? else {
            return Err(OpenFileError::Keys(Failure::Internal("not FEKs".into())));
        };
        let feks = feks
            .iter()
            .filter_map(|fek| Some(Fek::new(&mut fek.to_array::<32>()?)))
            .collect();
        let feks = Feks::new(feks, newest).map_err(|error| Failure::Internal(error.to_string()))?;
        Ok(NativeFile::open(fd, &head, feks, Access::ReadOnly)?)
    }
}

/// A file of a volume cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenFileError {
    /// Its keys were refused.
    #[error("{0}")]
    Keys(#[from] Failure),
    /// It does not verify.
    #[error("{0}")]
    File(#[from] FileError),
}

impl OpenFileError {
    /// For the person, with the path of the lower file.
    pub(crate) fn failed(self, path: &Path) -> Failed {
        match self {
            Self::Keys(failure) => failure.into(),
            Self::File(error) => file_failed(path, &error),
        }
    }
}

/// What a file that cannot be read is reported as.
pub(crate) fn file_failed(path: &Path, error: &FileError) -> Failed {
    let code = match error {
        FileError::NeverReachedDisk
        | FileError::Integrity(_)
        | FileError::Misplaced
        | FileError::NoNamesKey(_) => return Failed::damaged(told(path, error)),
        FileError::Unsupported(_) => ExitCode::Unsupported,
        FileError::TooLarge | FileError::ReadOnly | FileError::Poisoned => ExitCode::Internal,
        FileError::Io(error) => return Failed::file(path, error),
    };
    Failed::new(code, told(path, error))
}

/// What a path that leads nowhere is reported as.
pub(crate) fn tree_failed(path: &Path, error: &TreeError) -> Failed {
    let code = match error {
        TreeError::NotFound | TreeError::NotADirectory => ExitCode::NotFound,
        TreeError::Name(_) => ExitCode::Usage,
        TreeError::Directory(_) => return Failed::damaged(told(path, error)),
        TreeError::Io(error) => return Failed::file(path, error),
    };
    Failed::new(code, told(path, error))
}

fn told(path: &Path, error: &impl fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// What a folder without a readable manifest is reported as.
pub(crate) fn manifest_failed(dir: &Path, error: &ManifestError) -> Failed {
    match error {
        ManifestError::Io(error) => Failed::file(dir, error),
        _ => Failure::of_manifest(format!("{}: {error}", dir.display()), error).into(),
    }
}

/// Opens a lower folder.
///
/// # Errors
/// [`Failed`] if there is none.
pub(crate) fn open_folder(dir: &Path) -> Result<OwnedFd, Failed> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(dir, flags, Mode::empty()).map_err(|errno| Failed::file(dir, &errno.into()))
}

/// Opens a file that a person named to look at; does not wait for the writer of a FIFO.
///
/// # Errors
/// [`Failed`] if there is none, or it is something else.
pub(crate) fn open_regular(path: &Path) -> Result<File, Failed> {
    let refused = |error| Failed::file(path, &error);
    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(refused)?;
    if !file.metadata().map_err(refused)?.is_file() {
        return Err(Failed::usage(format!(
            "{} is no regular file",
            path.display()
        )));
    }
    Ok(file)
}

fn path_bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

/// When the daemon has had time enough for the keys of one file or stream.
pub(crate) fn key_deadline() -> Instant {
    Instant::now() + KEY_TIMEOUT
}
