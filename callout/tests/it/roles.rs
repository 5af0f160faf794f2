//! What the children of a test do.

use std::io::{self, BufRead, Read};
use std::process;
use std::sync::{Arc, Mutex};

use claviger_callout::{
    Call, Observer, PeerInfo, Pending, Requester, RequesterConfig, Responder, ResponderConfig,
    Serves, Service,
};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use zeroize::Zeroizing;

use crate::attacks;
use crate::harness::{folder, only};
use crate::refused::{Refused, refuse};

/// Says a line to the test.
macro_rules! say {
    ($($word:tt)*) => {{
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        writeln!(out, "@{}", format_args!($($word)*)).unwrap();
        out.flush().unwrap();
    }};
}
pub(crate) use say;

pub(crate) fn play(role: &str) {
    let words: Vec<_> = role.split(' ').collect();
    match words[..] {
        ["responder", uid, carriers] => respond(uid.parse().unwrap(), carriers),
        ["responder-without-netlink", uid, carriers] => {
            refuse(Refused::Netlink);
            respond(uid.parse().unwrap(), carriers);
        }
        ["responder-without-pidfds", uid, carriers] => {
            refuse(Refused::PidfdOpen);
            respond(uid.parse().unwrap(), carriers);
        }
        ["requester", carriers] => publish(carriers, Serves::AnyUid),
        ["own-requester", uid, carriers] => {
            become_uid(uid.parse().unwrap());
            publish(carriers, Serves::Owner);
        }
        ["attack", name, ref rest @ ..] => attacks::play(name, rest),
        _ => panic!("no role {role:?}"),
    }
}

/// Becomes `uid` for good: all three of them, in all threads.
pub(crate) fn become_uid(uid: u32) {
    setgroups(&[]).unwrap();
    setresgid(Gid::from_raw(uid), Gid::from_raw(uid), Gid::from_raw(uid)).unwrap();
    setresuid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::from_raw(uid)).unwrap();
    assert_eq!(Uid::current().as_raw(), uid);
}

/// Ends when the test does, or tells it to.
pub(crate) fn until_told() {
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

pub(crate) fn next_order() -> String {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line).unwrap() == 0 {
        process::exit(0);
    }
    line.trim().to_owned()
}

fn transport(carriers: &str) -> claviger_callout::Transport {
    match carriers {
        "netlink" => only(claviger_callout::CarrierKind::Netlink),
        "unix" => only(claviger_callout::CarrierKind::Unix),
        _ => claviger_callout::Transport::Auto,
    }
}

fn respond(uid: u32, carriers: &str) {
    if Uid::current().as_raw() != uid {
        become_uid(uid);
    }
    let mut config = ResponderConfig::new([folder()]);
    config.transport = transport(carriers);
    let responder = Responder::start(config, Arc::new(Answers)).unwrap();
    say!("started");
    loop {
        match next_order().as_str() {
            "quit" => {
                responder.quit();
                say!("quit");
                return until_told();
            }
            "peers" => say!("peers {}", responder.peers().len()),
            event => responder.broadcast(event.as_bytes()),
        }
    }
}

struct Says;

impl Observer for Says {
    fn registered(&self, uid: u32, kind: claviger_callout::CarrierKind) {
        say!("registered {uid} {kind}");
    }
}

fn publish(carriers: &str, serves: Serves) {
    let mut config = RequesterConfig::new(folder(), "test/1");
    config.serves = serves;
    config.transport = transport(carriers);
    let _requester = Requester::start(config, Arc::new(Says)).unwrap();
    say!("published");
    until_told();
}

/// Answers as the request tells it to.
pub(crate) struct Answers;

static HELD: Mutex<Vec<Call>> = Mutex::new(Vec::new());

impl Service for Answers {
    fn call(&self, call: Call) {
        let text = String::from_utf8_lossy(&call.body).into_owned();
        let (what, rest) = text.split_once(' ').unwrap_or((&text, ""));
        match what {
            "echo" => call.reply(Zeroizing::new(rest.as_bytes().to_vec())),
            "pid" => call.reply(Zeroizing::new(process::id().to_string().into_bytes())),
            "drop" => drop(call),
            "panic" => panic!("as asked"),
            "die" => process::abort(),
            "last-words" => {
                call.reply(Zeroizing::new(rest.as_bytes().to_vec()));
                process::abort();
            }
            "touch" => {
                call.pending(Pending::Touch);
                call.reply(Zeroizing::new(b"touched".to_vec()));
            }
            "hold" => {
                call.on_cancel(|| say!("cancelled"));
                HELD.lock().unwrap().push(call);
                say!("held");
            }
            "release" => {
                for held in HELD.lock().unwrap().drain(..) {
                    held.reply(Zeroizing::new(b"released".to_vec()));
                }
                call.reply(Zeroizing::new(Vec::new()));
            }
            _ => panic!("no such request: {text:?}"),
        }
    }

    fn connected(&self, peer: &PeerInfo) {
        say!("connected {} {}", peer.carrier, peer.uid);
    }

    fn gone(&self, _: &PeerInfo) {
        say!("gone");
    }
}
