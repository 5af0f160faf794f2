//! Enrolled keys: one small file each, from which auth toks are loaded when the daemon starts.
//!
//! ```toml
//! version = 1
//! module = "pkcs11"
//! locator = "pkcs11:token=card;id=%01"
//! label = "my card"
//! kem = "dhkem-p256"
//! provenance = "in-token"
//! public_key = """
//! -----BEGIN PUBLIC KEY-----
//! …
//! -----END PUBLIC KEY-----
//! """
//! ```
//!
//! The file's name is the key id in hexadecimal and `.toml`. It holds no secret.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::auth_tok::AuthTok;
use crate::key::{Kem, KeyId, PublicKey};
use crate::module::{Key, Locator, Provenance};

/// A key that this user has enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolledKey {
    /// Its public half.
    pub public_key: PublicKey,
    /// The module that holds its private half.
    pub module: String,
    /// Where the module finds it.
    pub locator: Locator,
    /// For people.
    pub label: String,
    /// How keys are wrapped to it: the best that its token can open.
    pub kem: Kem,
    /// What its token says of where it came from.
    pub provenance: Provenance,
}

impl EnrolledKey {
    /// Enrols what a module found or made; `None` if the module opens none of the KEMs for it.
    pub fn new(module: String, key: Key) -> Option<Self> {
        let usable = key.public_key.key_type().kems();
        let kem = *key.kems.iter().find(|kem| usable.contains(kem))?;
        Some(Self {
            public_key: key.public_key,
            module,
            locator: key.locator,
            label: key.label,
            kem,
            provenance: key.provenance,
        })
    }

    /// Its id.
    pub fn key_id(&self) -> KeyId {
        self.public_key.key_id()
    }

    /// Its auth tok.
    pub fn auth_tok(&self) -> AuthTok {
        AuthTok {
            key_id: self.key_id(),
            module: self.module.clone(),
            locator: self.locator.clone(),
        }
    }
}

/// The file's fields.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    version: u32,
    module: String,
    locator: Locator,
    label: String,
    kem: Kem,
    provenance: Provenance,
    public_key: String,
}

const VERSION: u32 = 1;

/// The folder of enrolled keys, usually `~/.config/claviger/keys`.
#[derive(Clone, Debug)]
pub struct KeyFolder(PathBuf);

