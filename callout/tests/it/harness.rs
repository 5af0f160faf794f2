//! Namespaces, child processes, and waiting for what must happen.

use std::collections::VecDeque;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use claviger_callout::{
    CallError, CarrierKind, Limits, Observer, Outcome, Pending, Requester, RequesterConfig,
    Responder, ResponderConfig, Serves, Ticket, Transport,
};
use claviger_hw_tests::{PROGRAMS, rerun, show_programs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use crate::roles::{self, Answers};

/// Nothing here takes this long: a test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const ROLE: &str = "CALLOUT_TEST_ROLE";
/// Set inside the namespaces; its value is the uid of [`user`].
const UID: &str = "CALLOUT_TEST_UID";

/// The one test this isolated process runs.
static TEST: OnceLock<String> = OnceLock::new();

/// Runs `body` inside namespaces of its own; or, in a child of this test, the role it was given.
pub(crate) fn enter(module: &str, name: &str, body: impl FnOnce()) {
    let path = format!("{module}::{name}");
    if env::var_os(UID).is_some() {
        let (_crate, test) = path.split_once("::").unwrap();
        TEST.set(test.to_owned())
            .expect("one test a process, from here on");
        if let Ok(role) = env::var(ROLE) {
            roles::play(&role);
            process::exit(0);
        }
        show_programs();
        return body();
    }
    // Uids of this test's other users: made up, in nobody's range, never the overflow uid.
    let uid = 200_000 + process::id() % 50_000;
    rerun(&path, UID, uid.to_string());
}

/// An ordinary user, in whose name daemons run.
pub(crate) fn user() -> u32 {
    env::var(UID).unwrap().parse().unwrap()
}

/// Another one, who wishes the first ill.
pub(crate) fn enemy() -> u32 {
    user() + 1
}

/// The rendezvous folder of the machine's root.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from("/run/callout")
}

pub(crate) fn only(kind: CarrierKind) -> Transport {
    match kind {
        CarrierKind::Netlink => Transport::Netlink,
        CarrierKind::Unix => Transport::Unix,
    }
}

/// A requester of root's that serves everybody, over one carrier.
pub(crate) fn requester(kind: CarrierKind) -> (Requester, Arc<Heard>) {
    requester_with(kind, |_| {})
}

pub(crate) fn requester_with(
    kind: CarrierKind,
    change: impl FnOnce(&mut RequesterConfig),
) -> (Requester, Arc<Heard>) {
    let mut config = RequesterConfig::new(folder(), "test/1");
    config.transport = only(kind);
    config.serves = Serves::AnyUid;
    config.limits = Limits {
        successor_wait: Duration::from_millis(300),
        ..Limits::default()
    };
    change(&mut config);
    let heard = Arc::new(Heard::default());
    (
        Requester::start(config, Arc::clone(&heard) as Arc<dyn Observer>).unwrap(),
        heard,
    )
}

/// A responder in this very process, of root's.
pub(crate) fn responder(kind: CarrierKind) -> Responder {
    let mut config = ResponderConfig::new([folder()]);
    config.transport = only(kind);
    Responder::start(config, Arc::new(Answers)).unwrap()
}

/// A responder of `uid` in a process of its own, registered.
pub(crate) fn registered(requester: &Requester, uid: u32, kind: CarrierKind) -> Child {
    let child = Child::play(&format!("responder {uid} {kind}"));
    child.expect("connected");
    assert!(requester.wait_registered(uid, PATIENCE));
    assert_eq!(requester.registered(uid), Some(kind));
    child
}

pub(crate) fn body(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

pub(crate) fn ask(requester: &Requester, uid: u32, text: &str) -> Result<String, CallError> {
    ask_within(requester, uid, text, PATIENCE)
}

pub(crate) fn ask_within(
    requester: &Requester,
    uid: u32,
    text: &str,
    patience: Duration,
) -> Result<String, CallError> {
    let answer = requester.call(uid, body(text), Instant::now() + patience)?;
    Ok(String::from_utf8(answer.to_vec()).unwrap())
}

/// Submits a request whose outcome is awaited later.
pub(crate) fn submit(
    requester: &Requester,
    uid: u32,
    text: &str,
    patience: Duration,
) -> (Option<Ticket>, mpsc::Receiver<Outcome>) {
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |outcome| drop(sender.send(outcome)));
    (
        requester.submit(uid, body(text), Instant::now() + patience, done),
        receiver,
    )
}

