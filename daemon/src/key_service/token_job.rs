//! A request that may wait for a token or a person, and whoever waits for its answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use claviger_callout::{Call, Pending};
use claviger_pki::cancel::{self, Cancel};
use claviger_protocol::Failure;
use claviger_protocol::keys::KeyReply;

use super::reply;
use crate::audit::{Event, UsedKey};
use crate::daemon::Daemon;
use crate::errand::Errand;
use crate::tokens::{Request, WaitsFor};
use crate::wait::Wait;

/// What there is to do; it notes the key that it used, or tried last.
pub(super) type Work =
    Box<dyn FnOnce(&Daemon, &mut UsedKey, &Arc<Request>) -> Result<KeyReply, Failure> + Send>;

/// Who waits for an answer, and what the audit log is to tell of it.
pub(super) struct Asked {
    event: Event,
    errand: Errand,
    begun: Instant,
    /// Taken by the answer; until then it is told what it waits for.
    call: Arc<Mutex<Option<Call>>>,
}

/// Work for a token, and who waits for it.
pub(super) struct TokenJob {
    asked: Asked,
    work: Work,
}

impl Asked {
    /// By `call`, at `begun`, to be logged as `event`.
    pub(super) fn new((event, errand): (Event, Errand), begun: Instant, call: Call) -> Self {
        Self {
            event,
            errand,
            begun,
            call: Arc::new(Mutex::new(Some(call))),
        }
    }

    /// For whom a token is used, until `cancel`.
    pub(super) fn request(&self, daemon: &Daemon, cancel: Cancel) -> Arc<Request> {
        let longest = daemon.config.prompt_timeout + daemon.config.token_timeout;
        let told = self.call.clone();
        Arc::new(Request {
            errand: self.errand.clone(),
            asker: daemon.prompts.asker(),
            wait: Wait::new(Instant::now() + longest, cancel),
            waits_for: Box::new(move |what| {
                if let Some(call) = lock(&told).as_ref() {
                    call.pending(match what {
                        WaitsFor::Pin => Pending::Pin,
                        WaitsFor::Touch => Pending::Touch,
                    });
                }
            }),
        })
    }

    /// Runs `hook` when nobody waits any more; never, once it has been answered. It must not settle this.
    pub(super) fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        if let Some(call) = lock(&self.call).as_ref() {
            call.on_cancel(hook);
        }
    }

    /// Logs how it ended, and answers.
    pub(super) fn settle(self, daemon: &Daemon, used: &UsedKey, result: Result<KeyReply, Failure>) {
        let took = self.begun.elapsed();
        daemon
            .audit
            .record(self.event, &self.errand, used, &result, took);
        self.answer(result);
    }

    fn answer(self, result: Result<KeyReply, Failure>) {
        let call = lock(&self.call).take();
        if let Some(call) = call {
            reply(call, result);
        }
    }
}

impl TokenJob {
    /// `work` for whoever has `asked`.
    pub(super) fn new(asked: Asked, work: Work) -> Self {
        Self { asked, work }
    }

    pub(super) fn run(self, daemon: &Daemon) {
        let (canceller, cancel) = cancel::pair();
        self.asked.on_cancel(move || canceller.cancel());
        let request = self.asked.request(daemon, cancel);
        let mut used = UsedKey::default();
        let result = (self.work)(daemon, &mut used, &request);
        self.asked.settle(daemon, &used, result);
    }

    pub(super) fn refuse(self, failure: Failure) {
        self.asked.answer(Err(failure));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
