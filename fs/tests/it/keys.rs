//! A source of keys in this process: the vault's own cryptography, and no daemon.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use claviger_fs::keys::{KeySource, Ticket, Unwrap, UnwrapDone};
use claviger_protocol::Failure;
use claviger_vault::epoch::EpochKey;
use claviger_vault::epoch::EpochKeys;
use claviger_vault::format::{FileKeys, NewFile, Tree};
use claviger_vault::ids::{Epoch, FileId, Scope, VolumeId};
use claviger_vault::names::NamesKeys;
use claviger_vault::native::head::{self, Layer, Opened};
use claviger_vault::native::{Feks, NativeKeys, NativeTree, NewNative, Packet};
use claviger_vault::secret::{Fek, FileKey};

/// Holds the epoch keys itself.
pub(crate) struct InProcess {
    pub(crate) volume: VolumeId,
    epochs: EpochKeys,
    pub(crate) scope: Scope,
    tree: Mutex<Option<Arc<dyn Tree>>>,
    file_keys: Mutex<HashMap<FileId, FileKey>>,
    /// How unwraps are answered.
    pub(crate) manner: Mutex<Manner>,
    held: Mutex<VecDeque<(Ticket, Unwrap, UnwrapDone)>>,
    tickets: AtomicU64,
    /// Unwraps asked for.
    pub(crate) unwraps: AtomicUsize,
}

/// How unwraps are answered.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// At once.
    AtOnce,
    /// When the test says so.
    Held,
    /// With a key that is none of the file's.
    Invented,
    /// With this failure.
    Refused(Failure),
}

impl InProcess {
    pub(crate) fn new(scope: Scope) -> Arc<Self> {
        let key = EpochKey::random().expect("locked memory for one key");
        let keys = Self {
            volume: VolumeId::random(),
            epochs: EpochKeys::new(Epoch::FIRST, key),
            scope,
            tree: Mutex::default(),
            file_keys: Mutex::default(),
            manner: Mutex::new(Manner::AtOnce),
            held: Mutex::default(),
            tickets: AtomicU64::new(0),
            unwraps: AtomicUsize::new(0),
        };
        keys.unlock();
        Arc::new(keys)
    }

    pub(crate) fn unlock(&self) {
        let tree = NativeTree {
            names: self.names_keys(),
            scope: self.scope,
        };
        *self.tree.lock().unwrap() = Some(Arc::new(tree));
    }

    pub(crate) fn lock(&self) {
        *self.tree.lock().unwrap() = None;
    }

    pub(crate) fn names_keys(&self) -> NamesKeys {
        let keys = self.epochs.names_keys(self.volume, Epoch::FIRST);
        NamesKeys::new(Epoch::FIRST, Epoch::FIRST, keys).expect("the current one is among them")
    }

    /// Number of unwraps that wait for the test.
    pub(crate) fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }

    /// Answers the oldest unwrap that waits.
    pub(crate) fn answer_one(&self) {
        let oldest = self.held.lock().unwrap().pop_front();
        let (_, request, done) = oldest.expect("an unwrap waits");
        done(self.open(request.head));
    }

    fn open(&self, head: Vec<u8>) -> Result<Box<dyn FileKeys>, Failure> {
        let (feks, epoch) = self.feks(&head)?;
        Ok(Box::new(NativeKeys { head, feks, epoch }))
    }

    fn feks(&self, head: &[u8]) -> Result<(Feks, Epoch), Failure> {
        match head::open(head, self.volume, |epoch| self.epochs.of(epoch)) {
            Ok(Opened::Feks(feks, epoch)) => Ok((feks, epoch)),
            Ok(Opened::FileScope(sealed)) => {
                let file_keys = self.file_keys.lock().unwrap();
                let file_key = file_keys.get(&sealed.file).expect("made here");
                let feks = sealed.open(file_key);
                Ok((feks.expect("its own key opens it"), sealed.epoch))
            }
            Err(error) => Err(Failure::Integrity(error.to_string())),
        }
    }
}

fn invented(head: Vec<u8>) -> Box<dyn FileKeys> {
    let (feks, epoch) = (Feks::first(Fek::random()), Epoch::FIRST);
    Box::new(NativeKeys { head, feks, epoch })
}

impl KeySource for InProcess {
    fn tree(&self) -> Option<Arc<dyn Tree>> {
        self.tree.lock().unwrap().clone()
    }

    fn fresh(&self, _uid: u32) -> Result<Box<dyn NewFile>, Failure> {
        if self.tree().is_none() {
            return Err(Failure::Locked);
        }
        let epoch = (Epoch::FIRST, self.epochs.current());
        let file = FileId::random();
        let file_key = FileKey::random();
        // A token would unwrap the file key from it; here it is looked up.
        let packets = [Packet {
            key_sig: [1; 8],
            algorithm: 100,
            body: vec![0; 100],
        }];
        let layer = match self.scope {
            Scope::Volume => Layer::Volume,
            Scope::File => Layer::File {
                file_key: &file_key,
                packets: &packets,
            },
        };
        let made = head::fresh(self.volume, file, epoch, &layer);
        let (head, fek) = made.expect("one packet is not too many");
        self.file_keys.lock().unwrap().insert(file, file_key);
        Ok(Box::new(NewNative {
            epoch: Epoch::FIRST,
            head,
            feks: Feks::first(fek),
        }))
    }

    fn unwrap(&self, request: Unwrap, done: UnwrapDone) -> Ticket {
        self.unwraps.fetch_add(1, Ordering::SeqCst);
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::SeqCst));
        let manner = self.manner.lock().unwrap().clone();
        match manner {
            Manner::AtOnce => done(self.open(request.head)),
            Manner::Held => self.held.lock().unwrap().push_back((ticket, request, done)),
            Manner::Invented => done(Ok(invented(request.head))),
            Manner::Refused(failure) => done(Err(failure)),
        }
        ticket
    }

    fn cancel(&self, ticket: Ticket) {
        let mut held = self.held.lock().unwrap();
        let Some(at) = held.iter().position(|(held, ..)| *held == ticket) else {
            return;
        };
        let called_back = held.remove(at);
        drop(held);
        if let Some((_, _, done)) = called_back {
            done(Err(Failure::Cancelled));
        }
    }
}
