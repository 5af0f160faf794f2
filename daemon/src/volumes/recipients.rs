//! Who opens a volume: listing, adding, and removing, which starts a new epoch.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use claviger_pki::module::Provenance;
use claviger_pki::seed::RecoveryKey;
use claviger_protocol::control::{KeyRef, NewRecipient, Reply};
use claviger_protocol::keys::KeyEvent;
use claviger_protocol::{Failure, Secret};
use claviger_vault::epoch::{EpochKey, EpochKeys};
use claviger_vault::ids::VolumeId;
use claviger_vault::manifest::{ChangeError, KeyId, Manifest, Recipient, RecipientKind, ToWrap};
use claviger_vault::pin::{Pin, remember};

use super::recipient::{Newcomer, kem_of, recipient_infos, wrap_epoch_key};
use super::root::{bind_root, names_keys};
use super::{Volume, open_lower};
use crate::audit::{Event, UsedKey};
use crate::daemon::{Caller, Daemon};
use crate::enrol::Named;
use crate::errand::{Errand, Standing, VolumeName};
use crate::failure;
use crate::turns::Turn;

impl Daemon {
    /// Who opens the volume in `dir`. Of a locked volume this is what its folder claims.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn recipient_list(&self, dir: &Path, caller: &Caller) -> Result<Reply, Failure> {
        let (lower, dir) = open_lower(dir)?;
        let manifest = self.load_manifest((&lower, &dir), caller)?;
        if let Ok(volume) = self.volumes.get(manifest.claims().volume())
            && self.refresh(&dir, &volume, manifest.clone())?
        {
            return volume.with_keys(|keys| recipients(&keys.manifest, None));
        }
        caller
            .asker
            .tell("The volume is locked: this is what its folder says, unverified.");
        Ok(recipients(manifest.claims(), None))
    }

    /// Lets one more key open the volume in `dir`.
    ///
    /// # Errors
    /// [`Failure::Locked`] unless the volume is unlocked; [`Failure`].
    pub fn recipient_add(
        &self,
        dir: &Path,
        newcomer: &NewRecipient,
        caller: &Caller,
    ) -> Result<Reply, Failure> {
        let mut told = None;
        let newcomer = match newcomer {
            NewRecipient::Key(key) => self.newcomer(self.name(key, &caller.request(None))?)?,
            NewRecipient::Passphrase(passphrase) => Newcomer::of_passphrase(passphrase.expose())?,
            NewRecipient::Recovery => {
                let (newcomer, text) = new_recovery_key();
                told = Some(text);
                newcomer
            }
        };
        // Nobody learns a recovery key that nobody waits for any more.
        caller.wait.check("the new recipient")?;
        let changed = self.change(dir, caller, |manifest, epochs| {
            let Newcomer { recipient, kem } = newcomer;
            let wrap = |recipient: &Recipient, to_wrap: ToWrap<'_>| {
                wrap_epoch_key(recipient, kem, &to_wrap)
            };
            manifest
                .add_recipient(epochs.current(), recipient, wrap)
                .map_err(of_change)?;
            Ok(None)
        })?;
        // Told, and no more than that: the newcomer is in, and a recovery key is shown only now. Nor does it
        // matter whether the volume was locked meanwhile.
        if let Err(failure) = changed.remembered {
            caller.asker.tell(&unremembered(&failure));
        }
        Ok(recipients(&changed.manifest, told))
    }

    /// Removes a recipient of the volume in `dir`: what is written from now on, he cannot read.
    ///
    /// # Errors
    /// [`Failure::Locked`] unless the volume is unlocked; [`Failure`].
    pub fn recipient_remove(
        &self,
        dir: &Path,
        who: &str,
        caller: &Caller,
    ) -> Result<Reply, Failure> {
        let named = self.named_key(who, caller)?;
        let changed = self.change(dir, caller, |manifest, epochs| {
            let key_id = named.map_or_else(|| find(manifest, who), Ok)?;
            let before = manifest.clone();
            let wrap = |recipient: &Recipient, to_wrap: ToWrap<'_>| {
                let kem = kem_of(&before, recipient.key_id())?;
                wrap_epoch_key(recipient, kem, &to_wrap)
            };
            let removed = manifest.remove_recipient(epochs.current(), key_id, wrap);
            Ok(Some(removed.map_err(of_change)?))
        })?;
        let Changed {
            volume,
            manifest,
            remembered,
            turn,
        } = changed;
        // The manifest is written. Whatever fails from here on, mounts must leave the old epoch.
        let names = volume.with_keys(names_keys).and_then(|names| names);
        let bound = names.and_then(|names| bind_root(dir, &names));
        drop(turn);
        let event = KeyEvent::NewEpoch {
            volume: volume.id(),
            epoch: manifest.epoch(),
        };
        self.tell_mounts(event);
        // So that what is written after the command has returned is out of his reach.
        let end = Instant::now() + super::KEYS_TIME;
        let (_, silent) = self.volumes.acknowledgements.wait(event, end);
        if !silent.is_empty() {
            caller.asker.tell(
                "A mount has not taken up the new epoch yet: what is written there in the next \
                 seconds may still be of the old one.",
            );
        }
        if let Err(failure) = &bound {
            caller.asker.tell(&format!(
                "The recipient is removed, and the root directory is still bound under the old epoch \
                 ({failure}): on a mount of several users he could pass for one of them. The next \
                 unlock tries again."
            ));
        }
        if let Err(failure) = &remembered {
            caller.asker.tell(&unremembered(failure));
        }
        bound.and(remembered)?;
        Ok(recipients(&manifest, None))
    }

    /// The key that `who` names by a URI or a file; `None` for an id or label, which the manifest knows.
    fn named_key(&self, who: &str, caller: &Caller) -> Result<Option<KeyId>, Failure> {
        let key = if self.tokens.modules.reference(who).is_some() {
            KeyRef::Uri(who.into())
        } else if who.starts_with('/') {
            KeyRef::File(who.into())
        } else {
            return Ok(None);
        };
        let key_id = match self.name(&key, &caller.request(None))? {
            Named::Private(key) => key.key_id(),
            Named::Public(key, ..) => key.key_id(),
        };
        Ok(Some(KeyId(key_id.0)))
    }

    /// What a key reference names, as a recipient. A key of one's own is enrolled on the way: a
    /// recipient that could not be used afterwards would be a surprise.
    pub(super) fn newcomer(&self, named: Named) -> Result<Newcomer, Failure> {
        match named {
            Named::Private(key) => {
                let known = self.own_keys.usable(key.key_id())?;
                if known.is_none_or(|known| known.locator != key.locator) {
                    self.own_keys.add(&key)?;
                }
                let kind = match key.provenance {
                    Provenance::Software => RecipientKind::File,
                    _ => RecipientKind::Token,
                };
                Ok(Newcomer::of_key(&key.public_key, key.kem, kind, &key.label))
            }
            Named::Public(key, kem, label) => {
                Ok(Newcomer::of_key(&key, kem, RecipientKind::File, &label))
            }
        }
    }

    /// Changes the manifest of an unlocked volume: on disk first, then here, then the pin.
    ///
    /// # Errors
    /// [`Failure`] if nothing is changed. A volume that is locked while it is written is changed.
    fn change(
        &self,
        dir: &Path,
        caller: &Caller,
        change: impl FnOnce(&mut Manifest, &EpochKeys) -> Result<Option<EpochKey>, Failure>,
    ) -> Result<Changed<'_>, Failure> {
        let begun = Instant::now();
        let (lower, dir) = open_lower(dir)?;
        let manifest = self.load_manifest((&lower, &dir), caller)?;
        let volume = self.volumes.get(manifest.claims().volume())?;
        // Another machine may have changed it meanwhile.
        if !self.refresh(&dir, &volume, manifest)? {
            return Err(Failure::Locked);
        }
        let turn = self.volumes.change(volume.id(), &caller.wait)?;
        let made = volume.with_keys(|keys| {
            let mut changed = keys.manifest.clone();
            let next = change(&mut changed, &keys.epochs)?;
            let current = next.as_ref().unwrap_or_else(|| keys.epochs.current());
            let pin = Pin::new(&changed, current, &dir);
            Ok((changed.authenticate(current), next, pin))
        });
        let result = made.and_then(|made| made).and_then(|(changed, next, pin)| {
            // Nobody has the keys locked: a disk that hangs must not keep them from being wiped.
            changed.store(&lower).map_err(failure::of_manifest)?;
            let changed = changed.into_manifest();
            let taken_over = volume.change_keys(|keys| {
                keys.manifest = changed.clone();
                if let Some(key) = next {
                    keys.epochs.insert(changed.epoch(), key);
                }
            });
            if taken_over.is_err() {
                tracing::info!(volume = %volume.id(), "locked while its recipients were changed");
            }
            let remembered = remember(&self.places.state, pin).map_err(failure::of_pin);
            Ok((changed, remembered))
        });
        let errand = Errand {
            volume: Some(VolumeName {
                id: volume.id(),
                dir,
                standing: Standing::Known,
            }),
            lower_path: None,
            program: caller.program.clone(),
        };
        let key = UsedKey::default();
        self.audit
            .record(Event::Recipients, &errand, &key, &result, begun.elapsed());
        result.map(|(manifest, remembered)| Changed {
            volume,
            manifest,
            remembered,
            turn,
        })
    }
}

