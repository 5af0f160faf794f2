//! Opening what was wrapped to several keys, by whichever of them is here.

use std::sync::Arc;

use claviger_pki::key::PublicKey;
use claviger_pki::module::Decapsulate;
use claviger_pki::wrap::{self, Context, UnwrapError, Wrapped};
use claviger_protocol::Failure;
use zeroize::Zeroizing;

use crate::failure;
use crate::own_keys::OwnKey;
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

/// Has `open` try keys: those that need nobody, then those that need a PIN.
///
/// Returns which one it was, and what it gave. A token that is not here is passed over; a PIN that is
/// refused or declined ends it.
///
/// # Errors
/// [`OpenError`].
pub fn first_that_opens<C, T>(
    candidates: &[C],
    request: &Request,
    mut open: impl FnMut(&C, Login) -> Result<T, TokenError>,
) -> Result<(usize, T), OpenError> {
    let mut need_pin = Vec::new();
    let mut worst = None;
    for (number, candidate) in candidates.iter().enumerate() {
        match open(candidate, Login::Never) {
            Ok(opened) => return Ok((number, opened)),
            Err(TokenError::PinNeeded) => need_pin.push((number, candidate)),
            Err(TokenError::Failed(failure)) => keep_telling(&mut worst, failure),
        }
        request.wait.check("a token")?;
    }
    for (number, candidate) in need_pin {
        match open(candidate, Login::IfNeeded) {
            Ok(opened) => return Ok((number, opened)),
            // Gone since the first round: the next one may be here.
            Err(TokenError::Failed(failure @ Failure::TokenAbsent { .. })) => {
                keep_telling(&mut worst, failure);
            }
            Err(error) => return Err(OpenError::Failed(error.into())),
        }
    }
    Err(worst.map_or(OpenError::NoCandidate, OpenError::Failed))
}

/// Keeps what tells more: that a token is not here is the least.
fn keep_telling(worst: &mut Option<Failure>, failure: Failure) {
    if matches!(worst, None | Some(Failure::TokenAbsent { .. })) {
        *worst = Some(failure);
    }
}
