//! A daemon that has its epoch keys from a file, for the tests of the served filesystem: real callout
//! and real cryptography, no tokens.
//!
//! It is a program of its own because openers that descend from a daemon are refused. Its argument
//! names the file, with volumes' ids and epoch keys: the last one is the one that is tested, unlocked
//! and locked when the test says so; the others are there for it to stand on. Orders come as lines on
//! standard input; what happens goes out as lines on standard output.

#![allow(clippy::unwrap_used)] // It serves tests only.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::{env, fs};

use claviger_callout::{Call, Responder, ResponderConfig, Service};
use claviger_protocol::keys::{FreshFile, KeyEvent, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret, paths};
use claviger_vault::epoch::EpochKey;
use claviger_vault::ids::{Epoch, FileId, Scope, VolumeId};
use claviger_vault::native::head::{self, Layer, Opened};
use claviger_vault::secret::Fek;
use zeroize::Zeroizing;

/// What is done with the opens of existing files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unwraps {
    Answer,
    /// As if it waited for a person.
    Hold,
    /// By a FEK made up on the spot.
    Invent,
}

fn main() {
    let key_file = env::args_os().nth(1).expect("key_file_daemon KEY-FILE");
    let bytes = fs::read(key_file).unwrap();
    let (records, _) = bytes.as_chunks::<48>();
    let parse = |record: &[u8; 48]| {
        let (volume, key) = record.split_first_chunk::<16>().unwrap();
        (VolumeId(*volume), key.try_into().unwrap())
    };
    let (volume, _) = parse(records.last().unwrap());
    let keys = Arc::new(Keys {
        first_keys: records.iter().map(parse).collect(),
        tested: volume,
        state: Mutex::new(State {
            unlocked: false,
            epoch: Epoch::FIRST,
            unwraps: Unwraps::Answer,
            held: Vec::new(),
        }),
    });
    let dirs = [
        paths::own_requesters(),
        paths::system_requesters().to_path_buf(),
    ];
    let responder = Responder::start(ResponderConfig::new(dirs), keys.clone()).unwrap();
    say("started");
    let tell = |event: KeyEvent| responder.broadcast(&postcard::to_stdvec(&event).unwrap());
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("unlock", _) => {
                keys.state.lock().unwrap().unlocked = true;
                tell(KeyEvent::Unlocked { volume });
            }
            ("lock", _) => {
                keys.state.lock().unwrap().unlocked = false;
                tell(KeyEvent::Lock { volume });
            }
            ("epoch", _) => {
                let epoch = {
                    let mut state = keys.state.lock().unwrap();
                    state.epoch = state.epoch.next();
                    state.epoch
                };
                say("epoch begun");
                tell(KeyEvent::NewEpoch { volume, epoch });
            }
            ("hold", _) => {
                keys.state.lock().unwrap().unwraps = Unwraps::Hold;
                say("ok");
            }
            ("invent", _) => {
                keys.state.lock().unwrap().unwraps = Unwraps::Invent;
                say("ok");
            }
            ("answer", _) => {
                let held = {
                    let mut state = keys.state.lock().unwrap();
                    state.unwraps = Unwraps::Answer;
                    std::mem::take(&mut state.held)
                };
                for call in held {
                    let request = postcard::from_bytes(&call.body).unwrap();
                    keys.reply(call, request);
                }
                say("ok");
            }
            ("cat", path) => {
                let output = Command::new("cat").arg(path).output().unwrap();
                let text = [output.stdout, output.stderr].concat();
                say(&format!(
                    "cat says {}",
                    String::from_utf8_lossy(&text).trim()
                ));
            }
            order => panic!("no such order: {order:?}"),
        }
    }
}

struct Keys {
    first_keys: HashMap<VolumeId, [u8; 32]>,
    tested: VolumeId,
    state: Mutex<State>,
}

struct State {
    unlocked: bool,
    epoch: Epoch,
    unwraps: Unwraps,
    held: Vec<Call>,
}

impl Keys {
    /// The key of one epoch: the first one's from the file, the others' made of it.
    fn epoch_key(&self, volume: VolumeId, epoch: Epoch) -> Box<EpochKey> {
        let mut key = self.first_keys[&volume];
        key[0] ^= (epoch.0 - Epoch::FIRST.0) as u8;
        Box::new(EpochKey::new(&mut key).unwrap())
    }