/// A change that is written.
struct Changed<'a> {
    volume: Arc<Volume>,
    /// What it is now; kept here, since the volume may be locked at any time.
    manifest: Manifest,
    /// Whether this machine would know an older manifest for what it is.
    remembered: Result<(), Failure>,
    /// Until it is dropped, nobody else changes it.
    turn: Turn<'a, VolumeId>,
}

fn unremembered(failure: &Failure) -> String {
    format!(
        "The change is made, but this machine cannot remember it ({failure}): until the volume has been \
         locked and unlocked here, an older list of recipients would pass for the current one."
    )
}

/// A fresh recovery key as a recipient, and the text to be told once.
pub(super) fn new_recovery_key() -> (Newcomer, Secret) {
    let recovery = RecoveryKey::generate();
    let text = Secret::new(recovery.expose_text().as_bytes().to_vec());
    let newcomer = Newcomer::of_seed(&recovery.derive(), RecipientKind::Recovery, "recovery key");
    (newcomer, text)
}

/// What cannot be changed, and why.
pub(super) fn of_change(error: ChangeError<Failure>) -> Failure {
    match error {
        ChangeError::AlreadyRecipient(_) | ChangeError::LastRecipient => {
            Failure::Usage(error.to_string())
        }
        ChangeError::NotRecipient(_) => Failure::NotFound(error.to_string()),
        ChangeError::Wrap(failure) => failure,
        ChangeError::Memory(error) => Failure::Internal(error.to_string()),
    }
}

fn recipients(manifest: &Manifest, recovery: Option<Secret>) -> Reply {
    Reply::Recipients {
        epoch: manifest.epoch(),
        recipients: recipient_infos(manifest),
        recovery,
    }
}

/// The recipient that a person means: by id, its beginning, or label.
fn find(manifest: &Manifest, who: &str) -> Result<KeyId, Failure> {
    let id = who.to_ascii_lowercase();
    let all = manifest
        .recipients()
        .iter()
        .map(|enrolled| &enrolled.recipient);
    let fits = all.filter(|recipient| {
        let of_id = !id.is_empty() && recipient.key_id().to_string().starts_with(&id);
        of_id || recipient.label() == who
    });
    let fits: Vec<_> = fits.map(|recipient| recipient.key_id()).collect();
    match fits.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::NotFound(format!(
            "no recipient '{who}' of this volume"
        ))),
        several => Err(Failure::Usage(format!(
            "'{who}' fits {} recipients: give more of the key id",
            several.len()
        ))),
    }
}