/// What a requester's observer heard.
#[derive(Default)]
pub(crate) struct Heard {
    news: Mutex<Vec<News>>,
    more: Condvar,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Event(u32, Vec<u8>),
    Registered(u32, CarrierKind),
    Gone(u32),
    Pending(Ticket, Pending),
}

impl Heard {
    fn add(&self, news: News) {
        self.news.lock().unwrap().push(news);
        self.more.notify_all();
    }

    /// Waits until this was heard `times` times.
    pub(crate) fn wait(&self, wanted: &News, times: usize) {
        let count = |news: &[News]| news.iter().filter(|news| *news == wanted).count();
        let news = self.news.lock().unwrap();
        let missing = |news: &mut Vec<News>| count(news) < times;
        let (news, wait) = self
            .more
            .wait_timeout_while(news, PATIENCE, missing)
            .unwrap();
        assert!(
            !wait.timed_out(),
            "{wanted:?} not heard {times} times, but {news:?}"
        );
    }

    pub(crate) fn all(&self) -> Vec<News> {
        self.news.lock().unwrap().clone()
    }
}

impl Observer for Heard {
    fn event(&self, uid: u32, body: &[u8]) {
        self.add(News::Event(uid, body.to_vec()));
    }
    fn registered(&self, uid: u32, kind: CarrierKind) {
        self.add(News::Registered(uid, kind));
    }
    fn gone(&self, uid: u32) {
        self.add(News::Gone(uid));
    }
    fn pending(&self, ticket: Ticket, reason: Pending) {
        self.add(News::Pending(ticket, reason));
    }
}

/// This test, run once more in a process of its own, in another role.
pub(crate) struct Child {
    process: process::Child,
    stdin: ChildStdin,
    said: Mutex<(mpsc::Receiver<String>, VecDeque<String>)>,
}

impl Child {
    pub(crate) fn play(role: &str) -> Self {
        Self::play_through(&[], role)
    }

    /// Through another program that runs the rest of its command line.
    pub(crate) fn play_through(wrapper: &[&str], role: &str) -> Self {
        // Root of a user namespace enters a folder that only its owner may enter no more than others do.
        let own = env::current_exe().unwrap();
        let own = Path::new(PROGRAMS)
            .join("deps")
            .join(own.file_name().unwrap());
        let mut words: Vec<_> = wrapper.iter().map(PathBuf::from).collect();
        words.push(own);
        let mut process = Command::new(&words[0])
            .args(&words[1..])
            .args(["--exact", TEST.get().unwrap(), "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // libtest says things too; what a role says starts with an @, maybe after those.
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once('@') {
                    let _ = sender.send(said.to_owned());
                }
            }
        });
        Self {
            process,
            stdin,
            said: Mutex::new((receiver, VecDeque::new())),
        }
    }

    /// Waits until the child says `word`, and gives what follows it.
    pub(crate) fn expect(&self, word: &str) -> String {
        let mut said = self.said.lock().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let matches = |line: &String| line.split(' ').next() == Some(word);
        loop {
            if let Some(place) = said.1.iter().position(matches) {
                let line = said.1.remove(place).unwrap();
                return line.split_once(' ').map_or("", |(_, rest)| rest).to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match said.0.recv_timeout(left) {
                Ok(line) => said.1.push_back(line),
                Err(_) => panic!("child did not say {word:?}, but {:?}", said.1),
            }
        }
    }

    /// All it said so far that nobody waited for.
    pub(crate) fn said(&self) -> Vec<String> {
        let mut said = self.said.lock().unwrap();
        let (receiver, kept) = &mut *said;
        kept.extend(receiver.try_iter());
        kept.iter().cloned().collect()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Kills it outright and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The entry of a requester: one file of the folder.
pub(crate) fn entry_text(folder: &Path) -> String {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    std::fs::read_to_string(entries.remove(0)).unwrap()
}
