//! What a round trip costs: a bare SEQPACKET ping, and callout over each carrier, in one run.
//!
//! ```text
//! cargo run --release --example ping
//! ```
//!
//! Two processes, on one core and on two: a round trip on one is three times as fast, and the kernel,
//! left to itself, has them on either. The rows take turns, so that a busy machine is busy for all of
//! them; each figure is the median over the rounds of the round's median. `submit` is the way a program
//! with an event loop asks; `call` is a thread that waits.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use claviger_callout::{
    Call, Requester, RequesterConfig, Responder, ResponderConfig, Service, Transport,
};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::Pid;
use zeroize::Zeroizing;

/// Bytes there and back. In the middle what a filesystem asks to open a file, and is answered.
const SIZES: [Size; 3] = [
    Size { out: 64, back: 64 },
    Size {
        out: 4700,
        back: 64,
    },
    Size {
        out: 16384,
        back: 16384,
    },
];
const ROUNDS: usize = 9;
const PINGS: usize = 2000;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure(),
        ["echo"] => echo(),
        ["respond", folder, carrier] => respond(folder.into(), transport(carrier)),
        _ => Err("usage: ping".into()),
    }
}

fn measure() -> Result<(), Error> {
    println!(
        "{:<16}{:>7}{:>8}{:>8}{:>10}{:>8}",
        "", "cores", "out", "back", "p50 us", "ratio"
    );
    let cores = cores()?;
    let Some(first) = cores.first() else {
        return Err("no core to run on".into());
    };
    measure_on(&[*first, *first])?;
    match cores.get(1) {
        Some(second) => measure_on(&[*first, *second]),
        None => Ok(()),
    }
}

/// This process on the first of `cores`, the one that answers on the second.
fn measure_on(cores: &[usize; 2]) -> Result<(), Error> {
    pin(cores[0])?;
    let folder = tempfile::tempdir()?;
    let bare = Bare::start(cores)?;
    let netlink = Asked::start(folder.path().join("netlink"), "netlink", cores)?;
    let unix = Asked::start(folder.path().join("unix"), "unix", cores)?;
    type Way<'a> = (&'a str, Box<dyn Fn(Size) -> Result<Duration, Error> + 'a>);
    let ways: [Way<'_>; 5] = [
        ("bare SEQPACKET", Box::new(|size| bare.ping(size))),
        ("netlink, submit", Box::new(|size| netlink.chain(size))),
        ("unix, submit", Box::new(|size| unix.chain(size))),
        ("netlink, call", Box::new(|size| netlink.call(size))),
        ("unix, call", Box::new(|size| unix.call(size))),
    ];
    for size in SIZES {
        let mut medians = vec![Vec::new(); ways.len()];
        for _ in 0..ROUNDS {
            for ((_, ping), medians) in ways.iter().zip(&mut medians) {
                medians.push(ping(size)?);
            }
        }
        let medians: Vec<_> = medians.into_iter().map(median).collect();
        for ((name, _), took) in ways.iter().zip(&medians) {
            let us = took.as_secs_f64() * 1e6;
            let ratio = took.as_secs_f64() / medians[0].as_secs_f64();
            let (width, Size { out, back }) = (if cores[0] == cores[1] { 1 } else { 2 }, size);
            println!("{name:<16}{width:>7}{out:>8}{back:>8}{us:>10.1}{ratio:>8.2}");
        }
    }
    Ok(())
}

/// A round trip's, in bytes.
#[derive(Clone, Copy)]
struct Size {
    out: usize,
    back: usize,
}

impl Size {
    /// A question of `out` bytes for an answer of `back`, which are its first eight.
    fn question(self) -> Vec<u8> {
        let mut question = vec![7; self.out];
        question[..8].copy_from_slice(&(self.back as u64).to_le_bytes());
        question
    }
}

fn answer_to(question: &[u8]) -> Vec<u8> {
    let back = question.first_chunk().copied().map(u64::from_le_bytes);
    vec![7; back.unwrap_or_default() as usize]
}

/// Those this process may run on.
fn cores() -> Result<Vec<usize>, Error> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or_default());
    Ok(cores.collect())
}

