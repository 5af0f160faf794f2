//! The KEM step, and what to make of its failures.

use std::time::Instant;

use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::{Decapsulate, DecryptPkcs1V15, ModuleError};
use claviger_pki::p11_uri::Uri;
use cryptoki::context::Function;
use cryptoki::error::Error;
use zeroize::Zeroizing;

use super::Store;
use crate::fault::Fault;
use crate::kem::{self, Steps, Verdict};
use crate::key::{self, EachUse, HeldKey};
use crate::library::describe;
use crate::sys::{ContextLogin, Padding};
use crate::tokens::{Lease, Need};

/// Why an attempt at an operation failed.
pub(super) enum Failed {
    /// Trying again would not help.
    ForGood(ModuleError),
    /// The token or its session was lost; all of its sessions are closed.
    Lost(Error),
    /// The input or the token is bad: see [`Store::judge`].
    Unclear(Error),
}

impl From<ModuleError> for Failed {
    fn from(error: ModuleError) -> Self {
        Self::ForGood(error)
    }
}

impl Failed {
    fn lost(lease: Lease<'_>, error: Error) -> Self {
        lease.lost(&error);
        Self::Lost(error)
    }
}

/// One use of a private key.
#[derive(Clone, Copy)]
pub(super) struct Use<'a> {
    pub(super) public_key: &'a PublicKey,
    /// By which it can prove itself, if the token does not show its public half.
    pub(super) kem: Kem,
    pub(super) steps: Steps,
    pub(super) input: &'a [u8],
}

impl<'a> From<&'a Decapsulate> for Use<'a> {
    fn from(call: &'a Decapsulate) -> Self {
        Self {
            public_key: &call.public_key,
            kem: call.kem,
            steps: kem::steps(call.kem),
            input: &call.encapsulation,
        }
    }
}

impl<'a> From<&'a DecryptPkcs1V15> for Use<'a> {
    fn from(call: &'a DecryptPkcs1V15) -> Self {
        Self {
            public_key: &call.public_key,
            kem: Kem::RsaOaepSha1,
            steps: Steps::Decrypt(Padding::Pkcs1V15),
            input: &call.ciphertext,
        }
    }
}

impl Store {
    pub(super) fn attempt(
        &self,
        call: Use<'_>,
        uri: &Uri,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        if Instant::now() >= deadline {
            return Err(ModuleError::TimedOut.into());
        }
        let mut lease = self.tokens.lease(uri, Need::Login)?;
        let key = match find(&mut lease, uri, call.public_key, call.kem) {
            Ok(Some(key)) => key,
            // Some libraries find nothing in a token that was pulled: it has to answer for itself.
            Ok(None) => {
                return Err(match lease.check_token() {
                    Ok(()) => ModuleError::NoSuchKey(uri.to_string()).into(),
                    Err(error) => Failed::lost(lease, error),
                });
            }
            Err(error) => return Err(Failed::lost(lease, error)),
        };
        let held = match (key.login, call.steps) {
            (EachUse::Login, Steps::Decrypt(_)) => {
                Some(self.tokens.take_pin(&lease, uri.id.as_deref())?)
            }
            // C_DeriveKey has no place for a login of its own (PKCS #11 v2.40 section 4.9).
            (EachUse::Login, Steps::Derive { .. }) | (EachUse::NoLogin, _) => None,
        };
        let login = match &held {
            None => ContextLogin::NotNeeded,
            Some(None) => ContextLogin::PinPad,
            Some(Some(held)) => ContextLogin::Pin(&held.pin),
        };
        let (functions, session) = (&lease.library().functions, lease.session());
        kem::open(
            functions, session, key.handle, call.steps, call.input, login,
        )
        .map_err(|error| {
            tracing::debug!(error = describe(&error), "decapsulation");
            if matches!(error, Error::Pkcs11(_, Function::Login)) {
                let pin = held
                    .flatten()
                    .map_or_else(Zeroizing::default, |held| held.pin);
                let refused = self.tokens.context_login_refused(&lease, &pin, &error);
                lease.spoil();
                return refused.into();
            }
            match Fault::of(&error) {
                Fault::Ciphertext => {
                    lease.spoil();
                    ModuleError::NotDecryptable.into()
                }
                Fault::Mechanism => {
                    lease.spoil();
                    ModuleError::Unsupported(describe(&error)).into()
                }
                Fault::Gone => Failed::lost(lease, error),
                Fault::Unclear => {
                    lease.spoil();
                    Failed::Unclear(error)
                }
            }
        })
    }

    /// After an error that may mean a bad ciphertext or a broken device: a token that opens what is
    /// known to be good, and then fails this once more, has judged the ciphertext.
    pub(super) fn judge(
        &self,
        call: Use<'_>,
        uri: &Uri,
        error: Error,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let mut lease = self.tokens.lease(uri, Need::Login)?;
        match try_again(&mut lease, call, uri) {
            Ok(Again::Opened(secret)) => Ok(secret),
            Ok(Again::Refused) => {
                lease.spoil();
                Err(ModuleError::NotDecryptable.into())
            }
            Ok(Again::NoKey) | Err(_) => Err(Failed::lost(lease, error)),
        }
    }
}

/// What came of a second try over another session.
enum Again {
    /// The error was a passing one.
    Opened(Zeroizing<Vec<u8>>),
    /// The token works, and does not open it.
    Refused,
    /// The key is not there, or opens something else.
    NoKey,
}

fn try_again(lease: &mut Lease<'_>, call: Use<'_>, uri: &Uri) -> Result<Again, Error> {
    let Some(key) = find(lease, uri, call.public_key, call.kem)? else {
        return Ok(Again::NoKey);
    };
    if key.login == EachUse::Login {
        // Not worth a second PIN. That it is found over a new session has to do.
        return Ok(Again::Refused);
    }
    let (functions, session) = (&lease.library().functions, lease.session());
    let verdict = kem::self_test(functions, session, key.handle, call.public_key, call.kem)?;
    if verdict == Verdict::Wrong {
        return Ok(Again::NoKey);
    }
    let login = ContextLogin::NotNeeded;
    let opened = kem::open(
        functions, session, key.handle, call.steps, call.input, login,
    );
    Ok(opened.map_or(Again::Refused, Again::Opened))
}

/// The private key that `uri` names and that belongs to `public_key`, over the lease's session.
pub(super) fn find(
    lease: &mut Lease<'_>,
    uri: &Uri,
    public_key: &PublicKey,
    kem: Kem,
) -> Result<Option<HeldKey>, Error> {
    if let Some(key) = lease.known_key(uri, public_key) {
        return Ok(Some(key));
    }
    for private in key::private_keys(lease.session(), uri)? {
        let matches = match private.public_key(lease.session())? {
            Some(found) => found == *public_key,
            // No public half in the token, and no PIN to spend on finding out.
            None if private.held.login == EachUse::Login => false,
            // That it opens what is wrapped to this public key is proof.
            None => {
                let functions = &lease.library().functions;
                let handle = private.held.handle;
                let tested = kem::self_test(functions, lease.session(), handle, public_key, kem);
                tested? == Verdict::Right
            }
        };
        if matches {
            lease.remember_key(uri, public_key, private.held);
            return Ok(Some(private.held));
        }
    }
    Ok(None)
}
