//! Reading and replacing the manifest in the lower root.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::fsync;

use super::{Manifest, ManifestError, Unverified};
use crate::epoch::EpochKey;
use crate::names::RESERVED;
use crate::replace::{open_dir, read_small, replace};

/// The manifest's name in `.claviger`.
pub const NAME: &str = "volume.toml";
const BACKUP_NAME: &str = "volume.toml.backup";
/// Far beyond a thousand recipients.
const SIZE_MAX: u64 = 1 << 20;
/// How long another change of the manifest may take: far beyond two small files written and synced.
const LOCK_TIME: Duration = Duration::from_secs(30);
/// flock(2) has no deadline of its own.
const LOCK_TICK: Duration = Duration::from_millis(20);

/// A manifest, and where it was found.
#[derive(Debug)]
pub struct Loaded {
    /// What was read.
    pub manifest: Unverified,
    /// Which copy it is.
    pub copy: Copy,
}

/// Which copy of a manifest was read.
#[derive(Debug)]
pub enum Copy {
    /// `.claviger/volume.toml`.
    Primary,
    /// `.claviger/volume.toml.backup`, because the primary is missing or does not parse. Tell the
    /// person; the next change writes both.
    Backup {
        /// What is wrong with the primary.
        because: ManifestError,
    },
}

/// A manifest and its MAC: it is stored without any key, so that keys can be wiped while a disk is slow.
#[derive(Debug)]
pub struct Authenticated {
    manifest: Manifest,
    text: Vec<u8>,
}

/// Reads the manifest of the volume whose lower root is `lower_root`.
///
/// The backup counts only where the primary is missing or damaged: a primary of a newer format, or
/// one that does not verify, is what it is, and an older copy would only hide that.
///
/// # Errors
/// [`ManifestError`], of the primary if both copies fail.
pub fn load(lower_root: impl AsFd) -> Result<Loaded, ManifestError> {
    let dir = match open_dir(lower_root, RESERVED) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ManifestError::Missing);
        }
        Err(error) => return Err(error.into()),
    };
    load_from(dir.as_fd())
}

fn load_from(dir: BorrowedFd<'_>) -> Result<Loaded, ManifestError> {
    let because = match load_copy(dir, NAME) {
        Ok(manifest) => {
            return Ok(Loaded {
                manifest,
                copy: Copy::Primary,
            });
        }
        Err(error) if is_damage(&error) => error,
        Err(error) => return Err(error),
    };
    match load_copy(dir, BACKUP_NAME) {
        Ok(manifest) => Ok(Loaded {
            manifest,
            copy: Copy::Backup { because },
        }),
        Err(_) => Err(because),
    }
}

fn load_copy(dir: BorrowedFd<'_>, name: &str) -> Result<Unverified, ManifestError> {
    let bytes = read_small(dir, name, SIZE_MAX).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ManifestError::Missing,
        io::ErrorKind::FileTooLarge => ManifestError::TooLarge,
        _ => ManifestError::Io(error),
    })?;
    Unverified::parse(&bytes)
}

/// Whether a disk could have done this to a good manifest.
fn is_damage(error: &ManifestError) -> bool {
    match error {
        ManifestError::Missing
        | ManifestError::Malformed { .. }
        | ManifestError::CutShort
        | ManifestError::UnknownKey { .. }
        | ManifestError::TooLarge => true,
        ManifestError::NewerFormat(_)
        | ManifestError::UnknownSuite(_)
        | ManifestError::NotAuthentic
        | ManifestError::Chain(_)
        | ManifestError::Conflict
        | ManifestError::Occupied
        | ManifestError::Memory(_)
        | ManifestError::Io(_) => false,
    }
}

impl Manifest {
    /// Replaces the manifest in `lower_root` and its backup, durably: a crash leaves the old one or
    /// this one. Makes `.claviger` if it is not there.
    ///
    /// # Errors
    /// As [`Authenticated::store`].
    pub fn store(&self, current: &EpochKey, lower_root: impl AsFd) -> Result<(), ManifestError> {
        self.clone().authenticate(current).store(lower_root)
    }

    /// Authenticates it under the key of its epoch, as [`Manifest::write`] does.
    #[must_use]
    pub fn authenticate(self, current: &EpochKey) -> Authenticated {
        Authenticated {
            text: self.write(current),
            manifest: self,
        }
    }
}

impl Authenticated {
    /// The manifest.
    pub fn into_manifest(self) -> Manifest {
        self.manifest
    }

    /// Replaces the manifest in `lower_root` as [`Manifest::store`] does.
    ///
    /// # Errors
    /// [`ManifestError::Conflict`] if the manifest there is not the one that this was changed from;
    /// [`ManifestError::Occupied`] if somebody else keeps it locked; [`ManifestError::Io`].
    pub fn store(&self, lower_root: impl AsFd) -> Result<(), ManifestError> {
        let dir = made(lower_root.as_fd())?;
        // Held until the end: two people may change recipients at the same time.
        let dir = locked(dir, LOCK_TIME)?;
        match load_from(dir.as_fd()) {
            Ok(there) if !self.follows(&there.manifest) => {
                return Err(ManifestError::Conflict);
            }
            Ok(_) => (),
            Err(error) if is_damage(&error) => (),
            Err(error) => return Err(error),
        }
        // The backup is a copy of the same generation: one left a generation behind would let a
        // removed recipient back in when it is needed.
        let mode = Mode::from_bits_truncate(0o644);
        replace(&*dir, NAME, &self.text, mode)?;
        Ok(replace(&*dir, BACKUP_NAME, &self.text, mode)?)
    }

    /// Whether `there` is the generation before this one, or this one.
    fn follows(&self, there: &Unverified) -> bool {
        let (this, claims) = (&self.manifest, there.claims());
        let before = claims.volume == this.volume && claims.generation + 1 == this.generation;
        before || (self.text.starts_with(&there.covered) && claims == this)
    }
}

/// Locks `.claviger`. Whoever may open that folder may lock it for ever, so it is not waited for without end.
pub(super) fn locked(
    mut dir: OwnedFd,
    patience: Duration,
) -> Result<Flock<OwnedFd>, ManifestError> {
    let given_up = Instant::now() + patience;
    loop {
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((unlocked, Errno::EWOULDBLOCK)) => dir = unlocked,
            Err((_, errno)) => return Err(io::Error::from(errno).into()),
        }
        if Instant::now() >= given_up {
            return Err(ManifestError::Occupied);
        }
        thread::sleep(LOCK_TICK);
    }
}

fn made(lower_root: BorrowedFd<'_>) -> Result<OwnedFd, ManifestError> {
    match mkdirat(lower_root, RESERVED, Mode::from_bits_truncate(0o755)) {
        Ok(()) => fsync(lower_root).map_err(io::Error::from)?,
        Err(nix::Error::EEXIST) => (),
        Err(errno) => return Err(io::Error::from(errno).into()),
    }
    Ok(open_dir(lower_root, RESERVED)?)
}
