//! Token operations that are begun and not waited for.
//!
//! Nearly all of them succeed at the first attempt, in a module that runs, with a token that is logged in:
//! no thread need wait for that. Whatever else comes of it is taken up by a thread that may wait, from
//! the answer on.

use std::sync::Arc;

use claviger_pki::host::{Calling, ModuleHost, Running};
use claviger_pki::module::Decapsulate;

use crate::modules::Said;
use crate::opener::Candidate;
use crate::pin_source::Located;
use crate::tokens::{Answered, Request, Tokens};

/// Calls that a module may have in flight for another to be begun. Its socket has room for more, so that
/// nobody who begins one waits for the module to read; and with those of the threads that wait, a card that
/// takes 0.9 s does the last of them before its deadline, past which the module would be killed.
const AT_ONCE: usize = 16;

/// A KEM step that a module can be asked for now.
pub struct Beginning<'a> {
    tokens: &'a Tokens,
    call: Decapsulate,
    host: Arc<ModuleHost>,
    running: Running,
}

impl Tokens {
    /// The step that opens `candidate`, if the module that had its key the last time runs and is not busy.
    pub fn beginning(&self, candidate: &Candidate) -> Option<Beginning<'_>> {
        let locator = Located::parse(&candidate.own.locator.0).ok()?.locator;
        let host = self.modules.last(&candidate.own.module, &locator.0)?;
        let running = host.running()?;
        (running.in_flight() < AT_ONCE).then_some(Beginning {
            tokens: self,
            call: Decapsulate {
                locator,
                ..candidate.step()
            },
            host,
            running,
        })
    }
}

impl Beginning<'_> {
    /// Has the module do it, and waits for nothing.
    ///
    /// `done` gets what it says, once, perhaps before this returns; it must not wait either. What is
    /// returned calls it back.
    pub fn begin(
        self,
        request: &Arc<Request>,
        done: impl FnOnce(Answered) + Send + 'static,
    ) -> Option<Calling> {
        let host = self.host;
        let wait = request.wait.shortened(self.tokens.operation_time);
        let in_progress = self.tokens.watch_for_touch(&host, request);
        self.running
            .decapsulate(self.call, wait.deadline(), move |result| {
                drop(in_progress);
                done(Said { host, result });
            })
    }
}
