//! Locking: keys are wiped here at once, then mounts are told, then waited for.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use claviger_protocol::Failure;
use claviger_protocol::control::{LockTarget, Reply};
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

/// Which mounts have not said yet that they are done.
#[derive(Default)]
pub struct LockWaits {
    waits: Mutex<HashMap<VolumeId, Waiting>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Instances of the requesters.
    mounts: BTreeSet<String>,
    lost: Vec<String>,
}

impl Daemon {
    /// Locks what `target` names, and waits for its mounts.
    ///
    /// # Errors
    /// [`Failure::NotFound`] if there is no such volume. A mount that does not answer is no error: it
    /// is named in what was lost.
    pub fn lock(&self, target: &LockTarget, caller: &Caller) -> Result<Reply, Failure> {
        let volumes = match target {
            LockTarget::All => self.known_here(),
            LockTarget::Volume(dir) => BTreeSet::from([self.volume_in(dir)?]),
        };
        let begun = Instant::now();
        let mounts = self.mounts();
        let mut was_open = BTreeSet::new();
        for &volume in &volumes {
            // Wiped before anything else can go wrong.
            if let Some(open) = self.volumes.remove(volume) {
                was_open.insert(volume);
                tracing::info!(%volume, "volume locked");
                let errand = Errand {
                    volume: Some(VolumeName {
                        id: volume,
                        dir: open.dir().into(),
                        standing: Standing::Known,
                    }),
                    lower_path: None,
                    program: caller.program.clone(),
                };
                let key = UsedKey::default();
                self.audit
                    .record(Event::Lock, &errand, &key, &Ok(()), begun.elapsed());
            }
            let of_volume = mounts.iter().filter(|mount| mount.volume == Some(volume));
            self.volumes.lock_waits.begin(volume, of_volume);
            self.broadcast(KeyEvent::Lock { volume });
        }
        if self.volumes.all().is_empty() {
            // Nothing is open, so nothing needs a login: what a module holds of it goes too.
            self.tokens.modules.log_out(&Wait::at_most(LOCK_TIME));
        }
        let end = begun + LOCK_TIME;
        let mut lost = Vec::new();
        for &volume in &volumes {
            let (files, silent) = self.volumes.lock_waits.wait(volume, end);
            lost.extend(files);
            let silent = mounts
                .iter()
                .filter(|mount| silent.contains(&mount.instance));
            lost.extend(
                silent.map(|mount| format!("{}: did not say that it is locked", mount.mountpoint)),
            );
        }
        Ok(Reply::Locked {
            volumes: was_open.into_iter().collect(),
            lost,
        })
    }

    /// Unlocked ones, and those of mounts: a mount may still hold what this daemon has forgotten.
    fn known_here(&self) -> BTreeSet<VolumeId> {
        let open = self.volumes.all().into_iter().map(|volume| volume.id());
        let mounted = self.mounts().into_iter().filter_map(|mount| mount.volume);
        open.chain(mounted).collect()
    }

    /// The volume that a person means by a lower folder or a mount point.
    fn volume_in(&self, dir: &Path) -> Result<VolumeId, Failure> {
        let real: PathBuf = dir.canonicalize().unwrap_or_else(|_| dir.into());
        let open = self.volumes.all();
        if let Some(volume) = open.iter().find(|volume| volume.dir() == real) {
            return Ok(volume.id());
        }
        let mounts = self.mounts();
        let here = |mount: &&Mount| {
            Path::new(&mount.mountpoint) == real || Path::new(&mount.lower) == real
        };
        if let Some(volume) = mounts.iter().find(here).and_then(|mount| mount.volume) {
            return Ok(volume);
        }
        let (lower, _) = open_lower(dir)?;
        let loaded = manifest::load(&lower).map_err(crate::failure::of_manifest)?;
        Ok(loaded.manifest.claims().volume())
    }
}

impl LockWaits {
    fn begin<'a>(&self, volume: VolumeId, mounts: impl Iterator<Item = &'a Mount>) {
        let mut waits = self.waits();
        let waiting = waits.entry(volume).or_default();
        waiting
            .mounts
            .extend(mounts.map(|mount| mount.instance.clone()));
    }

    /// A mount has dropped its keys; `lost` are files whose last writes it could not write out.
    pub fn done(&self, volume: VolumeId, instance: &str, lost: Vec<String>) {
        if let Some(waiting) = self.waits().get_mut(&volume)
            && waiting.mounts.remove(instance)
        {
            waiting.lost.extend(lost);
        }
        self.changed.notify_all();
    }

    /// A requester has gone, with everything it held.
    pub fn gone(&self, instance: &str) {
        for waiting in self.waits().values_mut() {
            waiting.mounts.remove(instance);
        }
        self.changed.notify_all();
    }

    /// Waits until all are done, or `end`; what was lost, and who has not answered.
    fn wait(&self, volume: VolumeId, end: Instant) -> (Vec<String>, BTreeSet<String>) {
        let mut waits = self.waits();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let over = waits
                .get(&volume)
                .is_none_or(|waiting| waiting.mounts.is_empty());
            if over || left.is_zero() {
                let waiting = waits.remove(&volume).unwrap_or_default();
                return (waiting.lost, waiting.mounts);
            }
            let waited = self.changed.wait_timeout(waits, left);
            waits = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn waits(&self) -> MutexGuard<'_, HashMap<VolumeId, Waiting>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeId = VolumeId([1; 16]);

    fn mount(instance: &str) -> Mount {
        Mount {
            instance: instance.into(),
            volume: Some(VOLUME),
            mountpoint: "/mnt".into(),
            lower: "/lower".into(),
            carrier: "unix".into(),
            pid: 1,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_lock_waits_for_every_mount_and_tells_what_they_lost() {
        let waits = LockWaits::default();
        waits.begin(VOLUME, [mount("a"), mount("b")].iter());
        waits.done(VOLUME, "a", vec!["x".into()]);
        std::thread::scope(|scope| {
            let locked = scope.spawn(|| waits.wait(VOLUME, soon()));
            waits.done(VOLUME, "b", vec!["y".into()]);
            let (lost, silent) = locked.join().unwrap();
            assert_eq!(lost, ["x", "y"]);
            assert!(silent.is_empty());
        });
    }

    #[test]
    fn a_mount_that_has_gone_is_not_waited_for() {
        let waits = LockWaits::default();
        waits.begin(VOLUME, [mount("a")].iter());
        waits.gone("a");
        assert!(waits.wait(VOLUME, soon()).1.is_empty());
    }

    #[test]
    fn a_mount_that_does_not_answer_is_named() {
        let waits = LockWaits::default();
        waits.begin(VOLUME, [mount("a")].iter());
        let (_, silent) = waits.wait(VOLUME, Instant::now());
        assert_eq!(silent, BTreeSet::from(["a".into()]));
    }

    #[test]
    fn a_stranger_who_says_done_ends_no_wait() {
        let waits = LockWaits::default();
        waits.begin(VOLUME, [mount("a")].iter());
        waits.done(VOLUME, "b", vec!["made up".into()]);
        let (lost, silent) = waits.wait(VOLUME, Instant::now());
        assert!(lost.is_empty() && silent.contains("a"));
    }
}
