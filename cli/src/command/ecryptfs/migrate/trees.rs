//! What OLD and NEW are: folders where something is mounted, or lower folders to be mounted.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use claviger_protocol::control::UnlockWith;
use claviger_protocol::failure::ExitCode;
use claviger_vault::ecryptfs::Header;
use claviger_vault::ecryptfs::name::EncryptedName;
use nix::fcntl::OFlag;

use super::mounts::PrivateMount;
use crate::Failed;
use crate::args::{GivenKeys, Migrate};
use crate::command::{lock, mount};
use crate::ecryptfs::Options;
use crate::place::{self, Mounted};
use crate::prompter::Prompter;

/// In a folder that is a volume's.
const MANIFEST: &str = ".claviger/volume.toml";

/// So many objects are looked at to tell a lower folder from another.
const LOOKED_AT: usize = 1000;

/// What ecryptfs-setup-private leaves in a folder that is not mounted.
const NOT_MOUNTED: [&str; 2] = ["Access-Your-Private-Data.desktop", "README.txt"];

/// A tree that can be entered.
pub(super) struct Tree {
    pub(super) path: PathBuf,
    /// What it is, wherever it is mounted: its lower folder, if that is known.
    pub(super) name: PathBuf,
    pub(super) lower: Option<PathBuf>,
    /// Of what to remove when it is given up: as the user may type it.
    pub(super) given: PathBuf,
    _mount: Option<PrivateMount>,
}

/// A tree that may have to be mounted.
pub(super) struct Found {
    given: PathBuf,
    at: Option<PathBuf>,
    lower: Option<PathBuf>,
    left_behind: Option<PrivateMount>,
}

/// Finds out what OLD is.
pub(super) fn old(order: &Migrate) -> Result<Found, Failed> {
    let given = folder(&order.old)?;
    if let Some(mount) = mounts()?.find(|mount| mount.mountpoint == given) {
        return Ok(Found::mounted(given, mount));
    }
    if let Some(mount) = mounts()?.find(|mount| mount.lower == given) {
        let at = mount.mountpoint.clone();
        return Ok(Found {
            at: Some(at),
            ..Found::mounted(given, mount)
        });
    }
    let is_to_be_mounted = order.keys.are_given() || !order.options.is_empty();
    if is_to_be_mounted || holds_lower_files(&given) {
        return Ok(Found {
            lower: Some(given.clone()),
            given,
            at: None,
            left_behind: None,
        });
    }
    if is_not_mounted(&given) {
        let what = format!("nothing is mounted at {}", given.display());
        return Err(Failed::usage(what)
            .advise("Mount it there, or name its lower folder, such as ~/.Private"));
    }
    Ok(Found {
        at: Some(given.clone()),
        given,
        lower: None,
        left_behind: None,
    })
}

/// Finds out what NEW is.
pub(super) fn new(place: &Path) -> Result<Found, Failed> {
    let given = place::absolute(place)?;
    let device = |path: &Path| fs::metadata(path).map(|it| it.dev()).ok();
    // The volume's root can be looked at even while it is locked, what is in it cannot.
    let around = mounts()?.find(|mount| given.starts_with(&mount.mountpoint));
    if let Some(mount) = around {
        let here = device(&given);
        if here.is_none() || here == device(&mount.mountpoint) {
            if let Ok(false) = mount.lower.join(MANIFEST).try_exists() {
                let what = format!("{} is mounted, and no volume", given.display());
                return Err(Failed::usage(what));
            }
            return Ok(Found::mounted(given, mount));
        }
    }
    let given = folder(place)?;
    if !given.join(MANIFEST).is_file() {
        let what = format!(
            "{} is in no volume that is mounted, and is none",
            given.display()
        );
        return Err(Failed::usage(what).advise(
            "What is copied there would not be encrypted: 'claviger init' makes a volume",
        ));
    }
    if let Some(mount) = mounts()?.find(|mount| mount.lower == given) {
        let at = mount.mountpoint.clone();
        return Ok(Found {
            at: Some(at),
            ..Found::mounted(given, mount)
        });
    }
    Ok(Found {
        lower: Some(given.clone()),
        given,
        at: None,
        left_behind: None,
    })
}

