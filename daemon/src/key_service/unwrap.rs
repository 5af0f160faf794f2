//! The FEKs of one existing file: from its key record alone, or in file scope by a token.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use claviger_callout::Call;
use claviger_pki::cancel;
use claviger_pki::host::Calling;
use claviger_pki::key::{KeyId, PublicKey};
use claviger_pki::wrap::{Context, Identity, Wrapped};
use claviger_protocol::keys::KeyReply;
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::{Epoch, VolumeId};
use claviger_vault::manifest::Recipient;
use claviger_vault::native::head::{self, SealedByFileKey};
use claviger_vault::native::{Feks, HeadError, Packet};
use claviger_vault::secret::{Fek, FileKey};
use zeroize::Zeroizing;

use super::busy;
use super::fresh::file_key_context;
use super::token_job::{Asked, TokenJob};
use crate::audit::{Event, UsedKey};
use crate::daemon::Daemon;
use crate::errand::{Errand, Program, Standing, VolumeName};
use crate::failure;
use crate::opener::Candidate;
use crate::residue::wipe_stack;
use crate::tokens::{Answered, Request};
use crate::volumes::recipient::public_key;
use crate::volumes::{KeptSeed, Keys, Occupied, Volume};
use crate::workers::{Full, Workers};

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
    openers: Openers,
    errand: Errand,
    begun: Instant,
}

/// Who of those who open the volume may open the file.
enum Openers {
    /// The passphrase or recovery key that unlocked the volume.
    Seed,
    /// Recipients that the file key is wrapped to.
    Recipients(Vec<(KeyId, Recipient)>),
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

impl NeedsToken {
    /// Has the file key unwrapped and answers `call`, without waiting for anything: as a rule the module
    /// does its part and the answer follows from its answer. Whatever else it takes is left to `tokens`.
    pub(super) fn begin(
        mut self: Box<Self>,
        daemon: &Arc<Daemon>,
        tokens: &Arc<Workers<TokenJob>>,
        call: Call,
    ) {
        let asked = Asked::new((Event::Unwrap, self.errand.clone()), self.begun, call);
        let candidates = match &mut self.openers {
            Openers::Seed => Ok(Vec::new()),
            Openers::Recipients(recipients) => {
                let recipients = std::mem::take(recipients);
                self.candidates(daemon, &recipients)
            }
        };
        let candidates = match candidates {
            Ok(candidates) => candidates,
            Err(failure) => return asked.settle(daemon, &UsedKey::default(), Err(failure)),
        };
        let first = candidates.first();
        let Some(beginning) = first.and_then(|first| daemon.tokens.beginning(first)) else {
            return self.leave_to(tokens, asked, candidates, None);
        };

        let (canceller, cancel) = cancel::pair();
        let request = asked.request(daemon, cancel);
        let calling = Arc::new(OnceLock::<Calling>::new());
        let to_cancel = calling.clone();
        asked.on_cancel(move || {
            canceller.cancel();
            to_cancel.get().into_iter().for_each(Calling::cancel);
        });
        let (daemon, tokens) = (daemon.clone(), tokens.clone());
        let done = move |answered: Answered| {
            match self.opened_by(&candidates, &answered) {
                Some((first, payload)) => {
                    let result = self.feks(&payload);
                    asked.settle(&daemon, &used_key(first), result);
                }
                None => self.leave_to(&tokens, asked, candidates, Some(answered)),
            }
            wipe_stack();
        };
        if let Some(begun) = beginning.begin(&request, done) {
            // Called back before it could be told so: the hook closes `cancel` first.
            let begun = calling.get_or_init(|| begun);
            if request.wait.is_cancelled() {
                begun.cancel();
            }
        }
    }

    /// The file key, if what the first candidate's module has said opens it.
    fn opened_by<'a>(
        &self,
        candidates: &'a [Candidate],
        answered: &Answered,
    ) -> Option<(&'a Candidate, Zeroizing<Vec<u8>>)> {
        let first = candidates.first()?;
        let secret = answered.result.as_ref().ok()?;
        Some((first, first.open(&self.context(), secret).ok()?))
    }

    /// Has a thread go on that may wait; `answered` is what the module of the first candidate has said.
    fn leave_to(
        self: Box<Self>,
        tokens: &Workers<TokenJob>,
        asked: Asked,
        candidates: Vec<Candidate>,
        answered: Option<Answered>,
    ) {
        let work = move |daemon: &Daemon, used: &mut UsedKey, request: &Arc<Request>| {
            self.open(daemon, candidates, answered, used, request)
        };
        if let Err(Full(job)) = tokens.submit(TokenJob::new(asked, Box::new(work))) {
            job.refuse(busy());
        }
    }

