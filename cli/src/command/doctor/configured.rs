//! What config.toml says of tokens. The daemon reads the rest, and refuses what it does not understand.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use claviger_protocol::paths;
use serde::Deserialize;

/// Of the system's file, and the user's over it.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Configured {
    pub(super) pkcs11: Pkcs11,
    pub(super) tpm: Tpm,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Pkcs11 {
    pub(super) libraries: Option<Vec<PathBuf>>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Tpm {
    pub(super) tcti: Option<String>,
}

impl Configured {
    /// # Errors
    /// Which file cannot be used, and why, for people.
    pub(super) fn read() -> Result<Self, String> {
        let user = paths::config_dir();
        let dirs = [Some(paths::system_config_dir()), user.as_deref()];
        Self::of(dirs.into_iter().flatten())
    }

    fn of<'a>(dirs: impl Iterator<Item = &'a Path>) -> Result<Self, String> {
        let mut configured = Self::default();
        for file in dirs.map(|dir| dir.join("config.toml")) {
            let text = match fs::read_to_string(&file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text.map_err(|error| format!("{}: {error}", file.display()))?,
            };
            let over: Self = toml::from_str(&text)
                .map_err(|error| format!("{}: {}", file.display(), error.message()))?;
            configured.pkcs11.libraries = over.pkcs11.libraries.or(configured.pkcs11.libraries);
            configured.tpm.tcti = over.tpm.tcti.or(configured.tpm.tcti);
        }
        Ok(configured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_file_goes_over_the_systems_and_what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (system, user) = (dir.path().join("etc"), dir.path().join("home"));
        let read = || Configured::of([system.as_path(), user.as_path()].into_iter());
        assert_eq!(read(), Ok(Configured::default()));

        fs::create_dir(&system).unwrap();
        fs::create_dir(&user).unwrap();
        let both = "[pkcs11]\nlibraries = ['/a.so']\n[tpm]\ntcti = 'device:/dev/tpm0'\n";
        fs::write(system.join("config.toml"), both).unwrap();
        fs::write(
            user.join("config.toml"),
            "[pkcs11]\nlibraries = ['/b.so']\n",
        )
        .unwrap();
        let configured = read().unwrap();
        assert_eq!(configured.pkcs11.libraries, Some(vec!["/b.so".into()]));
        assert_eq!(configured.tpm.tcti.as_deref(), Some("device:/dev/tpm0"));

        fs::write(user.join("config.toml"), "[tpm]\ntcti = 7\n").unwrap();
        let wrong = read().unwrap_err();
        assert!(
            wrong.contains("home/config.toml: ") && wrong.contains("7"),
            "{wrong}"
        );
    }
}
