//! Reading a private key from its file.

use std::cell::Cell;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use claviger_pki::key::PublicKey;
use claviger_pki::module::ModuleError;
use openssl::pkey::{PKey, Private};
use zeroize::Zeroizing;

/// More than any key takes.
const FILE_MAX: u64 = 64 << 10;

/// An open key file.
pub(crate) struct KeyFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

/// Tells whether a file is still the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// A private key that is usable now.
pub(crate) struct PrivateKey {
    pub(crate) key: PKey<Private>,
    pub(crate) public_key: PublicKey,
    stamp: Stamp,
}

impl PrivateKey {
    /// Whether it was read from this file, as it is now.
    pub(crate) fn is_of(&self, file: &KeyFile) -> bool {
        self.stamp == file.stamp
    }
}

impl KeyFile {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, ModuleError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                ModuleError::Absent(format!("no key file {}", path.display()))
            }
            _ => ModuleError::Backend {
                call: format!("open {}", path.display()),
                detail: error.to_string(),
            },
        };
        // Does not wait for the writer of a FIFO.
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() > FILE_MAX {
            let what = format!("{} is no key file", path.display());
            return Err(ModuleError::BadRequest(what));
        }
        Ok(Self {
            path: path.into(),
            file,
            stamp: Stamp::of(&metadata),
        })
    }

    /// Parses a key that is not encrypted; `None` if it is.
    pub(crate) fn parse_plain(self) -> Result<Option<PrivateKey>, ModuleError> {
        let mode = self.file.metadata().map_or(0, |metadata| metadata.mode());
        let path = self.path.clone();
        let asked = Cell::new(false);
        let parsed = self.parse(|_| {
            asked.set(true);
            0
        });
        match parsed {
            _ if asked.get() => Ok(None),
            Ok(key) => {
                if mode & 0o077 != 0 {
                    tracing::warn!(path = %path.display(), "key file without a passphrase is open to others");
                }
                Ok(Some(key))
            }
            Err(error) => Err(error),
        }
    }

    /// Parses a key with its passphrase; `None` if it is another one. A key that is not encrypted
    /// opens with any.
    pub(crate) fn parse_encrypted(self, pin: &[u8]) -> Result<Option<PrivateKey>, ModuleError> {
        let asked = Cell::new(false);
        let parsed = self.parse(|buffer| {
            asked.set(true);
            let Some(place) = buffer.get_mut(..pin.len()) else {
                return 0;
            };
            place.copy_from_slice(pin);
            pin.len()
        });
        match parsed {
            // Damage within the encrypted part cannot be told from a wrong passphrase.
            Err(_) if asked.get() => Ok(None),
            parsed => parsed.map(Some),
        }
    }

    fn parse(
        mut self,
        passphrase: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<PrivateKey, ModuleError> {
        let bad =
            |what: String| ModuleError::BadRequest(format!("{}: {what}", self.path.display()));
        // Sized first, so that no part of it is left in a buffer that was too small.
        let mut pem = Zeroizing::new(vec![0; FILE_MAX as usize]);
        let mut len = 0;
        loop {
            let room = pem.get_mut(len..).unwrap_or_default();
            match self.file.read(room) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(bad(error.to_string())),
            }
        }
        pem.truncate(len);
        let (key, public_key) = parse_pem(&pem, passphrase).map_err(bad)?;
        Ok(PrivateKey {
            key,
            public_key,
            stamp: self.stamp,
        })
    }
}

/// The private key that `pem` holds, and its public half; or what is wrong with it.
pub(crate) fn parse_pem(
    pem: &[u8],
    passphrase: impl FnOnce(&mut [u8]) -> usize,
) -> Result<(PKey<Private>, PublicKey), String> {
    // Always with a callback: without one OpenSSL would ask on the terminal.
    let key = PKey::private_key_from_pem_callback(pem, |buffer| Ok(passphrase(buffer)))
        .map_err(|_| "holds no private key in PEM")?;
    let spki = key.public_key_to_der().map_err(|error| error.to_string())?;
    let public_key = PublicKey::from_spki(&spki).map_err(|error| error.to_string())?;
    Ok((key, public_key))
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
