//! From a daemon's answer to keys or a failure. A secret is copied from the body into its type, and
//! both the body and what lies between are wiped.

use claviger_callout::CallError;
use claviger_protocol::keys::{self, KeyReply};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::Epoch;
use claviger_vault::names::NamesKeys;
use claviger_vault::native::Feks;
use claviger_vault::secret::{Fek, NamesKey};
use zeroize::Zeroizing;

use crate::keys::FreshFile;

/// What a daemon's answer comes to: its reply, or why there is none.
pub(super) fn key_reply(
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

/// The names keys of the volume.
pub(super) fn names_keys(reply: KeyReply) -> Result<NamesKeys, Failure> {
    let KeyReply::Names {
        current,
        minimum,
        keys,
        scope: _,
    } = reply
    else {
        return Err(unexpected());
    };
    let keys: Vec<(Epoch, NamesKey)> = keys
        .into_iter()
        .map(|(epoch, key)| Ok((epoch, NamesKey::new(&mut *key_32(&key)?))))
        .collect::<Result<_, Failure>>()?;
    NamesKeys::new(current, minimum, keys).map_err(|_| unexpected())
}

/// The FEKs of one file, and the epoch that its header is sealed under.
pub(super) fn feks(reply: KeyReply) -> Result<(Feks, Epoch), Failure> {
    let KeyReply::Feks {
        feks,
        newest,
        epoch,
    } = reply
    else {
        return Err(unexpected());
    };
    Ok((feks_of(&feks, newest)?, epoch))
}

/// What new files start with.
pub(super) fn fresh_files(reply: KeyReply) -> Result<Vec<FreshFile>, Failure> {
    let KeyReply::Fresh(files) = reply else {
        return Err(unexpected());
    };
    let fresh = |file: keys::FreshFile| {
        Ok(FreshFile {
            epoch: file.epoch,
            head: file.header,
            feks: feks_of(std::slice::from_ref(&file.fek), 0)?,
        })
    };
    files.into_iter().map(fresh).collect()
}

fn feks_of(secrets: &[Secret], newest: u8) -> Result<Feks, Failure> {
    let feks = secrets
        .iter()
        .map(|secret| Ok(Fek::new(&mut *key_32(secret)?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    Feks::new(feks, newest).map_err(|_| unexpected())
}

fn key_32(secret: &Secret) -> Result<Zeroizing<[u8; 32]>, Failure> {
    secret.to_array().map(Zeroizing::new).ok_or_else(unexpected)
}

#[cfg(test)]
mod tests {
    use claviger_protocol::keys::KeyRequest;
    use claviger_vault::ids::{Scope, VolumeId};

    use super::*;

    const ANN: u32 = 1000;

    fn answered(reply: &KeyReply) -> Result<KeyReply, Failure> {
        key_reply(ANN, Ok(Zeroizing::new(postcard::to_stdvec(reply).unwrap())))
    }

    fn secret(byte: u8, len: usize) -> Secret {
        Secret::new(vec![byte; len])
    }

    fn is_internal<T>(outcome: Result<T, Failure>) -> bool {
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
    fn keys_arrive_as_they_were_sent() {
        let reply = KeyReply::Feks {
            feks: vec![secret(1, 32), secret(2, 32)],
            newest: 1,
            epoch: Epoch(3),
        };
        let (feks, epoch) = feks(answered(&reply).unwrap()).unwrap();
        let bytes: Vec<u8> = feks.iter().map(|fek| fek.expose()[0]).collect();
        assert_eq!((bytes, feks.newest(), epoch), (vec![1, 2], 1, Epoch(3)));

        let reply = KeyReply::Names {
            current: Epoch(2),
            minimum: Epoch(1),
            scope: Scope::Volume,
            keys: vec![(Epoch(1), secret(1, 32)), (Epoch(2), secret(2, 32))],
        };
        let names = names_keys(answered(&reply).unwrap()).unwrap();
        assert_eq!(names.names_key(Epoch(2)).unwrap().expose(), &[2; 32]);
    }

    #[test]
    fn keys_of_another_length_or_number_are_refused() {
        let reply = |feks, newest| KeyReply::Feks {
            feks,
            newest,
            epoch: Epoch(1),
        };
        assert!(is_internal(feks(reply(vec![secret(1, 31)], 0))));
        assert!(is_internal(feks(reply(vec![secret(1, 32)], 1))));
        assert!(is_internal(feks(reply(vec![], 0))));
    }

    #[test]
    fn what_is_no_reply_or_one_to_another_request_is_refused() {
        assert!(is_internal(key_reply(ANN, Ok(Zeroizing::new(vec![0xff])))));
        assert!(is_internal(feks(KeyReply::Done)));
        assert!(is_internal(names_keys(KeyReply::Done)));
        assert!(is_internal(fresh_files(KeyReply::Done)));
        let request = KeyRequest::Names {
            volume: VolumeId::random(),
            lower_root: b"/lower".to_vec(),
        };
        let request = Zeroizing::new(postcard::to_stdvec(&request).unwrap());
        assert!(is_internal(key_reply(ANN, Ok(request)).and_then(feks)));
    }
}
