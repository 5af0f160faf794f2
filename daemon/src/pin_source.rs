//! `pin-source` of a PKCS#11 URI (RFC 7512 section 2.4): a file that holds the PIN.
//!
//! The attribute stays with the enrolled key and is taken off before a module sees the URI. A file
//! whose PIN was refused is not read again until it has changed: it would be the same PIN.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use claviger_pki::module::Locator;
use claviger_protocol::Failure;
use nix::unistd::Uid;
use zeroize::Zeroizing;

/// Longest PIN file.
const FILE_MAX: u64 = 4096;

/// A locator, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Located {
    /// What the module is given.
    pub locator: Locator,
    /// Where the PIN is, if the URI says.
    pub pin_file: Option<PathBuf>,
}

impl Located {
    /// Takes `pin-source` off `text`, if it is a PKCS#11 URI.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a pin-source that is not a file, and for `pin-value`: a PIN does not
    /// belong into a URI that is shown and stored.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let plain = || Self {
            locator: Locator(text.into()),
            pin_file: None,
        };
        if !text.starts_with("pkcs11:") {
            return Ok(plain());
        }
        let Some((path, query)) = text.split_once('?') else {
            return Ok(plain());
        };
        let mut pin_file = None;
        let mut kept = Vec::new();
        for attribute in query.split('&') {
            match attribute.split_once('=') {
                Some(("pin-value", _)) => {
                    return Err(Failure::Usage(
                        "pin-value in a PKCS#11 URI is not taken: use pin-source, or the prompt"
                            .into(),
                    ));
                }
                Some(("pin-source", source)) => pin_file = Some(file_of(source)?),
                _ => kept.push(attribute),
            }
        }
        let locator = match kept.as_slice() {
            [] => path.to_owned(),
            kept => format!("{path}?{}", kept.join("&")),
        };
        Ok(Self {
            locator: Locator(locator),
            pin_file,
        })
    }

    /// What is known of a key under `locator`, with the `pin-source` that the person named now.
    ///
    /// # Errors
    /// As [`Located::parse`].
    pub fn over(&self, locator: &Locator) -> Result<Locator, Failure> {
        let known = Self::parse(&locator.0)?;
        let pin_file = self.pin_file.clone().or(known.pin_file);
        let locator = known.locator;
        Ok(Locator(Self { locator, pin_file }.to_text()))
    }

    /// Puts it together again.
    pub fn to_text(&self) -> String {
        let Some(file) = &self.pin_file else {
            return self.locator.0.clone();
        };
        let mark = if self.locator.0.contains('?') {
            '&'
        } else {
            '?'
        };
        format!("{}{mark}pin-source=file:{}", self.locator.0, escape(file))
    }
}

/// PIN files whose content a token refused.
#[derive(Debug, Default)]
pub struct RefusedFiles(Mutex<HashMap<PathBuf, State>>);

/// Tells one state of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl RefusedFiles {
    /// Reads the PIN, without the newline at its end.
    ///
    /// # Errors
    /// [`Failure::Permission`] for a file that others may read or that somebody else owns, and for one
    /// whose PIN was refused; [`Failure::NotFound`].
    pub fn read(&self, path: &Path) -> Result<(Zeroizing<Vec<u8>>, State), Failure> {
        let shown = path.display();
        let opened = OpenOptions::new()
            .read(true)
            // A FIFO or device must not hold up the daemon.
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(path);
        let file =
            opened.map_err(|error| Failure::NotFound(format!("pin-source {shown}: {error}")))?;
        let found = file
            .metadata()
            .map_err(|error| Failure::NotFound(error.to_string()))?;
        let owner_ok = found.uid() == 0 || found.uid() == Uid::effective().as_raw();
        if !found.is_file() || !owner_ok || found.mode() & 0o077 != 0 || found.len() > FILE_MAX {
            return Err(Failure::Permission(format!(
                "pin-source {shown}: must be a small file of your own that nobody else may read"
            )));
        }
        let state = State {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        };
        if self.lock().get(path) == Some(&state) {
            return Err(Failure::Permission(format!(
                "pin-source {shown}: its PIN was refused, and it has not changed since"
            )));
        }
        // Sized first: a buffer that grew would leave copies of the PIN behind.
        let mut pin = Zeroizing::new(Vec::with_capacity(FILE_MAX as usize + 1));
        let read = file.take(FILE_MAX).read_to_end(&mut pin);
        read.map_err(|error| Failure::NotFound(format!("pin-source {shown}: {error}")))?;
        if pin.last() == Some(&b'\n') {
            pin.pop();
        }
        Ok((pin, state))
    }

    /// Remembers that a token refused what was read from `path` in that `state`.
    pub fn refused(&self, path: &Path, state: State) {
        self.lock().insert(path.into(), state);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_of(source: &str) -> Result<PathBuf, Failure> {
    let bad = || {
        Failure::Usage(format!(
            "pin-source={source}: not an absolute path of a file"
        ))
    };
    let path = source
        .strip_prefix("file://")
        .or_else(|| source.strip_prefix("file:"));
    let path = unescape(path.unwrap_or(source)).ok_or_else(bad)?;
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(bad());
    }
    Ok(path)
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_first_chunk::<2>()?;
        let decoded = data_encoding::HEXLOWER_PERMISSIVE.decode(digits).ok()?;
        bytes.extend(decoded);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Escapes what may not stand in a query attribute (RFC 7512 section 2.3).
fn escape(path: &Path) -> String {
    let mut escaped = String::new();
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'.' | b'-' | b'_' | b'~' | b':' => {
                escaped.push(byte.into());
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_pin_source_is_taken_off_what_the_module_sees_and_kept() {
        let text = "pkcs11:token=a%20b;id=%01?module-name=x&pin-source=file:/run/my%20pin";
        let located = Located::parse(text).unwrap();
        assert_eq!(located.locator.0, "pkcs11:token=a%20b;id=%01?module-name=x");
        assert_eq!(located.pin_file.as_deref(), Some(Path::new("/run/my pin")));
        assert_eq!(Located::parse(&located.to_text()).unwrap(), located);
    }

    #[test]
    fn a_pin_in_the_uri_itself_is_refused() {
        let refused = Located::parse("pkcs11:token=a?pin-value=1234").unwrap_err();
        assert!(matches!(refused, Failure::Usage(_)));
        assert!(!refused.to_string().contains("1234"));
    }

    #[test]
    fn a_file_name_with_a_question_mark_is_no_query() {
        let located = Located::parse("/keys/what?pin-source=x").unwrap();
        assert_eq!(located.locator.0, "/keys/what?pin-source=x");
    }

    #[test]
    fn a_pin_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pin");
        fs::write(&file, "1234\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let files = RefusedFiles::default();
        assert!(matches!(files.read(&file), Err(Failure::Permission(_))));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(files.read(&file).unwrap().0.as_slice(), b"1234");
    }

    #[test]
    fn a_pin_that_was_refused_is_not_read_again_until_its_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pin");
        fs::write(&file, "1234").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let files = RefusedFiles::default();
        let (_, state) = files.read(&file).unwrap();
        files.refused(&file, state);
        assert!(matches!(files.read(&file), Err(Failure::Permission(_))));
        fs::write(&file, "123456").unwrap();
        assert_eq!(files.read(&file).unwrap().0.as_slice(), b"123456");
    }
}
