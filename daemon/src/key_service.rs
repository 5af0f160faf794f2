//! Answers filesystems: names keys, FEKs of existing files, material for new ones.
//!
//! Unwraps, which are most of what is asked, are answered on callout's thread as far as they wait for nothing:
//! from the key record, or by a token's module that answers later ([`crate::begun`]). All else is handed on:
//! what needs no token to a few threads, what may wait for a token or a person to others, so that
//! somebody's missing card holds up nobody else.

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
use crate::residue::wipe_stack;
use crate::tokens::Request;
use crate::volumes::Occupied;
use crate::workers::{Full, Workers};

mod ecryptfs;
mod file_scope;
mod fresh;
mod stream;
mod token_job;
mod unwrap;

use token_job::{Asked, TokenJob, Work};
use unwrap::{Opened, Unwrap};

/// Threads for what needs no token, at least.
const TWO: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");

/// Requests that wait for tokens or people at a time, besides those that were begun without waiting.
const TOKEN_THREADS: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

/// More than a mount's table of contexts holds.
const QUEUE: usize = 4096;

/// The service, as callout knows it.
pub struct KeyService {
    daemon: Arc<Daemon>,
    quick: Workers<(Call, KeyRequest)>,
    tokens: Arc<Workers<TokenJob>>,
}

impl KeyService {
    /// Answers from what `daemon` has.
    pub fn new(daemon: &Arc<Daemon>) -> Self {
        let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let of_tokens = daemon.clone();
        let tokens = Workers::new("token", TOKEN_THREADS, QUEUE, move |job: TokenJob| {
            job.run(&of_tokens);
        });
        let tokens = Arc::new(tokens);
        let (of_quick, for_quick) = (daemon.clone(), tokens.clone());
        let quick = Workers::new("keys", cores.max(TWO), QUEUE, move |(call, request)| {
            answer(&of_quick, &for_quick, call, request);
        });
        Self {
            daemon: daemon.clone(),
            quick,
            tokens,
        }
    }

    /// Answers, or sees to it that somebody does, as far as nothing has to be waited for; else gives back
    /// what was asked.
    fn at_once(&self, call: Call) -> Option<(Call, KeyRequest)> {
        let request = match decode(&call) {
            Ok(request) => request,
            Err(failure) => {
                reply(call, Err(failure));
                return None;
            }
        };
        let KeyRequest::UnwrapFek {
            volume,
            header,
            lower_path,
            pid,
        } = &request
        else {
            return Some((call, request));
        };
        let unwrap = Unwrap::new(&self.daemon, *volume, lower_path, *pid);
        match unwrap.open_header_at_once(&self.daemon, header) {
            Ok(opened) => go_on(&self.daemon, &self.tokens, call, opened),
            Err(Occupied) => return Some((call, request)),
        }
        wipe_stack();
        None
    }
}

impl Service for KeyService {
    fn call(&self, call: Call) {
        if let Some(later) = self.at_once(call)
            && let Err(Full((call, _))) = self.quick.submit(later)
        {
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

fn decode(call: &Call) -> Result<KeyRequest, Failure> {
    let service = &call.peer.service;
    if service != SERVICE {
        let text = format!("a mount that asks for {service}; this clavigerd answers {SERVICE}");
        return Err(Failure::Unsupported(text));
    }
    postcard::from_bytes(&call.body)
        .map_err(|_| Failure::Usage("a request that does not decode".into()))
}

fn answer(daemon: &Arc<Daemon>, tokens: &Arc<Workers<TokenJob>>, call: Call, request: KeyRequest) {
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
            let opened = unwrap.open_header(daemon, &header);
            return go_on(daemon, tokens, call, opened);
        }
    };
    reply(call, result);
}

fn go_on(daemon: &Arc<Daemon>, tokens: &Arc<Workers<TokenJob>>, call: Call, opened: Opened) {
    match opened {
        Opened::Answer(result) => reply(call, result),
        Opened::NeedsToken(job) => job.begin(daemon, tokens, call),
    }
}

fn submit_stream(tokens: &Workers<TokenJob>, call: Call, (event, pid): (Event, u32), work: Work) {
    let errand = Errand {
        volume: None,
        lower_path: None,
        program: Program::of_pid(pid),
    };
    let asked = Asked::new((event, errand), Instant::now(), call);
    let job = TokenJob::new(asked, work);
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
