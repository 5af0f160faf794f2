//! A daemon that has its epoch key from a file: real callout and real cryptography, no tokens.
//!
//! It is a process of its own, the test binary run again, because openers that descend from it are
//! refused. The test tells it what to do by lines on its standard input; what happens to it comes as
//! lines that begin with [`MARK`] on its standard output.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use claviger_callout::{Call, Responder, ResponderConfig, Service};
use claviger_protocol::keys::{FreshFile, KeyEvent, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret, paths};
use claviger_vault::epoch::EpochKey;
use claviger_vault::ids::{Epoch, FileId, Scope, VolumeId};
use claviger_vault::native::head::{self, Layer, Opened};
use claviger_vault::secret::Fek;
use zeroize::Zeroizing;

/// Begins the lines that are meant for the test.
const MARK: &str = "daemon: ";

/// Names the file with volumes' ids and epoch keys. The last one is the one that is tested: it is
/// unlocked and locked when the test says so, the others are there for it to stand on.
const KEY_FILE: &str = "CLAVIGER_TEST_KEY_FILE";

/// Longest wait for anything that a test expects.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon, as its test sees it.
pub(crate) struct Daemon {
    child: Child,
    orders: ChildStdin,
    events: Receiver<String>,
}

/// What the daemon does with the opens of existing files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwraps {
    Answer,
    /// As if it waited for a person.
    Hold,
}

impl Daemon {
    /// Starts one that has the key in `key_file`, with the volume locked.
    pub(crate) fn start(key_file: &Path) -> Self {
        Self::run(Command::new(env::current_exe().unwrap()), key_file)
    }

    /// The same as `uid`. The test's program is copied to where every uid may run it.
    pub(crate) fn start_as(uid: u32, key_file: &Path) -> Self {
        let program = Path::new("/run/claviger-test-daemon");
        if !program.exists() {
            fs::copy(env::current_exe().unwrap(), program).unwrap();
        }
        let runtime = PathBuf::from(format!("/run/user-{uid}"));
        fs::create_dir_all(&runtime).unwrap();
        chown(&runtime, Some(uid), Some(uid)).unwrap();
        let mut command = Command::new(program);
        command.uid(uid).gid(uid).env("XDG_RUNTIME_DIR", runtime);
        Self::run(command, key_file)
    }

    fn run(mut command: Command, key_file: &Path) -> Self {
        let mut child = command
            .args([
                "--exact",
                "served::daemon::is_the_daemon",
                "--nocapture",
                "--ignored",
            ])
            .env(KEY_FILE, key_file)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(event) = line.strip_prefix(MARK) {
                    let _ = sender.send(event.to_owned());
                }
            }
        });
        let daemon = Self {
            child,
            orders,
            events,
        };
        daemon.expect("started");
        daemon
    }

    pub(crate) fn unlock(&mut self) {
        self.order("unlock");
    }

    /// Locks, and returns how many files have lost their last writes.
    pub(crate) fn lock(&mut self) -> usize {
        self.order("lock");
        let done = self.expect("lock done, lost ");
        done.parse().unwrap()
    }

    /// Begins another epoch, and waits until the mount has taken note: it asks for the names anew.
    pub(crate) fn new_epoch(&mut self) {
        self.order("epoch");
        self.expect("epoch begun");
        self.expect("names");
    }

    pub(crate) fn unwraps(&mut self, unwraps: Unwraps) {
        self.order(match unwraps {
            Unwraps::Answer => "answer",
            Unwraps::Hold => "hold",
        });
        self.expect("ok");
    }

    /// Has the daemon itself run `cat PATH`, and returns what that says.
    pub(crate) fn cat(&mut self, path: &Path) -> String {
        self.order(&format!("cat {}", path.display()));
        self.expect("cat says ")
    }

    /// Waits for an event that begins with `start`, passing over others; returns the rest of it.
    pub(crate) fn expect(&self, start: &str) -> String {
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let event = event.unwrap_or_else(|_| panic!("the daemon never said {start:?}"));
            if let Some(rest) = event.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    fn order(&mut self, line: &str) {
        writeln!(self.orders, "{line}").unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes what [`Daemon::start`] reads.
pub(crate) fn write_key_file(path: &Path, volume: VolumeId, key: &EpochKey) {
    fs::write(path, [volume.0.as_slice(), key.expose()].concat()).unwrap();
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
            KeyRequest::SealStream { .. } | KeyRequest::UnsealStream { .. } => {
                unreachable!("a mount seals no streams")
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
            KeyRequest::UnwrapFek { header, .. } => self.unwrap(volume, &header),
        }
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
        KeyRequest::SealStream { .. } | KeyRequest::UnsealStream { .. } => {
            unreachable!("a mount seals no streams")
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
    println!("{MARK}{event}");
}

#[test]
#[ignore = "the daemon of other tests"]
fn is_the_daemon() {
    let Ok(key_file) = env::var(KEY_FILE) else {
        return;
    };
    let bytes = fs::read(PathBuf::from(key_file)).unwrap();
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