    fn answer(&self, request: KeyRequest) -> Result<KeyReply, Failure> {
        let volume = volume_of(&request);
        let (unlocked, current) = {
            let state = self.state.lock().unwrap();
            match volume == self.tested {
                true => (state.unlocked, state.epoch),
                false => (true, Epoch::FIRST),
            }
        };
        let say = |event: &str| {
            if volume == self.tested {
                say(event);
            }
        };
        match request {
            KeyRequest::SealStream { .. }
            | KeyRequest::UnsealStream { .. }
            | KeyRequest::Ecryptfs { .. } => {
                unreachable!("a mount of a native volume")
            }
            KeyRequest::Acknowledge { event, lost } => {
                if let KeyEvent::Lock { .. } = event {
                    say(&format!("lock done, lost {}", lost.len()));
                }
                Ok(KeyReply::Done)
            }
            _ if !unlocked => Err(Failure::Locked),
            KeyRequest::Names { .. } => {
                say("names");
                Ok(self.names(volume, current))
            }
            KeyRequest::Fresh { count, .. } => {
                say(&format!("fresh {count}"));
                Ok(self.fresh(volume, current, count))
            }
            KeyRequest::UnwrapFek { .. } if self.invents() => Ok(KeyReply::Feks {
                feks: vec![secret(&Fek::random())],
                newest: 0,
                epoch: current,
            }),
            KeyRequest::UnwrapFek { header, .. } => self.unwrap(volume, &header),
        }
    }

    fn invents(&self) -> bool {
        self.state.lock().unwrap().unwraps == Unwraps::Invent
    }

    fn names(&self, volume: VolumeId, current: Epoch) -> KeyReply {
        let names_key = |epoch| {
            let names_key = self.epoch_key(volume, epoch).names_key(volume);
            (epoch, Secret::new(names_key.expose().to_vec()))
        };
        KeyReply::Names {
            current,
            minimum: Epoch::FIRST,
            scope: Scope::Volume,
            keys: (Epoch::FIRST.0..=current.0)
                .map(Epoch)
                .map(names_key)
                .collect(),
        }
    }

    fn fresh(&self, volume: VolumeId, epoch: Epoch, count: u16) -> KeyReply {
        let key = self.epoch_key(volume, epoch);
        let fresh = |_| {
            let of = (epoch, &*key);
            let (header, fek) = head::fresh(volume, FileId::random(), of, &Layer::Volume).unwrap();
            FreshFile {
                epoch,
                header,
                fek: secret(&fek),
            }
        };
        KeyReply::Fresh((0..count).map(fresh).collect())
    }

    fn unwrap(&self, volume: VolumeId, header: &[u8]) -> Result<KeyReply, Failure> {
        let opened = head::open(header, volume, |epoch| Some(self.epoch_key(volume, epoch)));
        match opened.map_err(|error| Failure::Integrity(error.to_string()))? {
            Opened::Feks(feks, epoch) => Ok(KeyReply::Feks {
                feks: feks.iter().map(secret).collect(),
                newest: feks.newest(),
                epoch,
            }),
            Opened::FileScope(_) => Err(Failure::Unsupported("file scope".into())),
        }
    }

    fn reply(&self, call: Call, request: KeyRequest) {
        let reply = self.answer(request).unwrap_or_else(KeyReply::Failed);
        call.reply(Zeroizing::new(postcard::to_stdvec(&reply).unwrap()));
    }
}

impl Service for Keys {
    fn call(&self, call: Call) {
        let request: KeyRequest = postcard::from_bytes(&call.body).unwrap();
        if let KeyRequest::UnwrapFek { pid, volume, .. } = &request
            && *volume == self.tested
        {
            let mut state = self.state.lock().unwrap();
            if state.unwraps == Unwraps::Hold {
                call.on_cancel(|| say("cancelled"));
                say(&format!("holds {pid}"));
                state.held.push(call);
                return;
            }
        }
        self.reply(call, request);
    }
}

fn volume_of(request: &KeyRequest) -> VolumeId {
    match request {
        KeyRequest::Names { volume, .. }
        | KeyRequest::UnwrapFek { volume, .. }
        | KeyRequest::Fresh { volume, .. } => *volume,
        KeyRequest::SealStream { .. }
        | KeyRequest::UnsealStream { .. }
        | KeyRequest::Ecryptfs { .. } => {
            unreachable!("a mount of a native volume")
        }
        KeyRequest::Acknowledge { event, .. } => {
            let (KeyEvent::Lock { volume }
            | KeyEvent::Unlocked { volume }
            | KeyEvent::NewEpoch { volume, .. }) = event;
            *volume
        }
    }
}

fn secret(fek: &Fek) -> Secret {
    Secret::new(fek.expose().to_vec())
}

fn say(event: &str) {
    println!("{event}");
}
