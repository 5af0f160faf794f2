//! A daemon that has its epoch key from a file, `examples/key_file_daemon.rs`: real callout and real
//! cryptography, no tokens.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use claviger_vault::epoch::EpochKey;
use claviger_vault::ids::VolumeId;

use super::example;

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
    /// By FEKs that are none of the file's.
    Invent,
}

impl Daemon {
    /// Starts one that has the key in `key_file`, with the volume locked.
    pub(crate) fn start(key_file: &Path) -> Self {
        Self::run(Command::new(example("key_file_daemon")), key_file)
    }

    /// The same as `uid`. The program is copied to where every uid may run it.
    pub(crate) fn start_as(uid: u32, key_file: &Path) -> Self {
        let program = Path::new("/run/claviger-test-daemon");
        if !program.exists() {
            fs::copy(example("key_file_daemon"), program).unwrap();
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
            .arg(key_file)
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
                // The test may have ended, and take its receiver with it.
                let _ = sender.send(line);
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
            Unwraps::Invent => "invent",
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
