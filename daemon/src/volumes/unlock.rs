//! Unlocking a volume: its identity first, then a key, then what the key proves.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use claviger_pki::seed::Seed;
use claviger_protocol::Failure;
use claviger_protocol::control::{KeyRef, RecipientInfo, UnlockWith};
use claviger_protocol::keys::KeyEvent;
use claviger_vault::epoch::EpochKeys;
use claviger_vault::ids::{Scope, VolumeId};
use claviger_vault::manifest::{self, Copy, Manifest, Unverified};
use claviger_vault::pin::{KnownVolumes, Pin, Verdict, remember};

use super::kept_seed::KeptSeed;
use super::recipient::recipient_info;
use super::root::{bind_root, names_keys};
use super::{Keys, Volume, open, open_lower};
use crate::audit::Event;
use crate::daemon::{Caller, Daemon};
use crate::errand::{Standing, VolumeName};
use crate::failure;
use crate::single_flight::Outcome;
use crate::tokens::Request;
use crate::wait::Wait;

/// What came of an unlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlocked {
    /// The volume.
    pub volume: VolumeId,
    /// Who opened it; `None` if it was open.
    pub by: Option<RecipientInfo>,
    /// What changed since this machine last saw it, for people.
    pub changes: Vec<String>,
}

/// What somebody is at: to unlock this volume by this. How it ends says nothing of who has something else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    volume: VolumeId,
    /// `None` for any.
    key: Option<KeyRef>,
}

