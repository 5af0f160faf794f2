//! Mounts of a migration's own, at places that only this user enters.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use claviger_protocol::paths;

use crate::Failed;
use crate::command::mount;

/// Begins the names of the mountpoints.
const PREFIX: &str = "migrate-";

/// Something mounted for one migration; unmounted on drop.
pub(super) struct PrivateMount(PathBuf);

impl PrivateMount {
    /// Makes a mountpoint and lets `mount` mount something there.
    pub(super) fn make(mount: impl FnOnce(&Path) -> Result<(), Failed>) -> Result<Self, Failed> {
        let parent = paths::runtime_dir();
        let failed = |error| Failed::file(&parent, &error);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&parent).map_err(failed)?;
        let mountpoint = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent);
        let mountpoint = mountpoint.map_err(failed)?;
        mount(mountpoint.path())?;
        Ok(Self(mountpoint.keep()))
    }

    /// Takes over the one at `mountpoint`, if a migration that was killed has left it there.
    pub(super) fn left_behind(mountpoint: &Path) -> Option<Self> {
        let name = mountpoint.file_name()?.to_str()?;
        let ours = mountpoint.parent() == Some(&paths::runtime_dir()) && name.starts_with(PREFIX);
        ours.then(|| Self(mountpoint.to_owned()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        if let Err(failed) = mount::unmount(&self.0) {
            failed.tell();
            return;
        }
        // A mountpoint that stays is empty, and gone with the session.
        let _ = fs::remove_dir(&self.0);
    }
}
