//! From upper paths to lower files.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use claviger_protocol::failure::ExitCode;
use claviger_vault::ecryptfs::name::{self, EncryptedName};
use claviger_vault::ecryptfs::{EcryptfsError, Header, KeyLen, KeySig, LowerFile};
use claviger_vault::native::Access;
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use super::{Keys, failed};
use crate::Failed;
use crate::volume::open_folder;

/// The lower folder of an eCryptfs mount.
pub(crate) struct LowerFolder(OwnedFd);

impl LowerFolder {
    /// Opens it.
    ///
    /// # Errors
    /// [`Failed`] if there is none.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failed> {
        open_folder(dir).map(Self)
    }

    /// Opens the file at the upper path `path`; `None` if it was made and never written.
    ///
    /// Symlinks are not followed, and `..` is not known.
    ///
    /// # Errors
    /// [`Failed`].
    pub(crate) fn open_file(&self, path: &Path, keys: &Keys) -> Result<Option<LowerFile>, Failed> {
        let names: Vec<&[u8]> = path
            .components()
            .filter_map(|component| match component {
                Component::CurDir | Component::RootDir => None,
                other => Some(other.as_os_str().as_bytes()),
            })
            .collect();
        let (last, folders) = names.split_last().ok_or_else(|| is_a_folder(path))?;
        let refused = |errno: nix::Error| Failed::file(path, &errno.into());
        let mut folder = self
            .0
            .try_clone()
            .map_err(|error| Failed::file(path, &error))?;
        for name in folders {
            folder = open_named(&folder, name, OFlag::O_DIRECTORY, keys, path)?.map_err(refused)?;
        }
        let file = match open_named(&folder, last, OFlag::O_NONBLOCK, keys, path)? {
            Err(nix::Error::ELOOP) => return Err(is_a_link(&folder, last, keys, path)),
            opened => File::from(opened.map_err(refused)?),
        };
        let metadata = file
            .metadata()
            .map_err(|error| Failed::file(path, &error))?;
        if metadata.is_dir() {
            return Err(is_a_folder(path));
        }
        if !metadata.is_file() {
            return Err(Failed::usage(format!("{} is no file", path.display())));
        }
        open_content(file, keys, path)
    }
}

fn open_content(file: File, keys: &Keys, path: &Path) -> Result<Option<LowerFile>, Failed> {
    let header = match Header::read(file.as_fd()) {
        Err(EcryptfsError::NeverWritten) => return Ok(None),
        read => read.map_err(|error| failed(path, &error))?,
    };
    let fek = header.unwrap(|packet| {
        keys.unwrap(packet, path)
            .map(|fek| fek.map_err(Unwrap::Attempt))
    });
    let fek = fek.map_err(|error| match error {
        Unwrap::Attempt(failed) => failed,
        Unwrap::Header(error) => failed(path, &error),
    })?;
    let opened = LowerFile::open(file.into(), &header, &fek, Access::ReadOnly);
    opened.map(Some).map_err(|error| failed(path, &error))
}

/// Why no FEK was unwrapped.
enum Unwrap {
    Attempt(Failed),
    Header(EcryptfsError),
}

impl From<EcryptfsError> for Unwrap {
    fn from(error: EcryptfsError) -> Self {
        Self::Header(error)
    }
}

/// Opens what is `name` above, for reading.
fn open_named(
    folder: &OwnedFd,
    name: &[u8],
    flags: OFlag,
    keys: &Keys,
    path: &Path,
) -> Result<nix::Result<OwnedFd>, Failed> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    for lower in lower_names(name, keys, path)? {
        match openat(folder, lower.as_slice(), flags, Mode::empty()) {
            Err(nix::Error::ENOENT | nix::Error::ENAMETOOLONG) => {}
            opened => return Ok(opened),
        }
    }
    match other_fnek(folder, keys) {
        Some(sig) => Err(failed(path, &EcryptfsError::NoKey(vec![sig]))),
        None => Ok(Err(nix::Error::ENOENT)),
    }
}

/// The sig of a FNEK that encrypts names in `folder` and is not among `keys`: with a wrong passphrase
/// every name is missing, which should not be all that is said.
fn other_fnek(folder: &OwnedFd, keys: &Keys) -> Option<KeySig> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(folder, ".", flags, Mode::empty()).ok()?;
    let sigs = dir.iter().filter_map(|entry| {
        let name = EncryptedName::parse(entry.ok()?.file_name().to_bytes())?;
        Some(name.ok()?.key_sig())
    });
    let mut others = sigs.filter(|&sig| keys.name(sig).is_err());
    others.next()
}

/// What `name` may be below. The name does not tell whether and how names are encrypted: by which key,
/// with which key length, or not at all.
fn lower_names(name: &[u8], keys: &Keys, path: &Path) -> Result<Vec<Vec<u8>>, Failed> {
    if name == b".." {
        return Err(Failed::usage(format!(
            "{}: '..' is not followed",
            path.display()
        )));
    }
    let mut lower = Vec::new();
    for (fnek, len) in keys
        .names()
        .iter()
        .flat_map(|key| KeyLen::ALL.map(|len| (key, len)))
    {
        match name::encrypt(name, fnek, len) {
            Ok(name) => lower.push(name.into_bytes()),
            // Below, it can be there in clear only.
            Err(EcryptfsError::NameTooLong) => {}
            Err(error) => return Err(failed(path, &error)),
        }
    }
    lower.push(name.to_vec());
    Ok(lower)
}

fn is_a_folder(path: &Path) -> Failed {
    Failed::usage(format!("{} is a folder", path.display()))
}

/// Where the symlink `name` points, so that its target can be asked for.
fn is_a_link(folder: &OwnedFd, name: &[u8], keys: &Keys, path: &Path) -> Failed {
    let lower = match lower_names(name, keys, path) {
        Ok(lower) => lower,
        Err(failed) => return failed,
    };
    let target = lower
        .iter()
        .find_map(|lower| readlinkat(folder, lower.as_slice()).ok());
    let Some(target) = target else {
        return Failed::new(ExitCode::NotFound, format!("{} is gone", path.display()));
    };
    let target = match EncryptedName::parse(target.as_bytes()) {
        None => Ok(target.into_vec()),
        Some(encrypted) => encrypted
            .and_then(|encrypted| encrypted.decrypt_target(keys.name(encrypted.key_sig())?)),
    };
    match target {
        Ok(target) => Failed::usage(format!(
            "{} is a symbolic link to {}",
            path.display(),
            PathBuf::from(std::ffi::OsString::from_vec(target)).display()
        )),
        Err(error) => failed(path, &error),
    }
}
