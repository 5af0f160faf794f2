//! Locking: keys are wiped here at once, then mounts are told, then waited for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use claviger_protocol::Failure;
use claviger_protocol::control::{LockTarget, Locked};
use claviger_protocol::keys::KeyEvent;
use claviger_vault::ids::VolumeId;
use claviger_vault::manifest;

use super::open_lower;
use crate::audit::{Event, UsedKey};
use crate::daemon::{Caller, Daemon};
use crate::errand::{Errand, Standing, VolumeName};
use crate::mounts::Mount;
use crate::wait::Wait;

/// How long mounts may take to write out what they hold, drop their keys, and say so. They give
/// themselves 10 s and the kernel 2 s more.
const LOCK_TIME: Duration = Duration::from_secs(13);

impl Daemon {
    /// Locks what `target` names, and waits for its mounts.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if there is no such volume. A mount that does not answer is no error.
    pub fn lock(&self, target: &LockTarget, caller: &Caller) -> Result<Locked, Failure> {
        let volumes = match target {
            LockTarget::All => self.known_here(),
            LockTarget::Volume(dir) => BTreeSet::from([self.volume_in(dir)?]),
        };
        let begun = Instant::now();
        let mounts = self.mounts();
        let mut locked = Locked::default();
        let mut was_open = BTreeSet::new();
        for &volume in &volumes {
            // Wiped before anything else can go wrong.
            if let Some(dir) = self.volumes.remove(volume) {
                was_open.insert(volume);
                locked.folders.push(dir.to_string_lossy().into_owned());
                tracing::info!(%volume, "volume locked");
                let errand = Errand {
                    volume: Some(VolumeName {
                        id: volume,
                        dir,
                        standing: Standing::Known,
                    }),
                    lower_path: None,
                    program: caller.program.clone(),
                };
                let key = UsedKey::default();
                self.audit
                    .record(Event::Lock, &errand, &key, &Ok(()), begun.elapsed());
            }
            self.tell_mounts(KeyEvent::Lock { volume });
        }
        if self.volumes.places().is_empty() {
            // Nothing is open, so nothing needs a login: what a module holds of it goes too.
            self.tokens.modules.log_out(&Wait::at_most(LOCK_TIME));
        }
        let end = begun + LOCK_TIME;
        for &volume in &volumes {
            let (files, silent) = self
                .volumes
                .acknowledgements
                .wait(KeyEvent::Lock { volume }, end);
            locked.lost.extend(files);
            for mount in mounts.iter().filter(|it| it.volume == Some(volume)) {
                let mountpoint = mount.mountpoint.clone();
                if silent.contains(&mount.instance) {
                    locked.silent.push(mountpoint);
                } else if !was_open.contains(&volume) {
                    locked.mounts.push(mountpoint);
                }
            }
        }
        Ok(locked)
    }

    /// Unlocked ones, and those of mounts: a mount may still hold what this daemon has forgotten.
    fn known_here(&self) -> BTreeSet<VolumeId> {
        let open = self.volumes.places().into_iter().map(|(id, _)| id);
        let mounted = self.mounts().into_iter().filter_map(|mount| mount.volume);
        open.chain(mounted).collect()
    }

    /// The volume that a person means by a lower folder or a mount point.
    fn volume_in(&self, dir: &Path) -> Result<VolumeId, Failure> {
        let real: PathBuf = dir.canonicalize().unwrap_or_else(|_| dir.into());
        let open = self.volumes.places();
        if let Some((id, _)) = open.iter().find(|(_, dir)| *dir == real) {
            return Ok(*id);
        }
        let mounts = self.mounts();
        let here = |mount: &&Mount| {
            Path::new(&mount.mountpoint) == real || Path::new(&mount.lower) == real
        };
        if let Some(volume) = mounts.iter().find(here).and_then(|mount| mount.volume) {
            return Ok(volume);
        }
        let (lower, _) = open_lower(dir)?;
        let loaded =
            manifest::load(&lower).map_err(|error| crate::failure::of_manifest_in(dir, error))?;
        Ok(loaded.manifest.claims().volume())
    }
}
