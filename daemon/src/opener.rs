//! Opening what was wrapped to several keys, by whichever of them is here.

use std::sync::Arc;

use claviger_pki::key::PublicKey;
use claviger_pki::module::Decapsulate;
use claviger_pki::wrap::{self, Context, UnwrapError, Wrapped};
use claviger_protocol::Failure;
use claviger_protocol::control::Answers;
use zeroize::Zeroizing;

use crate::failure;
use crate::own_keys::OwnKey;
use crate::prompt::Asker;
use crate::tokens::{Answered, Login, Request, TokenError, Tokens};

/// One of this user's keys, and what was wrapped to it.
#[derive(Debug)]
pub struct Candidate {
    /// The key.
    pub own: OwnKey,
    /// Its public half, as whoever wrapped says.
    pub public_key: PublicKey,
    /// What it opens.
    pub wrapped: Wrapped,
}

/// Nothing could be opened.
#[derive(Debug)]
pub enum OpenError {
    /// None of what was wrapped is for a key that is here.
    NoCandidate,
    /// What tells most of why none of them could.
    Failed(Failure),
    /// Why nothing else shall be tried, nor asked for.
    Ended(Failure),
}

impl OpenError {
    /// What it is to whoever asked; `nobody` says so of a key that is not here.
    pub fn or(self, nobody: impl FnOnce() -> Failure) -> Failure {
        match self {
            Self::NoCandidate => nobody(),
            Self::Failed(failure) | Self::Ended(failure) => failure,
        }
    }
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Tokens {
    /// Opens by the first candidate that can, as [`first_that_opens`]; which it was, and the payload.
    /// `answered` is what the first candidate's module has said already, if it was asked.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_any(
        &self,
        candidates: &[Candidate],
        context: &Context,
        request: &Arc<Request>,
        mut answered: Option<Answered>,
    ) -> Result<(usize, Zeroizing<Vec<u8>>), OpenError> {
        first_that_opens(candidates, request, |candidate, login| {
            self.open(candidate, context, login, request, answered.take())
        })
    }

    fn open(
        &self,
        candidate: &Candidate,
        context: &Context,
        login: Login,
        request: &Arc<Request>,
        answered: Option<Answered>,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let module = &candidate.own.module;
        let failed = |error| TokenError::Failed(failure::of_unwrap(module, error));
        let step = candidate.step();
        let secret = self.decapsulate(module, &step, login, request, answered)?;
        candidate.open(context, &secret).map_err(failed)
    }
}

impl Candidate {
    /// What its module is to do. The host checks it, as it does everything that goes to a module: not
    /// here too, since checking a point costs a good part of what the token's step does.
    pub fn step(&self) -> Decapsulate {
        Decapsulate {
            locator: self.own.locator.clone(),
            public_key: self.public_key.clone(),
            kem: self.wrapped.kem,
            encapsulation: self.wrapped.encapsulation.clone(),
        }
    }

    /// The payload, by what the module gave.
    ///
    /// # Errors
    /// [`UnwrapError`].
    pub fn open(
        &self,
        context: &Context,
        secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        wrap::open(&self.wrapped, &self.public_key, context, secret)
    }
}

/// Has `open` try keys: those that need nobody, with their PIN in a file if need be; then those that need
/// a person; and those whose final try it would be.
///
/// Returns which one it was, and what it gave. What keeps one key from opening it keeps no other; but what a
/// person said and a PIN that was wrong end it.
///
/// # Errors
/// [`OpenError`].
pub fn first_that_opens<C, T>(
    candidates: &[C],
    request: &Request,
    mut open: impl FnMut(&C, Login) -> Result<T, TokenError>,
) -> Result<(usize, T), OpenError> {
    let mut left: Vec<(usize, &C)> = candidates.iter().enumerate().collect();
    let mut worst = None;
    for login in [
        Login::Never,
        Login::FromFile,
        Login::Sparing,
        Login::IfNeeded,
    ] {
        let mut need_more = Vec::new();
        for (number, candidate) in left {
            match open(candidate, login) {
                Ok(opened) => return Ok((number, opened)),
                Err(TokenError::PinNeeded) => need_more.push((number, candidate)),
                Err(TokenError::Failed(failure)) if ends_it(&failure, login, &request.asker) => {
                    return Err(OpenError::Ended(failure));
                }
                Err(TokenError::Failed(failure)) => keep_telling(&mut worst, failure),
            }
            let checked = request.wait.check("a token");
            checked.map_err(OpenError::Ended)?;
        }
        left = need_more;
    }
    Err(worst.map_or(OpenError::NoCandidate, OpenError::Failed))
}

/// Whether a failure of one key, which went as far as `login`, keeps the others from being tried.
fn ends_it(failure: &Failure, login: Login, asker: &Asker) -> bool {
    let would_be_asked_for = matches!(login, Login::Sparing | Login::IfNeeded);
    match failure {
        // Nobody was asked, and a module that hangs is one of several.
        _ if login == Login::Never => false,
        Failure::Declined
        | Failure::Cancelled
        | Failure::PinWrong { .. }
        | Failure::TimedOut { .. } => true,
        // The next line is this token's PIN, and would be a wrong one of the next token.
        Failure::PinBlocked { .. } => {
            would_be_asked_for && asker.cli_answers() == Some(Answers::Descriptor)
        }
        _ => false,
    }
}

/// Keeps what tells more, and of two that tell as much the first.
fn keep_telling(worst: &mut Option<Failure>, failure: Failure) {
    if worst
        .as_ref()
        .is_none_or(|worst| tells(&failure) > tells(worst))
    {
        *worst = Some(failure);
    }
}

/// How much a failure tells: that a token is not here is the least; what keeps one from being logged in to
/// is what somebody can do something about.
fn tells(failure: &Failure) -> u8 {
    match failure {
        Failure::TokenAbsent { .. } => 0,
        Failure::NobodyToAsk { .. } | Failure::PinBlocked { .. } | Failure::Permission(_) => 2,
        _ => 1,
    }
}
