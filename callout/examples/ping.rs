//! What a round trip costs: a bare SEQPACKET ping, and callout over each carrier, in one run.
//!
//! ```text
//! cargo run --release --example ping
//! ```
//!
//! Two processes. The rows take turns, so that a busy machine is busy for all of them; each figure
//! is the median over the rounds of the round's median. `submit` is the way a program with an event
//! loop asks; `call` is a thread that waits.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use claviger_callout::{
    Call, Requester, RequesterConfig, Responder, ResponderConfig, Service, Transport,
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use zeroize::Zeroizing;

const SIZES: [usize; 3] = [64, 4096, 16384];
const ROUNDS: usize = 9;
const PINGS: usize = 4000;

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
    let folder = tempfile::tempdir()?;
    let bare = Bare::start()?;
    let netlink = Asked::start(folder.path().join("netlink"), "netlink")?;
    let unix = Asked::start(folder.path().join("unix"), "unix")?;
    type Way<'a> = (&'a str, Box<dyn Fn(usize) -> Result<Duration, Error> + 'a>);
    let ways: [Way<'_>; 5] = [
        ("bare SEQPACKET", Box::new(|size| bare.ping(size))),
        ("netlink, submit", Box::new(|size| netlink.chain(size))),
        ("unix, submit", Box::new(|size| unix.chain(size))),
        ("netlink, call", Box::new(|size| netlink.call(size))),
        ("unix, call", Box::new(|size| unix.call(size))),
    ];
    println!("{:<16}{:>8}{:>10}{:>8}", "", "bytes", "p50 us", "ratio");
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
            println!("{name:<16}{size:>8}{us:>10.1}{ratio:>8.2}");
        }
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn respawn(words: &[&str], stdin: Stdio) -> Result<Child, Error> {
    Ok(Command::new(std::env::current_exe()?)
        .args(words)
        .stdin(stdin)
        .spawn()?)
}

/// The least there is: one blocking socket, one process that sends back what it gets.
struct Bare {
    socket: OwnedFd,
    echo: Child,
}

impl Bare {
    fn start() -> Result<Self, Error> {
        let (socket, other) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok(Self {
            socket,
            echo: respawn(&["echo"], other.into())?,
        })
    }

    fn ping(&self, size: usize) -> Result<Duration, Error> {
        let (out, mut back) = (vec![7; size], vec![0; size]);
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
            len => send(0, &buffer[..len], MsgFlags::empty())?,
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
    fn start(folder: PathBuf, carrier: &str) -> Result<Self, Error> {
        let mut config = RequesterConfig::new(&folder, "ping/1");
        config.transport = transport(carrier);
        let requester = Arc::new(Requester::start(config, Arc::new(()))?);
        let folder = folder.to_str().ok_or("folder name is not text")?;
        let responder = respawn(&["respond", folder, carrier], Stdio::piped())?;
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
    fn chain(&self, size: usize) -> Result<Duration, Error> {
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

    fn call(&self, size: usize) -> Result<Duration, Error> {
        let mut times = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            let start = Instant::now();
            let body = Zeroizing::new(vec![7; size]);
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
    size: usize,
    times: Vec<Duration>,
    end: mpsc::Sender<Result<Vec<Duration>, claviger_callout::CallError>>,
}

impl Chain {
    fn ask(mut self) {
        let requester = Arc::clone(&self.requester);
        let (uid, body) = (self.uid, Zeroizing::new(vec![7; self.size]));
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
    fn call(&self, mut call: Call) {
        let body = std::mem::take(&mut call.body);
        call.reply(body);
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
