//! Who has not acknowledged an event yet: locking, unlocking and new epochs are waited for.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use claviger_protocol::keys::KeyEvent;

use crate::mounts::Mount;

/// Which mounts have not said yet that they are done.
#[derive(Default)]
pub(crate) struct Acknowledgements {
    waits: Mutex<HashMap<KeyEvent, Waiting>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Instances of the requesters.
    mounts: BTreeSet<String>,
    lost: Vec<String>,
}

impl Acknowledgements {
    /// Begins to wait for `mounts`, before they are told of `event`.
    pub(crate) fn begin<'a>(&self, event: KeyEvent, mounts: impl Iterator<Item = &'a Mount>) {
        let mut waits = self.waits();
        let waiting = waits.entry(event).or_default();
        waiting
            .mounts
            .extend(mounts.map(|mount| mount.instance.clone()));
    }

    /// A mount has done what `event` asks for; `lost` are files whose last writes it could not write out.
    pub(crate) fn done(&self, event: KeyEvent, instance: &str, lost: Vec<String>) {
        if let Some(waiting) = self.waits().get_mut(&event)
            && waiting.mounts.remove(instance)
        {
            waiting.lost.extend(lost);
        }
        self.changed.notify_all();
    }

    /// A requester has gone, with everything it held.
    pub(crate) fn gone(&self, instance: &str) {
        for waiting in self.waits().values_mut() {
            waiting.mounts.remove(instance);
        }
        self.changed.notify_all();
    }

    /// Waits until all are done, or `end`; what was lost, and who has not answered.
    pub(crate) fn wait(&self, event: KeyEvent, end: Instant) -> (Vec<String>, BTreeSet<String>) {
        let mut waits = self.waits();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let over = waits
                .get(&event)
                .is_none_or(|waiting| waiting.mounts.is_empty());
            if over || left.is_zero() {
                let waiting = waits.remove(&event).unwrap_or_default();
                return (waiting.lost, waiting.mounts);
            }
            let waited = self.changed.wait_timeout(waits, left);
            waits = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn waits(&self) -> MutexGuard<'_, HashMap<KeyEvent, Waiting>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use claviger_protocol::control::FolderFormat;
    use claviger_vault::ids::VolumeId;

    use super::*;

    const VOLUME: VolumeId = VolumeId([1; 16]);
    const LOCK: KeyEvent = KeyEvent::Lock { volume: VOLUME };

    fn mount(instance: &str) -> Mount {
        Mount {
            instance: instance.into(),
            volume: Some(VOLUME),
            format: FolderFormat::Native,
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
        let waits = Acknowledgements::default();
        waits.begin(LOCK, [mount("a"), mount("b")].iter());
        waits.done(LOCK, "a", vec!["x".into()]);
        std::thread::scope(|scope| {
            let locked = scope.spawn(|| waits.wait(LOCK, soon()));
            waits.done(LOCK, "b", vec!["y".into()]);
            let (lost, silent) = locked.join().unwrap();
            assert_eq!(lost, ["x", "y"]);
            assert!(silent.is_empty());
        });
    }

    #[test]
    fn a_mount_that_has_gone_is_not_waited_for() {
        let waits = Acknowledgements::default();
        waits.begin(LOCK, [mount("a")].iter());
        waits.gone("a");
        assert!(waits.wait(LOCK, soon()).1.is_empty());
    }

    #[test]
    fn a_mount_that_does_not_answer_is_named() {
        let waits = Acknowledgements::default();
        waits.begin(LOCK, [mount("a")].iter());
        let (_, silent) = waits.wait(LOCK, Instant::now());
        assert_eq!(silent, BTreeSet::from(["a".into()]));
    }

    #[test]
    fn a_stranger_who_says_done_ends_no_wait() {
        let waits = Acknowledgements::default();
        waits.begin(LOCK, [mount("a")].iter());
        waits.done(LOCK, "b", vec!["made up".into()]);
        let (lost, silent) = waits.wait(LOCK, Instant::now());
        assert!(lost.is_empty() && silent.contains("a"));
    }
}
