//! The FEKs of one existing file: from its key record alone, or in file scope by a token.

use std::sync::Arc;
use std::time::Instant;

use claviger_callout::Call;
use claviger_pki::key::{KeyId, PublicKey};
use claviger_pki::wrap::{Identity, Wrapped};
use claviger_protocol::keys::KeyReply;
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::{Epoch, VolumeId};
use claviger_vault::native::head::{self, SealedByFileKey};
use claviger_vault::native::{Feks, HeadError, Packet};
use claviger_vault::secret::{Fek, FileKey};
use zeroize::Zeroizing;

use super::fresh::file_key_context;
use super::token_job::TokenJob;
use crate::audit::{Event, UsedKey};
use crate::daemon::Daemon;
use crate::errand::{Errand, Program, Standing, VolumeName};
use crate::failure;
use crate::opener::{Candidate, OpenError};
use crate::tokens::Request;
use crate::volumes::Volume;
use crate::volumes::recipient::public_key;

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

/// A file in file scope.
pub(super) struct NeedsToken {
    volume: Arc<Volume>,
    sealed: Box<SealedByFileKey>,
    errand: Errand,
    begun: Instant,
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
        let opened = self.volume.and_then(|volume| {
            let opened = volume.with_keys(|keys| {
                let minimum = keys.manifest.minimum();
                let key = |epoch| keys.epochs.of(epoch).filter(|_| epoch >= minimum);
                head::open(header, volume.id(), key)
                    .map_err(|error| of_head(error, minimum, keys.epochs.current_epoch()))
            });
            Ok((opened??, volume))
        });
        let result = match opened {
            Ok((head::Opened::FileScope(sealed), volume)) => {
                return Opened::NeedsToken(Box::new(NeedsToken {
                    volume,
                    sealed,
                    errand: self.errand,
                    begun: self.begun,
                }));
            }
            Ok((head::Opened::Feks(feks, epoch), _)) => Ok(reply_of(&feks, epoch)),
            Err(failure) => Err(failure),
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

impl NeedsToken {
    pub(super) fn for_call(self: Box<Self>, call: Call) -> TokenJob {
        let errand = self.errand.clone();
        TokenJob::new(
            (Event::Unwrap, errand),
            self.begun,
            call,
            Box::new(move |daemon, used, request| self.open(daemon, used, request)),
        )
    }

    /// Has the file key unwrapped by a token of this user, and the FEKs with it.
    fn open(
        &self,
        daemon: &Daemon,
        used: &mut UsedKey,
        request: &Arc<Request>,
    ) -> Result<KeyReply, Failure> {
        let context = file_key_context(self.volume.id(), self.sealed.file);
        let payload = match self.by_seed(used)? {
            Some(payload) => payload,
            None => {
                let candidates = self.candidates(daemon)?;
                let opened = daemon.tokens.open_any(&candidates, &context, request);
                let (number, payload) = opened.map_err(|error| {
                    if let Some(first) = candidates.first() {
                        *used = used_key(first);
                    }
                    match error {
                        OpenError::Failed(failure) => failure,
                        OpenError::NoCandidate => self.nobody_opens(),
                    }
                })?;
                if let Some(candidate) = candidates.get(number) {
                    *used = used_key(candidate);
                }
                payload
            }
        };
        let mut bytes = Zeroizing::new([0; 32]);
        if payload.len() != bytes.len() {
            return Err(Failure::Integrity(
                "a wrapped file key has the wrong size".into(),
            ));
        }
        bytes.copy_from_slice(&payload);
        let file_key = FileKey::new(&mut bytes);
        let feks = self.sealed.open(&file_key);
        let feks = feks.map_err(|error| of_head(error, Epoch::FIRST, self.sealed.epoch))?;
        // Locked while the token was at it: nothing goes out any more.
        self.volume.with_keys(|_| ())?;
        Ok(reply_of(&feks, self.sealed.epoch))
    }

    /// By the passphrase or recovery key that unlocked the volume, if the file is wrapped to it.
    fn by_seed(&self, used: &mut UsedKey) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        self.volume.with_keys(|keys| {
            let Some(seed) = &keys.seed else {
                return Ok(None);
            };
            let key_id = seed.public_key().key_id();
            let Some(packet) = self.packet_for(key_id) else {
                return Ok(None);
            };
            used.key_id = Some(key_id.to_string());
            used.module = Some("passphrase".into());
            let context = file_key_context(self.volume.id(), self.sealed.file);
            let wrapped = Wrapped::parse(packet.algorithm, &packet.body, seed.public_key());
            let payload = wrapped.and_then(|wrapped| seed.unwrap(&wrapped, &context));
            payload
                .map(Some)
                .map_err(|error| failure::of_unwrap("passphrase", error))
        })?
    }

    /// Keys of this user that the file key is wrapped to, whose auth toks are here.
    fn candidates(&self, daemon: &Daemon) -> Result<Vec<Candidate>, Failure> {
        // Taken apart only where it matters: checking a point costs as much as the token's own step.
        let recipients: Vec<_> = self.volume.with_keys(|keys| {
            let recipients = keys.manifest.recipients().iter().map(|by| &by.recipient);
            let named = recipients.map(|recipient| (KeyId(recipient.key_id().0), recipient));
            let wrapped_to = named.filter(|(key_id, _)| self.packet_for(*key_id).is_some());
            wrapped_to
                .map(|(key_id, recipient)| (key_id, recipient.clone()))
                .collect()
        })?;
        let mut candidates = Vec::new();
        for (key_id, recipient) in recipients {
            candidates.extend(self.candidate(daemon, key_id, || public_key(&recipient))?);
        }
        if candidates.is_empty() {
            // Written when other keys opened the volume, perhaps.
            for key in daemon.own_keys.enrolled() {
                let public_key = || Ok(key.public_key.clone());
                candidates.extend(self.candidate(daemon, key.key_id(), public_key)?);
            }
        }
        Ok(candidates)
    }

    fn candidate(
        &self,
        daemon: &Daemon,
        key_id: KeyId,
        public_key: impl FnOnce() -> Result<PublicKey, Failure>,
    ) -> Result<Option<Candidate>, Failure> {
        let Some(packet) = self.packet_for(key_id) else {
            return Ok(None);
        };
        let Some(own) = daemon.own_keys.usable(key_id)? else {
            return Ok(None);
        };
        let public_key = public_key()?;
        let wrapped = Wrapped::parse(packet.algorithm, &packet.body, &public_key)
            .map_err(|error| failure::of_unwrap(&own.module, error))?;
        Ok(Some(Candidate {
            own,
            public_key,
            wrapped,
        }))
    }

    fn packet_for(&self, key_id: KeyId) -> Option<&Packet> {
        let mut packets = self.sealed.packets.iter();
        packets.find(|packet| packet.key_sig == key_id.key_sig())
    }

    fn nobody_opens(&self) -> Failure {
        let count = self.sealed.packets.len();
        Failure::NotARecipient(format!(
            "the file is wrapped to {count} keys, and the auth tok of none of them is here"
        ))
    }
}

pub(super) fn used_key(candidate: &Candidate) -> UsedKey {
    UsedKey {
        key_id: Some(candidate.own.key_id.to_string()),
        module: Some(candidate.own.module.clone()),
    }
}

fn reply_of(feks: &Feks, epoch: Epoch) -> KeyReply {
    let secret = |fek: &Fek| Secret::new(fek.expose().to_vec());
    KeyReply::Feks {
        feks: feks.iter().map(secret).collect(),
        newest: feks.newest(),
        epoch,
    }
}

/// Why a header does not open, in a volume whose epochs are accepted from `minimum` to `current`.
fn of_head(error: HeadError, minimum: Epoch, current: Epoch) -> Failure {
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