impl Daemon {
    /// Unlocks the volume in the lower folder `dir`. Of several who want the same by the same key, one does it.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn unlock(
        &self,
        dir: &Path,
        with: &UnlockWith,
        caller: &Caller,
    ) -> Result<Unlocked, Failure> {
        loop {
            let since = Instant::now();
            let (lower, dir) = open_lower(dir)?;
            let manifest = self.load_manifest((&lower, &dir), caller)?;
            let id = manifest.claims().volume();
            let standing = self.check_identity(&dir, &manifest)?;
            if let Some(already) = self.already_unlocked(&dir, &manifest)? {
                return Ok(already);
            }
            let request = caller.request(Some(VolumeName {
                id,
                dir: dir.clone(),
                standing,
            }));
            let work = || self.unlock_now(&dir, manifest, with, &request);
            let Some(attempt) = Attempt::new(id, with) else {
                return work();
            };
            let unlocking = &self.volumes.unlocking;
            match unlocking.run(&attempt, since, &caller.wait, work) {
                Outcome::Joined(Err(failure)) if is_about_who_led(&failure) => {}
                Outcome::Led(result) | Outcome::Joined(result) => return result,
                Outcome::GaveUp(failure) => return Err(failure),
            }
            caller.wait.check("another unlock of the volume")?;
        }
    }

    fn unlock_now(
        &self,
        dir: &Path,
        manifest: Unverified,
        with: &UnlockWith,
        request: &Arc<Request>,
    ) -> Result<Unlocked, Failure> {
        let begun = Instant::now();
        let claims = manifest.claims().clone();
        let on_disk = manifest.clone();
        let opened = open::open(self, &claims, with, request);
        let used = opened.as_ref().map(open::Opened::used_key).ok();
        let result = opened.and_then(|opened| {
            let by = recipient_info(&opened.by.recipient);
            let manifest = manifest.verify(&opened.key).map_err(failure::of_manifest)?;
            let epochs = manifest
                .unwrap_chain(opened.key)
                .map_err(failure::of_manifest)?;
            let seed = kept_seed(&manifest, opened.seed)?;
            let keys = Keys {
                manifest,
                epochs,
                seed,
            };
            self.admit(dir, &on_disk, keys, by, &request.wait)
        });
        let key = used.unwrap_or_default();
        self.audit.record(
            Event::Unlock,
            &request.errand,
            &key,
            &result,
            begun.elapsed(),
        );
        result
    }

    /// Takes in a volume whose keys are proved, and pins what was seen; unless another key has opened it
    /// meanwhile.
    fn admit(
        &self,
        dir: &Path,
        on_disk: &Unverified,
        keys: Keys,
        by: RecipientInfo,
        wait: &Wait,
    ) -> Result<Unlocked, Failure> {
        let id = keys.manifest.volume();
        let turn = self.volumes.change(id, wait)?;
        if let Some(already) = self.already_unlocked(dir, on_disk)? {
            return Ok(already);
        }
        let changes = self.pin(dir, &keys.manifest, &keys.epochs)?;
        let bound = names_keys(&keys).and_then(|names| bind_root(dir, &names));
        if let Err(failure) = bound {
            // On a disk that is only read, say. Mounts judge the record for themselves.
            tracing::warn!(volume = %id, %failure, "the root directory stays bound as it is");
        }
        self.volumes
            .insert(Volume::new(id, dir, by.clone(), keys))?;
        drop(turn);
        tracing::info!(volume = %id, by = %by.label, "volume unlocked");
        self.tell_unlocked(id);
        Ok(Unlocked {
            volume: id,
            by: Some(by),
            changes,
        })
    }

    /// Has mounts take up the keys, so that what runs after 'claviger unlock' finds them open.
    pub(crate) fn tell_unlocked(&self, id: VolumeId) {
        let unlocked = KeyEvent::Unlocked { volume: id };
        self.wait_for_mounts();
        self.tell_mounts(unlocked);
        let open_by = Instant::now() + super::KEYS_TIME;
        let (_, silent) = self.volumes.acknowledgements.wait(unlocked, open_by);
        if !silent.is_empty() {
            tracing::warn!(volume = %id, ?silent, "mounts did not say that they are open");
        }
    }

    /// What the pins say of a volume that nobody has opened yet.
    fn check_identity(&self, dir: &Path, manifest: &Unverified) -> Result<Standing, Failure> {
        let known = self.known_volumes()?;
        match known.before_unlock(dir, manifest.claims()) {
            Verdict::Unknown => Ok(Standing::Unknown),
            Verdict::Same | Verdict::Advanced(_) => Ok(Standing::Known),
            refusal => Err(failure::of_verdict(&refusal)),
        }
    }

    /// Compares with the pin what the keys prove, and moves the pin up; returns what changed.
    pub(super) fn pin(
        &self,
        dir: &Path,
        manifest: &Manifest,
        epochs: &EpochKeys,
    ) -> Result<Vec<String>, Failure> {
        let known = self.known_volumes()?;
        let changes = match known.after_unlock(dir, manifest, epochs) {
            Verdict::Same => return Ok(Vec::new()),
            Verdict::Unknown => Vec::new(),
            Verdict::Advanced(changes) => changes.iter().map(ToString::to_string).collect(),
            refusal => return Err(failure::of_verdict(&refusal)),
        };
        let pin = Pin::new(manifest, epochs.current(), dir);
        remember(&self.places.state, pin).map_err(failure::of_pin)?;
        Ok(changes)
    }

    fn known_volumes(&self) -> Result<KnownVolumes, Failure> {
        KnownVolumes::load(&self.places.state, &self.places.system_config).map_err(failure::of_pin)
    }

    /// Whether the keys are here already. A manifest that another machine changed within the epoch is
    /// taken over; after a new epoch the volume has to be opened anew.
    fn already_unlocked(
        &self,
        dir: &Path,
        manifest: &Unverified,
    ) -> Result<Option<Unlocked>, Failure> {
        let Ok(volume) = self.volumes.get(manifest.claims().volume()) else {
            return Ok(None);
        };
        if !self.refresh(dir, &volume, manifest.clone())? {
            return Ok(None);
        }
        Ok(Some(Unlocked {
            volume: volume.id(),
            by: None,
            changes: Vec::new(),
        }))
    }

    /// Takes over the manifest on disk, if the keys that are here prove it; whether they do.
    pub(super) fn refresh(
        &self,
        dir: &Path,
        volume: &Volume,
        manifest: Unverified,
    ) -> Result<bool, Failure> {
        let changed = volume.change_keys(|keys| {
            if manifest.claims().epoch() != keys.epochs.current_epoch() {
                return Ok(false);
            }
            let manifest = manifest
                .verify(keys.epochs.current())
                .map_err(failure::of_manifest)?;
            // Judged first: new files are wrapped to the recipients of what is kept.
            self.pin(dir, &manifest, &keys.epochs)?;
            keys.manifest = manifest;
            Ok(true)
        });
        match changed {
            Ok(result) => result,
            Err(_locked_meanwhile) => Ok(false),
        }
    }

    pub(super) fn load_manifest(
        &self,
        (lower, dir): (&File, &Path),
        caller: &Caller,
    ) -> Result<Unverified, Failure> {
        let loaded = manifest::load(lower).map_err(|error| failure::of_manifest_in(dir, error))?;
        if let Copy::Backup { because } = &loaded.copy {
            let text = format!("{because}; its backup copy is used. Any change writes both anew.");
            tracing::warn!(volume = %loaded.manifest.claims().volume(), "{text}");
            caller.asker.tell(&text);
        }
        Ok(loaded.manifest)
    }
}

impl Attempt {
    /// `None` by a secret: that is nobody else's business.
    fn new(volume: VolumeId, with: &UnlockWith) -> Option<Self> {
        let key = match with {
            UnlockWith::AnyKey => None,
            UnlockWith::Key(key) => Some(key.clone()),
            UnlockWith::RecoveryKey(_) | UnlockWith::Passphrase(_) => return None,
        };
        Some(Self { volume, key })
    }
}

/// Whether it says nothing of how another person's attempt would fare: he gave up, said no, was not there, or
/// was not the one who may agree to a final try. A PIN that was wrong is another matter: it cost a try.
fn is_about_who_led(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Cancelled
            | Failure::TimedOut { .. }
            | Failure::Declined
            | Failure::NobodyToAsk { .. }
            | Failure::PinBlocked { .. }
    )
}

/// Where a token operation opens the whole volume, nothing needs the seed any more.
fn kept_seed(manifest: &Manifest, seed: Option<Seed>) -> Result<Option<KeptSeed>, Failure> {
    match (manifest.scope(), seed) {
        (Scope::File, Some(seed)) => Ok(Some(KeptSeed::new(&seed)?)),
        (Scope::File, None) | (Scope::Volume, _) => Ok(None),
    }
}
