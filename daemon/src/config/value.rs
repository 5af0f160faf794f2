//! Values that are more than their TOML type says.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A path that leads to the same place wherever the daemon was started.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PathBuf")]
pub struct AbsolutePath(PathBuf);

impl AsRef<Path> for AbsolutePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<PathBuf> for AbsolutePath {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Self, String> {
        match path.is_absolute() {
            true => Ok(Self(path)),
            false => Err(format!("{path:?} is not an absolute path")),
        }
    }
}

/// A program: an absolute path, or a name to find in `PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PathBuf")]
pub struct Program(PathBuf);

impl From<Program> for PathBuf {
    fn from(program: Program) -> Self {
        program.0
    }
}

impl TryFrom<PathBuf> for Program {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Self, String> {
        let is_a_name = path.file_name() == Some(path.as_os_str());
        match path.is_absolute() || is_a_name {
            true => Ok(Self(path)),
            false => Err(format!("{path:?} is neither an absolute path nor a name")),
        }
    }
}
