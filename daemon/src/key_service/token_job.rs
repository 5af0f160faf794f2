//! A request that may wait for a token or a person, and whoever waits for its answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use claviger_callout::{Call, Pending};
use claviger_pki::cancel;
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

/// Work for a token, and who waits for it.
pub(super) struct TokenJob {
    event: Event,
    errand: Errand,
    begun: Instant,
    work: Work,
    /// Taken by the answer; until then it is told what it waits for.
    call: Arc<Mutex<Option<Call>>>,
}

impl TokenJob {
    /// `work`, asked for by `call` at `begun`, to be logged as `event`.
    pub(super) fn new(
        (event, errand): (Event, Errand),
        begun: Instant,
        call: Call,
        work: Work,
    ) -> Self {
        Self {
            event,
            errand,
            begun,
            work,
            call: Arc::new(Mutex::new(Some(call))),
        }
    }

    pub(super) fn run(self, daemon: &Daemon) {
        let (canceller, cancel) = cancel::pair();
        if let Some(call) = lock(&self.call).as_ref() {
            call.on_cancel(move || canceller.cancel());
        }
        let longest = daemon.config.prompt_timeout + daemon.config.token_timeout;
        let told = self.call.clone();
        let request = Arc::new(Request {
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
        });
        let mut used = UsedKey::default();
        let result = (self.work)(daemon, &mut used, &request);
        let took = self.begun.elapsed();
        daemon
            .audit
            .record(self.event, &self.errand, &used, &result, took);
        answer(&self.call, result);
    }

    pub(super) fn refuse(self, failure: Failure) {
        answer(&self.call, Err(failure));
    }
}

fn answer(call: &Mutex<Option<Call>>, result: Result<KeyReply, Failure>) {
    let call = lock(call).take();
    if let Some(call) = call {
        reply(call, result);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
