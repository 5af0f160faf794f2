//! Reading known_volumes, and moving a pin up.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;

use super::{KnownVolumes, NAME, Pin, PinError, text};
use crate::replace::replace;

/// Some 50,000 volumes.
const SIZE_MAX: u64 = 16 << 20;

impl KnownVolumes {
    /// Reads the pins in the folder `own` of the user, which [`remember`] changes, and in `system`,
    /// which an administrator fills and nothing here writes. A missing file is an empty one.
    ///
    /// # Errors
    /// [`PinError`]. A damaged file is not taken for an empty one.
    pub fn load(own: &Path, system: &Path) -> Result<Self, PinError> {
        let mut pins = load_from(own)?;
        pins.extend(load_from(system)?);
        Ok(Self { pins })
    }
}

/// Stores `pin` in the folder `own`, in place of what was known of this volume. The folder is made if
/// missing (0700); the file is 0600 and replaced durably.
///
/// # Errors
/// [`PinError::Overtaken`] if another program stored a later state meanwhile: judge again.
pub fn remember(own: &Path, pin: Pin) -> Result<(), PinError> {
    let failed = |source| PinError::Io {
        path: own.into(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(own)
        .map_err(failed)?;
    let dir = File::open(own).map_err(failed)?;
    // Held until the end: two daemons of one user would lose each other's pins.
    let dir = Flock::lock(dir, FlockArg::LockExclusive)
        .map_err(|(_, errno)| failed(io::Error::from(errno)))?;
    let mut pins = load_from(own)?;
    if let Some(known) = pins.iter().find(|known| known.volume == pin.volume)
        && (known.epoch > pin.epoch || known.generation > pin.generation)
    {
        return Err(PinError::Overtaken(pin.volume));
    }
    pins.retain(|known| known.volume != pin.volume);
    // A volume that was made in the place of another one: accepted by whoever made it.
    for known in &mut pins {
        if known.folder == pin.folder {
            known.folder = None;
        }
    }
    pins.push(pin);
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    replace(&*dir, NAME, text::write(&pins).as_bytes(), mode).map_err(failed)
}

fn load_from(dir: &Path) -> Result<Vec<Pin>, PinError> {
    let path = dir.join(NAME);
    let mut content = Vec::new();
    // Symlinks are followed: some systems make all of /etc of them.
    let read = File::open(&path).and_then(|file| file.take(SIZE_MAX).read_to_end(&mut content));
    match read {
        Ok(_) => text::parse(&path, &content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(PinError::Io { path, source }),
    }
}
