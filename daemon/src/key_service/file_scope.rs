//! A file in file scope: a token has to unwrap its file key before its FEKs are to be had.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use claviger_callout::Call;
use claviger_pki::cancel;
use claviger_pki::host::Calling;
use claviger_pki::key::{KeyId, PublicKey};
use claviger_pki::wrap::{Context, Identity, Wrapped};
use claviger_protocol::Failure;
use claviger_protocol::keys::KeyReply;
use claviger_vault::ids::Epoch;
use claviger_vault::manifest::Recipient;
use claviger_vault::native::Packet;
use claviger_vault::native::head::SealedByFileKey;
use claviger_vault::secret::FileKey;
use zeroize::Zeroizing;

use super::busy;
use super::fresh::file_key_context;
use super::token_job::{Asked, TokenJob};
use crate::audit::{Event, UsedKey};
use crate::daemon::Daemon;
use crate::errand::Errand;
use crate::failure;
use crate::opener::Candidate;
use crate::residue::wipe_stack;
use crate::tokens::{Answered, Request};
use crate::volumes::Volume;
use crate::volumes::recipient::public_key;
use crate::workers::{Full, Workers};

use super::unwrap::{of_head, reply_of};

/// A file in file scope.
pub(super) struct NeedsToken {
    pub(super) volume: Arc<Volume>,
    pub(super) sealed: Box<SealedByFileKey>,
    pub(super) openers: Openers,
    pub(super) errand: Errand,
    pub(super) begun: Instant,
}

/// Who of those who open the volume may open the file.
pub(super) enum Openers {
    /// The passphrase or recovery key that unlocked the volume.
    Seed,
    /// Recipients that the file key is wrapped to.
    Recipients(Vec<(KeyId, Recipient)>),
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

pub(super) fn packet_for(sealed: &SealedByFileKey, key_id: KeyId) -> Option<&Packet> {
    let mut packets = sealed.packets.iter();
    packets.find(|packet| packet.key_sig == key_id.key_sig())
}

pub(super) fn used_key(candidate: &Candidate) -> UsedKey {
    UsedKey {
        key_id: Some(candidate.own.key_id.to_string()),
        module: Some(candidate.own.module.clone()),
    }
}
