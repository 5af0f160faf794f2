//! The CLI as a requester: asks its daemon for keys over callout, and answers its prompts meanwhile.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use claviger_callout::{CallError, Requester, RequesterConfig};
use claviger_protocol::control::{Command, Conversation, ConversationError, ToDaemon, VERSION};
use claviger_protocol::failure::ExitCode;
use claviger_protocol::keys::{KeyReply, KeyRequest, SERVICE};
use claviger_protocol::paths;
use claviger_protocol::{Failure, encode};
use nix::unistd::Uid;

use crate::daemon::Said;
use crate::print::errln;
use crate::prompter::{Prompter, prompt_place};
use crate::terminal::HeldSignals;
use crate::{Failed, daemon};

/// How long the daemon may take to greet a new requester.
const GREETING: Duration = Duration::from_secs(5);

/// A connection for keys and one for prompts.
pub(crate) struct Asking {
    requester: Requester,
    prompts: UnixStream,
    answering: Option<JoinHandle<()>>,
    // Last: until then there may be a question on the terminal.
    _held: HeldSignals,
}

impl Asking {
    /// Publishes this process as a requester and waits for the daemon, which is started if need be.
    ///
    /// # Errors
    /// [`Failed`] if it does not come.
    pub(crate) fn start(
        about: BTreeMap<String, String>,
        mut prompter: Prompter,
    ) -> Result<Self, Failed> {
        let mut conversation = daemon::connect(daemon::OnDemand::Start)?;
        let prompt_place = prompt_place();
        let command = ToDaemon::Command {
            answers: prompter.answers(&prompt_place),
            version: VERSION,
            prompt_place,
            command: Command::Attach,
        };
        conversation.send(&command).map_err(daemon::broken)?;
        match daemon::listen(&mut conversation, &mut prompter).map_err(daemon::broken)? {
            Said::Attached => {}
            Said::Done(Err(failure)) => return Err(failure.into()),
            Said::Done(Ok(_)) => return Err(daemon::broken(ConversationError::Malformed)),
        }
        let cannot = |what: String| Failed::new(ExitCode::Internal, what);
        let prompts = conversation
            .stream()
            .try_clone()
            .map_err(|error| cannot(error.to_string()))?;
        // The thread that answers prompts takes them, since it may have a terminal to put in order first:
        // all others hold them, those that the requester starts included.
        let held = HeldSignals::hold().map_err(|error| cannot(error.to_string()))?;
        let mut config = RequesterConfig::new(paths::own_requesters(), SERVICE);
        config.about = about;
        let requester =
            Requester::start(config, Arc::new(())).map_err(|error| cannot(error.to_string()))?;
        let uid = Uid::effective().as_raw();
        if !requester.wait_registered(uid, GREETING) {
            return Err(Failure::NoDaemon { uid }.into());
        }
        let signals = held.before();
        let answering = thread::spawn(move || {
            if signals.thread_set_mask().is_ok() {
                answer(conversation, prompter);
            }
        });
        Ok(Self {
            requester,
            prompts,
            answering: Some(answering),
            _held: held,
        })
    }

    /// Asks, and waits for the answer; what was sent and received is wiped.
    ///
    /// # Errors
    /// The daemon's failure, or that it did not answer.
    pub(crate) fn ask(&self, request: &KeyRequest, deadline: Instant) -> Result<KeyReply, Failure> {
        let uid = Uid::effective().as_raw();
        let internal = |what: postcard::Error| Failure::Internal(what.to_string());
        let body = encode(request).map_err(internal)?;
        let reply = self
            .requester
            .call(uid, body, deadline)
            .map_err(|error| match error {
                CallError::NoResponder | CallError::Lost => Failure::NoDaemon { uid },
                CallError::TableFull => Failure::Busy(error.to_string()),
                CallError::Deadline => Failure::TimedOut {
                    what: "clavigerd".into(),
                },
                CallError::Cancelled => Failure::Cancelled,
                CallError::TooLarge(_) | CallError::Unanswered | CallError::Stopped => {
                    Failure::Internal(error.to_string())
                }
            })?;
        match postcard::from_bytes(&reply).map_err(internal)? {
            KeyReply::Failed(failure) => Err(failure),
            reply => Ok(reply),
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // Ends the thread that waits for prompts; a socket that is gone already has ended it.
        let _ = self.prompts.shutdown(Shutdown::Both);
        if let Some(answering) = self.answering.take() {
            let _ = answering.join();
        }
    }
}

/// Answers prompts until the conversation ends.
fn answer(mut conversation: Conversation, mut prompter: Prompter) {
    // That it ends is not worth a word: whoever asks for keys hears of it.
    if let Ok(Said::Done(Err(failure))) = daemon::listen(&mut conversation, &mut prompter) {
        errln!("claviger: {failure}");
    }
}
