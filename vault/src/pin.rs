//! Known volumes: what this machine remembers of a volume, to notice another one or an old one.
//!
//! Anyone can wrap a key of his own to your public key, so a manifest that your token opens is not
//! yet your volume; and an enemy who holds the lower folder can put an old manifest back. Each volume
//! unlocked here is therefore pinned, as ssh pins host keys: its id, the highest epoch and generation
//! seen, and a commitment to that epoch's key. Not covered: what this machine has not yet seen.
//!
//! [`KnownVolumes::before_unlock`] judges what a manifest claims, before a token or person is asked;
//! [`KnownVolumes::after_unlock`] judges what the epoch keys prove. Only then is it [`remember`]ed.

use core::fmt;
use std::path::{Path, PathBuf};

use crate::epoch::{Commitment, EpochKey, EpochKeys};
use crate::ids::{Epoch, VolumeId};
use crate::manifest::{KeyId, Manifest};

mod store;
pub(crate) mod text;

pub use store::remember;

/// Name of the file, in the user's state folder and in `/etc/claviger`.
pub const NAME: &str = "known_volumes";

/// The volumes that this user and this machine know.
#[derive(Debug, Default)]
pub struct KnownVolumes {
    /// The user's own pins, then the machine's; each volume at most once in either.
    pins: Vec<Pin>,
}

/// What is remembered of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    volume: VolumeId,
    epoch: Epoch,
    generation: u64,
    commitment: Commitment,
    /// Who could open it then; empty if that is not known.
    recipients: Vec<ShortKeyId>,
    /// The lower folder it was last seen in.
    folder: Option<PathBuf>,
}

/// The first 8 bytes of a key id: enough to tell people who came and who went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortKeyId(pub [u8; 8]);

/// What the pins say of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Never seen here, nor was another volume in this folder. Say so before asking for a PIN.
    Unknown,
    /// As it was last time.
    Same,
    /// It went on since: a new pin is due, and people are to be shown what changed.
    Advanced(Vec<Change>),
    /// Older than what was seen here already. Refuse.
    RolledBack {
        /// Epoch and generation that were seen.
        seen: (Epoch, u64),
        /// Epoch and generation that are there now.
        found: (Epoch, u64),
    },
    /// This folder held another volume. Refuse.
    OtherVolume {
        /// The volume that belongs here.
        known: VolumeId,
    },
    /// It has the id of a known volume, but not its key. Refuse.
    OtherKey,
}

/// One difference between a volume and its pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A recipient was removed and a new epoch begun, perhaps several times.
    Epoch {
        /// Then.
        from: Epoch,
        /// Now.
        to: Epoch,
    },
    /// A key can open the volume that could not.
    Added {
        /// Its id.
        key_id: KeyId,
        /// What the manifest calls it.
        label: String,
    },
    /// A key can open the volume no longer.
    Removed(ShortKeyId),
    /// The manifest was changed without any of the above, or it is not known who could open it.
    Generation {
        /// Then.
        from: u64,
        /// Now.
        to: u64,
    },
}

/// Known volumes cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Not read as empty: that would forget every volume.
    #[error("{path}, line {line}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// For people.
        what: &'static str,
    },
    /// A newer pin was stored meanwhile.
    #[error("volume {0} was seen in a later state meanwhile")]
    Overtaken(VolumeId),
    /// The filesystem failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<KeyId> for ShortKeyId {
    fn from(KeyId([a, b, c, d, e, f, g, h, ..]): KeyId) -> Self {
        Self([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for ShortKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ShortKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShortKeyId({self})")
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch { from, to } => write!(f, "a new epoch has begun: {from} → {to}"),
            Self::Added { key_id, label } => {
                write!(
                    f,
                    "recipient added: {label} ({})",
                    ShortKeyId::from(*key_id)
                )
            }
            Self::Removed(key_id) => write!(f, "recipient removed: {key_id}"),
            Self::Generation { from, to } => {
                write!(f, "manifest changed: generation {from} → {to}")
            }
        }
    }
}