    /// Has the file key unwrapped by whichever of `candidates` can, and the FEKs with it.
    fn open(
        &self,
        daemon: &Daemon,
        mut candidates: Vec<Candidate>,
        answered: Option<Answered>,
        used: &mut UsedKey,
        request: &Arc<Request>,
    ) -> Result<KeyReply, Failure> {
        if let Some(payload) = self.by_seed(used)? {
            return self.feks(&payload);
        }
        if candidates.is_empty() {
            // Written when other keys opened the volume, perhaps.
            for key in daemon.own_keys.enrolled() {
                let public_key = || Ok(key.public_key.clone());
                candidates.extend(self.candidate(daemon, key.key_id(), public_key)?);
            }
        }
        let context = self.context();
        let opened = daemon
            .tokens
            .open_any(&candidates, &context, request, answered);
        let (number, payload) = opened.map_err(|error| {
            if let Some(first) = candidates.first() {
                *used = used_key(first);
            }
            error.or(|| self.nobody_opens())
        })?;
        if let Some(candidate) = candidates.get(number) {
            *used = used_key(candidate);
        }
        self.feks(&payload)
    }

    /// The FEKs, by the file key.
    fn feks(&self, file_key: &[u8]) -> Result<KeyReply, Failure> {
        let mut bytes = Zeroizing::new([0; 32]);
        if file_key.len() != bytes.len() {
            return Err(Failure::Integrity(
                "a wrapped file key has the wrong size".into(),
            ));
        }
        bytes.copy_from_slice(file_key);
        let file_key = FileKey::new(&mut bytes);
        let feks = self.sealed.open(&file_key);
        let feks = feks.map_err(|error| of_head(error, Epoch::FIRST, self.sealed.epoch))?;
        // Locked while the token was at it: nothing goes out any more.
        self.volume.with_keys(|_| ())?;
        Ok(reply_of(&feks, self.sealed.epoch))
    }

    fn context(&self) -> Context {
        file_key_context(self.volume.id(), self.sealed.file)
    }

    /// By the passphrase or recovery key that unlocked the volume, if the file is wrapped to it.
    fn by_seed(&self, used: &mut UsedKey) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        self.volume.with_keys(|keys| {
            let Some(seed) = &keys.seed else {
                return Ok(None);
            };
            let key_id = seed.key_id();
            let Some(packet) = packet_for(&self.sealed, key_id) else {
                return Ok(None);
            };
            used.key_id = Some(key_id.to_string());
            used.module = Some("passphrase".into());
            let context = self.context();
            let key = seed.lend();
            let wrapped = Wrapped::parse(packet.algorithm, &packet.body, key.public_key());
            let payload = wrapped.and_then(|wrapped| key.unwrap(&wrapped, &context));
            payload
                .map(Some)
                .map_err(|error| failure::of_unwrap("passphrase", error))
        })?
    }

    /// Those of `recipients` that are keys of this user, whose auth toks are here.
    fn candidates(
        &self,
        daemon: &Daemon,
        recipients: &[(KeyId, Recipient)],
    ) -> Result<Vec<Candidate>, Failure> {
        let mut candidates = Vec::new();
        for (key_id, recipient) in recipients {
            // Taken apart only where it matters: checking a point costs a good part of the token's own step.
            candidates.extend(self.candidate(daemon, *key_id, || public_key(recipient))?);
        }
        Ok(candidates)
    }

    fn candidate(
        &self,
        daemon: &Daemon,
        key_id: KeyId,
        public_key: impl FnOnce() -> Result<PublicKey, Failure>,
    ) -> Result<Option<Candidate>, Failure> {
        let Some(packet) = packet_for(&self.sealed, key_id) else {
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

    fn nobody_opens(&self) -> Failure {
        let count = self.sealed.packets.len();
        Failure::NotARecipient(format!(
            "the file is wrapped to {count} keys, and the auth tok of none of them is here"
        ))
    }
}

fn packet_for(sealed: &SealedByFileKey, key_id: KeyId) -> Option<&Packet> {
    let mut packets = sealed.packets.iter();
    packets.find(|packet| packet.key_sig == key_id.key_sig())
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
