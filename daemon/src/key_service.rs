//! Answers filesystems: names keys, FEKs of existing files, material for new ones.
//!
//! callout's thread only hands requests on. What needs no token is answered by a few threads, what may
//! wait for a token or a person by others, so that somebody's missing card holds up nobody else.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use claviger_callout::{Call, PeerInfo, Service};
use claviger_protocol::keys::{KeyReply, KeyRequest, SERVICE};
use claviger_protocol::{Failure, Secret, encode};
use claviger_vault::ids::VolumeId;
use claviger_vault::secret::NamesKey;

use crate::audit::{Event, UsedKey};
use crate::daemon::Daemon;
use crate::errand::{Errand, Program};
use crate::tokens::Request;
use crate::workers::{Full, Workers};

mod ecryptfs;
mod fresh;
mod stream;
mod token_job;
mod unwrap;

use token_job::{TokenJob, Work};
use unwrap::Unwrap;

/// Threads for what needs no token, at least.
const TWO: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");

/// Requests that wait for tokens or people at a time; SoftHSM-like stores stand many.
const TOKEN_THREADS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// More than a mount's table of contexts holds.
const QUEUE: usize = 4096;

/// The service, as callout knows it.
pub struct KeyService {
    daemon: Arc<Daemon>,
    quick: Workers<Call>,
}

impl KeyService {
    /// Answers from what `daemon` has.
    pub fn new(daemon: &Arc<Daemon>) -> Self {
        let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let of_tokens = daemon.clone();
        let tokens = Workers::new("token", TOKEN_THREADS, QUEUE, move |job: TokenJob| {
            job.run(&of_tokens);
        });
        let of_quick = daemon.clone();
        let quick = Workers::new("keys", cores.max(TWO), QUEUE, move |call| {
            answer(&of_quick, &tokens, call);
        });
        Self {
            daemon: daemon.clone(),
            quick,
        }
    }
}

impl Service for KeyService {
    fn call(&self, call: Call) {
        if let Err(Full(call)) = self.quick.submit(call) {
            reply(call, Err(busy()));
        }
    }

    fn connected(&self, peer: &PeerInfo) {
        tracing::info!(instance = %peer.instance, carrier = %peer.carrier, about = ?peer.about, "requester registered");
    }

    fn gone(&self, peer: &PeerInfo) {
        tracing::info!(instance = %peer.instance, "requester gone");
        self.daemon
            .volumes
            .acknowledgements
            .gone(&peer.instance.to_string());
    }
}

fn answer(daemon: &Arc<Daemon>, tokens: &Workers<TokenJob>, call: Call) {
    let service = &call.peer.service;
    if service != SERVICE {
        let text = format!("a mount that asks for {service}; this clavigerd answers {SERVICE}");
        return reply(call, Err(Failure::Unsupported(text)));
    }
    let Ok(request) = postcard::from_bytes::<KeyRequest>(&call.body) else {
        reply(
            call,
            Err(Failure::Usage("a request that does not decode".into())),
        );
        return;
    };
    let result = match request {
        KeyRequest::Names { volume, .. } => names(daemon, volume),
        KeyRequest::Fresh { volume, count } => fresh::fresh(daemon, volume, count),
        KeyRequest::Acknowledge { event, lost } => {
            let lost = lost
                .iter()
                .map(|path| String::from_utf8_lossy(path).into_owned());
            let instance = call.peer.instance.to_string();
            daemon
                .volumes
                .acknowledgements
                .done(event, &instance, lost.collect());
            Ok(KeyReply::Done)
        }
        KeyRequest::Ecryptfs { folder, request } => {
            match ecryptfs::answer(daemon, folder, request) {
                ecryptfs::Answered::Now(result) => result,
                ecryptfs::Answered::ByToken(job) => {
                    if let Err(Full(job)) = tokens.submit(job.for_call(call)) {
                        job.refuse(busy());
                    }
                    return;
                }
            }
        }
        KeyRequest::SealStream { recipients, pid } => {
            let work = move |daemon: &Daemon, _: &mut UsedKey, request: &Arc<Request>| {
                stream::seal(daemon, &recipients, request)
            };
            return submit_stream(tokens, call, (Event::Seal, pid), Box::new(work));
        }
        KeyRequest::UnsealStream { header, pid } => {
            let work = move |daemon: &Daemon, used: &mut UsedKey, request: &Arc<Request>| {
                stream::unseal(daemon, &header, used, request)
            };
            return submit_stream(tokens, call, (Event::Unseal, pid), Box::new(work));
        }
        KeyRequest::UnwrapFek {
            volume,
            header,
            lower_path,
            pid,
        } => {
            let unwrap = Unwrap::new(daemon, volume, &lower_path, pid);
            match unwrap.open_header(daemon, &header) {
                unwrap::Opened::Answer(result) => result,
                unwrap::Opened::NeedsToken(job) => {
                    if let Err(Full(job)) = tokens.submit(job.for_call(call)) {
                        job.refuse(busy());
                    }
                    return;
                }
            }
        }
    };
    reply(call, result);
}

fn submit_stream(tokens: &Workers<TokenJob>, call: Call, (event, pid): (Event, u32), work: Work) {
    let errand = Errand {
        volume: None,
        lower_path: None,
        program: Program::of_pid(pid),
    };
    let job = TokenJob::new((event, errand), Instant::now(), call, work);
    if let Err(Full(job)) = tokens.submit(job) {
        job.refuse(busy());
    }
}

fn names(daemon: &Daemon, volume: VolumeId) -> Result<KeyReply, Failure> {
    daemon.volumes.get(volume)?.with_keys(|keys| {
        let minimum = keys.manifest.minimum();
        let names_keys = keys.epochs.names_keys(volume, minimum);
        let secret = |key: &NamesKey| Secret::new(key.expose().to_vec());
        KeyReply::Names {
            current: keys.epochs.current_epoch(),
            minimum,
            scope: keys.manifest.scope(),
            keys: names_keys
                .map(|(epoch, key)| (epoch, secret(&key)))
                .collect(),
        }
    })
}

fn reply(call: Call, result: Result<KeyReply, Failure>) {
    let message = result.unwrap_or_else(KeyReply::Failed);
    match encode(&message) {
        Ok(body) => call.reply(body),
        // The requester is told that there is no answer.
        Err(error) => tracing::error!(%error, "reply does not encode"),
    }
}

fn busy() -> Failure {
    Failure::Busy("too many requests at once".into())
}