/// Keeps this thread, and those and the processes it starts, on one core.
fn pin(core: usize) -> Result<(), Error> {
    let mut only = CpuSet::new();
    only.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The process that answers, on the second of `cores`.
fn respawn(words: &[&str], stdin: Stdio, cores: &[usize; 2]) -> Result<Child, Error> {
    pin(cores[1])?;
    let child = Command::new(std::env::current_exe()?)
        .args(words)
        .stdin(stdin)
        .spawn()?;
    pin(cores[0])?;
    Ok(child)
}

/// The least there is: one blocking socket, one process that answers.
struct Bare {
    socket: OwnedFd,
    echo: Child,
}

impl Bare {
    fn start(cores: &[usize; 2]) -> Result<Self, Error> {
        let (socket, other) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok(Self {
            socket,
            echo: respawn(&["echo"], other.into(), cores)?,
        })
    }

    fn ping(&self, size: Size) -> Result<Duration, Error> {
        let (out, mut back) = (size.question(), vec![0; size.back]);
        let mut times = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            let start = Instant::now();
            send(self.socket.as_raw_fd(), &out, MsgFlags::empty())?;
            recv(self.socket.as_raw_fd(), &mut back, MsgFlags::empty())?;
            times.push(start.elapsed());
        }
        Ok(median(times))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.echo.kill();
        let _ = self.echo.wait();
    }
}

fn echo() -> Result<(), Error> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match recv(0, &mut buffer, MsgFlags::empty())? {
            0 => return Ok(()),
            len => send(0, &answer_to(&buffer[..len]), MsgFlags::empty())?,
        };
    }
}

/// A requester, and its responder in another process.
struct Asked {
    requester: Arc<Requester>,
    uid: u32,
    responder: Child,
}

impl Asked {
    fn start(folder: PathBuf, carrier: &str, cores: &[usize; 2]) -> Result<Self, Error> {
        let mut config = RequesterConfig::new(&folder, "ping/1");
        config.transport = transport(carrier);
        let requester = Arc::new(Requester::start(config, Arc::new(()))?);
        let folder = folder.to_str().ok_or("folder name is not text")?;
        let responder = respawn(&["respond", folder, carrier], Stdio::piped(), cores)?;
        let uid = nix::unistd::Uid::current().as_raw();
        if !requester.wait_registered(uid, Duration::from_secs(10)) {
            return Err("responder did not register".into());
        }
        Ok(Self {
            requester,
            uid,
            responder,
        })
    }

    /// Each answer asks the next question.
    fn chain(&self, size: Size) -> Result<Duration, Error> {
        let (sender, receiver) = mpsc::channel();
        let requester = Arc::clone(&self.requester);
        Chain {
            requester,
            uid: self.uid,
            size,
            times: Vec::with_capacity(PINGS),
            end: sender,
        }
        .ask();
        Ok(median(receiver.recv()??))
    }

    fn call(&self, size: Size) -> Result<Duration, Error> {
        let mut times = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            let start = Instant::now();
            let body = Zeroizing::new(size.question());
            self.requester
                .call(self.uid, body, start + Duration::from_secs(5))?;
            times.push(start.elapsed());
        }
        Ok(median(times))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.responder.kill();
        let _ = self.responder.wait();
    }
}

struct Chain {
    requester: Arc<Requester>,
    uid: u32,
    size: Size,
    times: Vec<Duration>,
    end: mpsc::Sender<Result<Vec<Duration>, claviger_callout::CallError>>,
}

impl Chain {
    fn ask(mut self) {
        let requester = Arc::clone(&self.requester);
        let (uid, body) = (self.uid, Zeroizing::new(self.size.question()));
        let start = Instant::now();
        let done = Box::new(move |outcome: claviger_callout::Outcome| {
            self.times.push(start.elapsed());
            match outcome {
                Ok(_) if self.times.len() < PINGS => self.ask(),
                Ok(_) => drop(self.end.send(Ok(self.times))),
                Err(error) => drop(self.end.send(Err(error))),
            }
        });
        requester.submit(uid, body, start + Duration::from_secs(5), done);
    }
}

struct Echo;

impl Service for Echo {
    fn call(&self, call: Call) {
        let answer = Zeroizing::new(answer_to(&call.body));
        call.reply(answer);
    }
}

/// Ends with the process that started it.
fn respond(folder: PathBuf, transport: Transport) -> Result<(), Error> {
    let mut config = ResponderConfig::new([folder]);
    config.transport = transport;
    let _responder = Responder::start(config, Arc::new(Echo))?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn transport(carrier: &str) -> Transport {
    match carrier {
        "netlink" => Transport::Netlink,
        _ => Transport::Unix,
    }
}
