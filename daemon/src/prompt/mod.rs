//! Asking people: which terminal or display a question goes to, and who is there to answer.
//!
//! A question goes to the CLI whose command needs the answer, or to pinentry on the display that it names if
//! it has no terminal; for what a filesystem asks, to a CLI that is attached; else to pinentry, on the terminal
//! or display that the last CLI call named; else to nobody, and the request fails at once saying what to type. A prompt never appears anywhere a person
//! did not name.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use claviger_protocol::Failure;
use claviger_protocol::control::{Answers, PromptKind, PromptPlace};
use zeroize::Zeroizing;

use crate::wait::Wait;

pub(crate) mod assuan;
pub mod pinentry;
pub mod terminal;

use pinentry::Pinentry;
pub use terminal::Terminal;

/// A question to a person.
#[derive(Clone, Debug)]
pub struct Question {
    /// What kind of answer is wanted.
    pub kind: PromptKind,
    /// What is asked for, as an error names it: `PIN of TOKEN`.
    pub subject: String,
    /// Everything that the person should know before answering.
    pub text: String,
}

/// Whom to ask, decided once for a request.
#[derive(Clone)]
pub enum Asker {
    /// The CLI whose command it is.
    Terminal(Arc<Terminal>),
    /// A CLI that attached, for what a filesystem asks.
    Attached(Arc<Terminal>),
    /// pinentry, where a CLI call said.
    Pinentry(Arc<Pinentry>),
    /// There is nobody.
    Nobody,
}

impl Asker {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`Failure::NobodyToAsk`], [`Failure::Declined`], [`Failure::TimedOut`], [`Failure::Cancelled`].
    pub fn ask(&self, question: &Question, wait: &Wait) -> Result<Zeroizing<Vec<u8>>, Failure> {
        match self {
            Self::Terminal(terminal) => terminal.ask(question, wait),
            Self::Attached(terminal) => match terminal.ask(question, wait) {
                // It went away; who wants the file did not.
                Err(Failure::Cancelled) if !wait.is_cancelled() => Err(nobody(question)),
                answer => answer,
            },
            Self::Pinentry(pinentry) => pinentry.ask(question, wait),
            Self::Nobody => Err(nobody(question)),
        }
    }

    /// Tells, without an answer; where there is only pinentry, on its terminal, if it has one.
    pub fn tell(&self, text: &str) {
        match self {
            Self::Terminal(terminal) | Self::Attached(terminal) => terminal.tell(text),
            Self::Pinentry(pinentry) => pinentry.tell(text),
            Self::Nobody => {}
        }
    }

    /// Where the answers of a CLI come from, if one is asked.
    pub fn cli_answers(&self) -> Option<Answers> {
        match self {
            Self::Terminal(terminal) | Self::Attached(terminal) => Some(terminal.answers()),
            Self::Pinentry(_) | Self::Nobody => None,
        }
    }
}

/// Where people can be found.
pub struct Prompts {
    program: PathBuf,
    timeout: Duration,
    attached: Mutex<Vec<Weak<Terminal>>>,
    pinentry: Mutex<Option<Arc<Pinentry>>>,
}

impl Prompts {
    /// Nobody is known yet; `program` is pinentry, and an answer may take `timeout`.
    pub fn new(program: PathBuf, timeout: Duration) -> Self {
        Self {
            program,
            timeout,
            attached: Mutex::default(),
            pinentry: Mutex::default(),
        }
    }

    /// How long a person may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Remembers where a CLI call said that prompts may appear; a call that names no place changes
    /// nothing.
    pub fn remember(&self, place: PromptPlace) {
        if place.tty.is_none() && place.display.is_none() && place.wayland_display.is_none() {
            return;
        }
        let mut pinentry = lock(&self.pinentry);
        // The same place stays one: two dialogues on one terminal would be in each other's way.
        if pinentry
            .as_ref()
            .is_none_or(|known| *known.place() != place)
        {
            *pinentry = Some(Arc::new(Pinentry::new(self.program.clone(), place)));
        }
    }

    /// Lets questions that no command waits for go to `terminal`, while it lives; unless pinentry answers for
    /// it.
    pub fn attach(&self, terminal: &Arc<Terminal>) {
        if terminal.answers() == Answers::Pinentry {
            return;
        }
        let mut attached = lock(&self.attached);
        attached.retain(|terminal| terminal.strong_count() > 0);
        attached.push(Arc::downgrade(terminal));
    }

    /// Whom to ask when no command waits: the CLI that attached last, else pinentry, else nobody.
    pub fn asker(&self) -> Asker {
        let attached = lock(&self.attached).iter().rev().find_map(Weak::upgrade);
        match attached {
            Some(terminal) => Asker::Attached(terminal),
            None => self.pinentry(),
        }
    }

    /// pinentry, where the last CLI call said that prompts may appear; else nobody.
    pub fn pinentry(&self) -> Asker {
        match &*lock(&self.pinentry) {
            Some(pinentry) => Asker::Pinentry(pinentry.clone()),
            None => Asker::Nobody,
        }
    }
}

fn nobody(question: &Question) -> Failure {
    Failure::NobodyToAsk {
        what: question.subject.clone(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