impl Found {
    fn mounted(given: PathBuf, mount: Mounted) -> Self {
        Self {
            at: Some(given.clone()),
            given,
            left_behind: PrivateMount::left_behind(&mount.mountpoint),
            lower: Some(mount.lower),
        }
    }

    /// Unlocks the volume that it is or is in.
    pub(super) fn unlock(self, prompter: &mut Prompter) -> Result<Self, Failed> {
        if let Some(lower) = &self.lower {
            lock::open(lower, UnlockWith::AnyKey, prompter)?;
        }
        Ok(self)
    }

    /// The tree, of eCryptfs if it is a lower folder.
    pub(super) fn mount_ecryptfs(
        self,
        keys: &GivenKeys,
        options: Options,
        prompter: &mut Prompter,
    ) -> Result<Tree, Failed> {
        self.or_mount(|lower| {
            PrivateMount::make(|at| mount::ecryptfs_privately(lower, at, (keys, options), prompter))
        })
    }

    /// The tree, of a volume if it is a lower folder.
    pub(super) fn mount_volume(self) -> Result<Tree, Failed> {
        self.or_mount(|lower| PrivateMount::make(|at| mount::volume_privately(lower, at)))
    }

    fn or_mount(
        self,
        mount: impl FnOnce(&Path) -> Result<PrivateMount, Failed>,
    ) -> Result<Tree, Failed> {
        let (path, mount) = match (self.at, &self.lower) {
            (Some(at), _) => (at, self.left_behind),
            (None, lower) => {
                let mount = mount(lower.as_deref().unwrap_or(&self.given))?;
                (mount.path().to_owned(), Some(mount))
            }
        };
        Ok(Tree {
            path,
            name: self.lower.clone().unwrap_or_else(|| self.given.clone()),
            lower: self.lower,
            given: self.given,
            _mount: mount,
        })
    }

    /// Every folder that is touched through it.
    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        let folders = [Some(&self.given), self.at.as_ref(), self.lower.as_ref()];
        folders.into_iter().flatten()
    }
}

/// Refuses one within the other: OLD is not written to, and what is copied is not copied again.
pub(super) fn apart(old: &Found, new: &Found) -> Result<(), Failed> {
    for one in old.folders() {
        for other in new.folders() {
            if one.starts_with(other) || other.starts_with(one) {
                let (one, other) = (one.display(), other.display());
                return Err(Failed::usage(format!("{one} and {other} are not apart"))
                    .advise("Make the volume, and mount it, outside of OLD"));
            }
        }
    }
    Ok(())
}

/// The mounts of ours, the newest first.
fn mounts() -> Result<impl Iterator<Item = Mounted>, Failed> {
    Ok(place::mounts()?.into_iter().rev())
}

fn folder(path: &Path) -> Result<PathBuf, Failed> {
    let folder = path.canonicalize();
    let folder = folder.map_err(|error| Failed::file(path, &error))?;
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(Failed::new(
            ExitCode::NotFound,
            format!("{} is not a folder", path.display()),
        )),
    }
}

/// Whether a name or a header of eCryptfs is among the first things below `folder`.
fn holds_lower_files(folder: &Path) -> bool {
    let mut waiting = vec![folder.to_owned()];
    let mut looked_at = 0;
    while let Some(folder) = waiting.pop() {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries {
            looked_at += 1;
            if looked_at > LOOKED_AT {
                return false;
            }
            if EncryptedName::parse(entry.file_name().as_bytes()).is_some() {
                return true;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() && has_header(&entry.path()) => return true,
                _ => {}
            }
        }
    }
    false
}

fn has_header(path: &Path) -> bool {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path);
    file.is_ok_and(|file| Header::read(&file).is_ok())
}

/// Whether there is nothing in `folder` but the hint that it is to be mounted.
fn is_not_mounted(folder: &Path) -> bool {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = names.map(|entry| entry.file_name()).peekable();
    names.peek().is_some() && names.all(|name| NOT_MOUNTED.iter().any(|it| name == *it))
}
