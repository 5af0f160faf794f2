//! The FEKs of one existing file: from its key record alone, or in file scope by a token.

use std::sync::Arc;
use std::time::Instant;

use claviger_pki::key::KeyId;
use claviger_protocol::keys::KeyReply;
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::{Epoch, VolumeId};
use claviger_vault::native::head::{self, SealedByFileKey};
use claviger_vault::native::{Feks, HeadError};
use claviger_vault::secret::Fek;

use super::file_scope::{NeedsToken, Openers, packet_for};
use crate::audit::{Event, UsedKey};
use crate::daemon::Daemon;
use crate::errand::{Errand, Program, Standing, VolumeName};
use crate::volumes::{KeptSeed, Keys, Occupied, Volume};

/// One request, and when it came.
pub(super) struct Unwrap {
    volume: Result<Arc<Volume>, Failure>,
    errand: Errand,
    begun: Instant,
}

/// What the epoch key alone gave.
pub(super) enum Opened {
    /// The end, and told in the audit log.
    Answer(Result<KeyReply, Failure>),
    /// A token has to unwrap the file key.
    NeedsToken(Box<NeedsToken>),
}

/// What a key record is, once it is open.
enum Record {
    Feks(Feks, Epoch),
    Sealed(Box<SealedByFileKey>, Openers),
}

impl Unwrap {
    pub(super) fn new(daemon: &Daemon, id: VolumeId, lower_path: &[u8], pid: u32) -> Self {
        let volume = daemon.volumes.get(id);
        let dir = volume
            .as_ref()
            .map(|volume| volume.dir().to_owned())
            .unwrap_or_default();
        Self {
            volume,
            errand: Errand {
                volume: Some(VolumeName {
                    id,
                    dir,
                    standing: Standing::Known,
                }),
                lower_path: Some(String::from_utf8_lossy(lower_path).into_owned()),
                program: Program::of_pid(pid),
            },
            begun: Instant::now(),
        }
    }

    /// Opens the header's key record, which authenticates it.
    pub(super) fn open_header(self, daemon: &Daemon, header: &[u8]) -> Opened {
        let record = self.volume.as_ref().map_err(Clone::clone);
        let record = record
            .and_then(|volume| volume.with_keys(|keys| open_record(header, volume.id(), keys)));
        self.opened(daemon, record)
    }

    /// The same, without waiting for the volume's keys.
    ///
    /// # Errors
    /// [`Occupied`].
    pub(super) fn open_header_at_once(
        self,
        daemon: &Daemon,
        header: &[u8],
    ) -> Result<Opened, Occupied> {
        let record = match &self.volume {
            Ok(volume) => {
                volume.with_keys_at_once(|keys| open_record(header, volume.id(), keys))?
            }
            Err(failure) => Err(failure.clone()),
        };
        Ok(self.opened(daemon, record))
    }

    fn opened(self, daemon: &Daemon, record: Result<Result<Record, Failure>, Failure>) -> Opened {
        let result = match (record.and_then(|record| record), self.volume) {
            (Ok(Record::Sealed(sealed, openers)), Ok(volume)) => {
                return Opened::NeedsToken(Box::new(NeedsToken {
                    volume,
                    sealed,
                    openers,
                    errand: self.errand,
                    begun: self.begun,
                }));
            }
            (Ok(Record::Feks(feks, epoch)), _) => Ok(reply_of(&feks, epoch)),
            (Err(failure), _) | (Ok(_), Err(failure)) => Err(failure),
        };
        let key = UsedKey {
            key_id: None,
            module: Some("epoch-key".into()),
        };
        let took = self.begun.elapsed();
        daemon
            .audit
            .record(Event::Unwrap, &self.errand, &key, &result, took);
        Opened::Answer(result)
    }
}

fn open_record(header: &[u8], volume: VolumeId, keys: &Keys) -> Result<Record, Failure> {
    let minimum = keys.manifest.minimum();
    let key = |epoch| keys.epochs.of(epoch).filter(|_| epoch >= minimum);
    let opened = head::open(header, volume, key);
    let sealed = match opened {
        Ok(head::Opened::Feks(feks, epoch)) => return Ok(Record::Feks(feks, epoch)),
        Ok(head::Opened::FileScope(sealed)) => sealed,
        Err(error) => return Err(of_head(error, minimum, keys.epochs.current_epoch())),
    };
    let seed = keys.seed.as_ref().map(KeptSeed::key_id);
    if seed.is_some_and(|seed| packet_for(&sealed, seed).is_some()) {
        return Ok(Record::Sealed(sealed, Openers::Seed));
    }
    let recipients = keys.manifest.recipients().iter().map(|by| &by.recipient);
    let named = recipients.map(|recipient| (KeyId(recipient.key_id().0), recipient));
    let wrapped_to = named.filter(|(key_id, _)| packet_for(&sealed, *key_id).is_some());
    let openers = wrapped_to.map(|(key_id, recipient)| (key_id, recipient.clone()));
    let openers = Openers::Recipients(openers.collect());
    Ok(Record::Sealed(sealed, openers))
}

pub(super) fn reply_of(feks: &Feks, epoch: Epoch) -> KeyReply {
    let secret = |fek: &Fek| Secret::new(fek.expose().to_vec());
    KeyReply::Feks {
        feks: feks.iter().map(secret).collect(),
        newest: feks.newest(),
        epoch,
    }
}

/// Why a header does not open, in a volume whose epochs are accepted from `minimum` to `current`.
pub(super) fn of_head(error: HeadError, minimum: Epoch, current: Epoch) -> Failure {
    match error {
        HeadError::Unsupported(what) => Failure::Unsupported(what.to_string()),
        HeadError::Truncated | HeadError::WrongVolume(_) | HeadError::Integrity(_) => {
            Failure::Integrity(error.to_string())
        }
        HeadError::NoEpochKey(epoch) if epoch < minimum => Failure::Integrity(format!(
            "header of epoch {epoch}: a removed recipient may have made it, all that is genuine was \
             moved on to epoch {minimum}"
        )),
        HeadError::NoEpochKey(epoch) => Failure::Integrity(format!(
            "header of epoch {epoch}, and epoch {current} is unlocked: if the volume was changed \
             elsewhere, run 'claviger unlock'"
        )),
    }
}
