//! Native volumes: names keys, FEKs, and heads of new files.

use std::path::Path;
use std::sync::Arc;

use claviger_callout::BODY_MAX;
use claviger_protocol::keys::{self, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret};
use claviger_vault::format::{FileKeys, NewFile, Tree};
use claviger_vault::ids::{Epoch, Scope, VolumeId};
use claviger_vault::names::NamesKeys;
use claviger_vault::native::{Feks, HEAD_LEN, NativeKeys, NativeTree, NewNative, PAGE};
use claviger_vault::secret::{Fek, NamesKey};
use zeroize::Zeroizing;

use super::{Bodies, unexpected};
use crate::keys::Unwrap;
use crate::pool;

/// What a mount of a native volume asks.
#[derive(Clone, Debug)]
pub struct NativeBodies {
    volume: VolumeId,
    scope: Scope,
    /// Absolute, as bytes of a path.
    lower_root: Vec<u8>,
}

impl NativeBodies {
    /// Of `volume`, whose lower root is `lower_root`.
    pub fn new(volume: VolumeId, scope: Scope, lower_root: &Path) -> Self {
        Self {
            volume,
            scope,
            lower_root: lower_root.as_os_str().as_encoded_bytes().to_vec(),
        }
    }
}

impl Bodies for NativeBodies {
    fn ask_tree(&self) -> KeyRequest {
        KeyRequest::Names {
            volume: self.volume,
            lower_root: self.lower_root.clone(),
        }
    }

    fn tree(&self, reply: KeyReply) -> Result<Arc<dyn Tree>, Failure> {
        let names = names_keys(reply)?;
        let scope = self.scope;
        Ok(Arc::new(NativeTree { names, scope }))
    }

    fn ask_file(&self, unwrap: &Unwrap) -> KeyRequest {
        KeyRequest::UnwrapFek {
            volume: self.volume,
            header: unwrap.head.clone(),
            lower_path: unwrap.lower_path.clone(),
            pid: unwrap.pid,
        }
    }

    fn file(&self, head: Vec<u8>, reply: KeyReply) -> Result<Box<dyn FileKeys>, Failure> {
        let (feks, epoch) = feks(reply)?;
        Ok(Box::new(NativeKeys { head, feks, epoch }))
    }

    fn ask_new_files(&self, count: u16) -> KeyRequest {
        KeyRequest::Fresh {
            volume: self.volume,
            count,
        }
    }

    fn new_files(&self, reply: KeyReply) -> Result<Vec<Box<dyn NewFile>>, Failure> {
        let files = fresh_files(reply)?.into_iter();
        Ok(files.map(|file| Box::new(file) as _).collect())
    }

    fn new_files_at_most(&self) -> u16 {
        let head = match self.scope {
            Scope::Volume => HEAD_LEN,
            Scope::File => HEAD_LEN + PAGE,
        };
        // With the FEK, the epoch and the lengths of both.
        let file = head + 64;
        u16::try_from(BODY_MAX / file).unwrap_or(pool::FULL)
    }
}

/// The names keys of the volume.
fn names_keys(reply: KeyReply) -> Result<NamesKeys, Failure> {
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
fn feks(reply: KeyReply) -> Result<(Feks, Epoch), Failure> {
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
fn fresh_files(reply: KeyReply) -> Result<Vec<NewNative>, Failure> {
    let KeyReply::Fresh(files) = reply else {
        return Err(unexpected());
    };
    let fresh = |file: keys::FreshFile| {
        Ok(NewNative {
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
    use super::super::tests::{answered, is_internal};
    use super::*;

    fn secret(byte: u8, len: usize) -> Secret {
        Secret::new(vec![byte; len])
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
    fn a_reply_to_another_request_is_refused() {
        assert!(is_internal(feks(KeyReply::Done)));
        assert!(is_internal(names_keys(KeyReply::Done)));
        assert!(is_internal(fresh_files(KeyReply::Done)));
    }
}