/// A file of an enrolled key could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EnrolledError {
    /// It is not what such a file looks like.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl KeyFolder {
    /// The folder at `path`, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// All keys, in order of their ids, and what could not be read. A missing folder has none.
    pub fn load(&self) -> (Vec<EnrolledKey>, Vec<EnrolledError>) {
        let mut keys = Vec::new();
        let mut errors = Vec::new();
        for path in self.files().unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        }) {
            match read(&path) {
                Ok(key) => keys.push(key),
                Err(error) => errors.push(error),
            }
        }
        (keys, errors)
    }

    /// The key of that id, if it is enrolled.
    ///
    /// # Errors
    /// [`EnrolledError`].
    pub fn find(&self, key_id: KeyId) -> Result<Option<EnrolledKey>, EnrolledError> {
        match read(&self.path(key_id)) {
            Err(EnrolledError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// Writes a key's file, in one step and durably, in place of one that may be there.
    ///
    /// # Errors
    /// [`EnrolledError::Io`].
    pub fn store(&self, key: &EnrolledKey) -> Result<(), EnrolledError> {
        let path = self.path(key.key_id());
        let fields = Fields {
            version: VERSION,
            module: key.module.clone(),
            locator: key.locator.clone(),
            label: key.label.clone(),
            kem: key.kem,
            provenance: key.provenance,
            public_key: key.public_key.to_pem(),
        };
        let text = toml::to_string(&fields).expect("texts and names are TOML");
        self.replace(&path, text.as_bytes())
            .map_err(|source| EnrolledError::Io { path, source })
    }

    /// Removes a key's file; that there was none is no error.
    ///
    /// # Errors
    /// [`EnrolledError::Io`].
    pub fn remove(&self, key_id: KeyId) -> Result<(), EnrolledError> {
        let path = self.path(key_id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(EnrolledError::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    fn path(&self, key_id: KeyId) -> PathBuf {
        self.0.join(format!("{key_id}.toml"))
    }

    fn files(&self) -> Result<Vec<PathBuf>, EnrolledError> {
        let list = || -> io::Result<_> {
            let mut files = Vec::new();
            for entry in fs::read_dir(&self.0)? {
                let path = entry?.path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "toml")
                {
                    files.push(path);
                }
            }
            files.sort();
            Ok(files)
        };
        match list() {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map_err(|source| EnrolledError::Io {
                path: self.0.clone(),
                source,
            }),
        }
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        let new = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(&self.0)?.sync_all()
    }
}

fn read(path: &Path) -> Result<EnrolledKey, EnrolledError> {
    let text = fs::read_to_string(path).map_err(|source| EnrolledError::Io {
        path: path.into(),
        source,
    })?;
    parse(&text, path).map_err(|what| EnrolledError::Malformed {
        path: path.into(),
        what,
    })
}

pub(crate) fn parse(text: &str, path: &Path) -> Result<EnrolledKey, String> {
    let fields: Fields = toml::from_str(text).map_err(|error| error.to_string())?;
    if fields.version != VERSION {
        return Err(format!("version {} is not known", fields.version));
    }
    let public_key = PublicKey::from_pem(&fields.public_key).map_err(|error| error.to_string())?;
    let name = format!("{}.toml", public_key.key_id());
    if path
        .file_name()
        .is_none_or(|actual| actual != name.as_str())
    {
        return Err(format!("holds another key; its name should be {name}"));
    }
    if !public_key.key_type().kems().contains(&fields.kem) {
        return Err(format!("{} does not wrap to this key", fields.kem));
    }
    Ok(EnrolledKey {
        public_key,
        module: fields.module,
        locator: fields.locator,
        label: fields.label,
        kem: fields.kem,
        provenance: fields.provenance,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::seed::RecoveryKey;
    use crate::wrap::Identity;

    fn key() -> EnrolledKey {
        EnrolledKey {
            public_key: RecoveryKey::generate().derive().public_key().clone(),
            module: "pkcs11".into(),
            locator: Locator("pkcs11:token=T".into()),
            label: "a \"card\"".into(),
            kem: Kem::DhkemP256,
            provenance: Provenance::InToken,
        }
    }

    #[test]
    fn what_is_stored_is_loaded_until_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let folder = KeyFolder::new(home.path().join("claviger/keys"));
        assert!(folder.load().0.is_empty());
        let (one, two) = (key(), key());
        folder.store(&one).unwrap();
        folder.store(&two).unwrap();
        folder.store(&two).unwrap();
        let (loaded, errors) = folder.load();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(loaded.len(), 2);
        assert!(loaded.contains(&one) && loaded.contains(&two));
        assert_eq!(folder.find(one.key_id()).unwrap(), Some(one.clone()));

        folder.remove(one.key_id()).unwrap();
        folder.remove(one.key_id()).unwrap();
        assert_eq!(folder.find(one.key_id()).unwrap(), None);
        assert_eq!(folder.load().0, [two]);
    }

    #[test]
    fn nobody_else_may_look_and_no_half_written_file_stays() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("keys");
        KeyFolder::new(path.clone()).store(&key()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        let files: Vec<PathBuf> = fs::read_dir(&path)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1);
        assert_eq!(mode(&files[0]), 0o600);
    }

    #[test]
    fn one_bad_file_does_not_hide_the_others() {
        let home = tempfile::tempdir().unwrap();
        let folder = KeyFolder::new(home.path().into());
        let (good, renamed) = (key(), key());
        folder.store(&good).unwrap();
        folder.store(&renamed).unwrap();
        let wrong = folder.path(KeyId([0; 32]));
        fs::rename(folder.path(renamed.key_id()), &wrong).unwrap();
        let (loaded, errors) = folder.load();
        assert_eq!(loaded, [good]);
        let expected = format!(
            "{}: holds another key; its name should be {}.toml",
            wrong.display(),
            renamed.key_id()
        );
        assert_eq!(errors[0].to_string(), expected);
    }
}