impl Pin {
    /// What is to be remembered of an unlocked volume. `current` is the key of the manifest's epoch.
    pub fn new(manifest: &Manifest, current: &EpochKey, folder: &Path) -> Self {
        Self {
            volume: manifest.volume(),
            epoch: manifest.epoch(),
            generation: manifest.generation(),
            commitment: current.commitment(),
            recipients: short_key_ids(manifest).collect(),
            folder: Some(folder.into()),
        }
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Highest epoch and generation seen.
    pub fn seen(&self) -> (Epoch, u64) {
        (self.epoch, self.generation)
    }

    /// Whether `manifest` is an older state of this volume than this one: either number lower.
    fn is_rolled_back_by(&self, manifest: &Manifest) -> bool {
        manifest.epoch() < self.epoch || manifest.generation() < self.generation
    }

    fn changes(&self, manifest: &Manifest) -> Vec<Change> {
        let mut changes = Vec::new();
        if manifest.epoch() > self.epoch {
            changes.push(Change::Epoch {
                from: self.epoch,
                to: manifest.epoch(),
            });
        }
        if !self.recipients.is_empty() {
            let now = manifest
                .recipients()
                .iter()
                .map(|enrolled| &enrolled.recipient);
            changes.extend(
                now.filter(|recipient| !self.recipients.contains(&recipient.key_id().into()))
                    .map(|recipient| Change::Added {
                        key_id: recipient.key_id(),
                        label: recipient.label().into(),
                    }),
            );
            let gone = self.recipients.iter().copied();
            changes.extend(
                gone.filter(|key_id| short_key_ids(manifest).all(|now| now != *key_id))
                    .map(Change::Removed),
            );
        }
        if changes.is_empty() && manifest.generation() > self.generation {
            changes.push(Change::Generation {
                from: self.generation,
                to: manifest.generation(),
            });
        }
        changes
    }
}

impl KnownVolumes {
    /// What the pins say of a manifest that nobody has authenticated yet. [`Verdict::Same`] and
    /// [`Verdict::Advanced`] are as good as the claims; the refusals are final.
    pub fn before_unlock(&self, folder: &Path, claims: &Manifest) -> Verdict {
        let mut verdict = self.of_folder(folder, claims);
        for pin in self.of_volume(claims) {
            if pin.is_rolled_back_by(claims) {
                let found = (claims.epoch(), claims.generation());
                return Verdict::RolledBack {
                    seen: pin.seen(),
                    found,
                };
            }
            verdict = later_of(verdict, pin.changes(claims));
        }
        verdict
    }

    /// What the pins say of a volume whose epoch keys are here: `manifest` is verified, and `keys`
    /// are those that its chain gave.
    pub fn after_unlock(&self, folder: &Path, manifest: &Manifest, keys: &EpochKeys) -> Verdict {
        let verdict = self.before_unlock(folder, manifest);
        if matches!(
            verdict,
            Verdict::RolledBack { .. } | Verdict::OtherVolume { .. }
        ) {
            return verdict;
        }
        let proves = |pin: &Pin| {
            let key = keys.of(pin.epoch);
            key.is_some_and(|key| key.commitment() == pin.commitment)
        };
        if self.of_volume(manifest).all(proves) {
            verdict
        } else {
            Verdict::OtherKey
        }
    }

    fn of_volume(&self, manifest: &Manifest) -> impl Iterator<Item = &Pin> {
        let volume = manifest.volume();
        self.pins.iter().filter(move |pin| pin.volume == volume)
    }

    /// Whether another volume was last seen in `folder`; the volume itself may have been moved here.
    fn of_folder(&self, folder: &Path, claims: &Manifest) -> Verdict {
        let of_folder = |pin: &&Pin| pin.folder.as_deref() == Some(folder);
        let mut others = self.pins.iter().filter(of_folder);
        match others.find(|pin| pin.volume != claims.volume()) {
            Some(pin) => Verdict::OtherVolume { known: pin.volume },
            None => Verdict::Unknown,
        }
    }
}

/// The verdict on a volume after one more pin of it was found, which it differs from by `changes`.
fn later_of(verdict: Verdict, changes: Vec<Change>) -> Verdict {
    match verdict {
        Verdict::Unknown if changes.is_empty() => Verdict::Same,
        Verdict::Unknown => Verdict::Advanced(changes),
        // The user's own pin comes first and has the last word on what is news to him; the
        // machine's older one is no news.
        Verdict::Same | Verdict::Advanced(_) => verdict,
        Verdict::OtherVolume { .. } | Verdict::RolledBack { .. } | Verdict::OtherKey => verdict,
    }
}

fn short_key_ids(manifest: &Manifest) -> impl Iterator<Item = ShortKeyId> {
    let recipients = manifest.recipients().iter();
    recipients.map(|enrolled| enrolled.recipient.key_id().into())
}

#[cfg(test)]
pub(crate) mod tests;
