//! What a mount asks its daemons, and what it makes of their answers: one implementation a format.
//!
//! A secret is copied from a reply into its type, and both the body and what lies between are wiped.

mod ecryptfs;
mod native;

use std::sync::Arc;

use claviger_callout::CallError;
use claviger_protocol::Failure;
use claviger_protocol::keys::{KeyReply, KeyRequest};
use claviger_vault::format::{FileKeys, NewFile, Tree};
use zeroize::Zeroizing;

pub use ecryptfs::EcryptfsBodies;
pub use native::NativeBodies;

use crate::keys::Unwrap;

/// Requests of one format for keys, and what its replies bring. A reply to another request is a failure.
pub trait Bodies: Send + Sync {
    /// Asks for what opens the tree.
    fn ask_tree(&self) -> KeyRequest;

    /// The unlocked tree.
    ///
    /// # Errors
    /// [`Failure::Internal`].
    fn tree(&self, reply: KeyReply) -> Result<Arc<dyn Tree>, Failure>;

    /// Asks for the keys of an existing file.
    fn ask_file(&self, unwrap: &Unwrap) -> KeyRequest;

    /// The keys of the file whose head was sent as `head`.
    ///
    /// # Errors
    /// [`Failure::Internal`].
    fn file(&self, head: Vec<u8>, reply: KeyReply) -> Result<Box<dyn FileKeys>, Failure>;

    /// Asks for what `count` new files start with.
    fn ask_new_files(&self, count: u16) -> KeyRequest;

    /// What new files start with.
    ///
    /// # Errors
    /// [`Failure::Internal`].
    fn new_files(&self, reply: KeyReply) -> Result<Vec<Box<dyn NewFile>>, Failure>;

    /// How many new files one reply can bring.
    fn new_files_at_most(&self) -> u16;
}

/// What a daemon's answer comes to: its reply, or why there is none.
pub(crate) fn key_reply(
    uid: u32,
    outcome: Result<Zeroizing<Vec<u8>>, CallError>,
) -> Result<KeyReply, Failure> {
    let body = outcome.map_err(|error| failure(uid, error))?;
    match postcard::from_bytes(&body) {
        Ok(KeyReply::Failed(failure)) => Err(failure),
        Ok(reply) => Ok(reply),
        Err(_) => Err(unexpected()),
    }
}

/// No `_` arm: a new kind of failed call must choose what the caller is told.
fn failure(uid: u32, error: CallError) -> Failure {
    match error {
        CallError::NoResponder | CallError::Lost | CallError::Stopped => Failure::NoDaemon { uid },
        CallError::TableFull => Failure::Busy("too many requests wait for clavigerd".into()),
        CallError::Deadline => Failure::TimedOut {
            what: "clavigerd".into(),
        },
        CallError::Cancelled => Failure::Cancelled,
        CallError::TooLarge(_) | CallError::Unanswered => Failure::Internal(error.to_string()),
    }
}

fn unexpected() -> Failure {
    Failure::Internal("the daemon's reply is not one to the request".into())
}

#[cfg(test)]
mod tests {
    use claviger_protocol::keys::KeyRequest;
    use claviger_vault::ids::VolumeId;

    use super::*;

    const ANN: u32 = 1000;

    pub(super) fn answered(reply: &KeyReply) -> Result<KeyReply, Failure> {
        key_reply(ANN, Ok(Zeroizing::new(postcard::to_stdvec(reply).unwrap())))
    }

    pub(super) fn is_internal<T>(outcome: Result<T, Failure>) -> bool {
        matches!(outcome, Err(Failure::Internal(_)))
    }

    #[test]
    fn each_way_that_a_call_fails_is_a_failure_of_its_own() {
        let failure = |error| key_reply(ANN, Err(error)).unwrap_err();
        let no_daemon = Failure::NoDaemon { uid: ANN };
        assert_eq!(failure(CallError::NoResponder), no_daemon);
        assert_eq!(failure(CallError::Lost), no_daemon);
        assert_eq!(failure(CallError::Cancelled), Failure::Cancelled);
        assert_eq!(failure(CallError::TableFull).errno(), libc::EAGAIN);
        assert_eq!(failure(CallError::Deadline).errno(), libc::ETIMEDOUT);
    }

    #[test]
    fn a_failure_of_the_daemon_is_passed_on() {
        let reply = KeyReply::Failed(Failure::Declined);
        assert_eq!(answered(&reply).unwrap_err(), Failure::Declined);
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        assert!(is_internal(key_reply(ANN, Ok(Zeroizing::new(vec![0xff])))));
        let request = KeyRequest::Names {
            volume: VolumeId::random(),
            lower_root: b"/lower".to_vec(),
        };
        let request = Zeroizing::new(postcard::to_stdvec(&request).unwrap());
        let native = NativeBodies::new(
            VolumeId::random(),
            claviger_vault::ids::Scope::Volume,
            "/".as_ref(),
        );
        let reply = key_reply(ANN, Ok(request));
        assert!(is_internal(
            reply.and_then(|reply| native.file(Vec::new(), reply))
        ));
    }
}
