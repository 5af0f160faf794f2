//! Netlink ports: anybody may send to one, and a dead process's can be bound again.

use std::fs;

use claviger_callout::frame::{Flags, Frame, Kind};
use claviger_callout::session::{self, Ends, Subject};
use claviger_callout::{CallError, CarrierKind, Transport};

use super::{IN_VAIN, attack, target};
use crate::harness::{
    Child, News, PATIENCE, ask, ask_within, body, entry_text, folder, registered, requester,
    requester_with, submit, user,
};
use crate::raw::{RawResponder, Socket, Target, clear};
use crate::roles::{next_order, say, until_told};

pub(super) fn another_uid_that_floods_the_netlink_port_drives_nobody_further_than_the_unix_socket()
{
    let (requester, _) = requester_with(CarrierKind::Unix, |config| {
        config.transport = Transport::Auto
    });
    let flooder = attack("flood", "netlink");
    flooder.expect("flooding");
    // Nobody takes what is in the port now: netlink is out of the question.
    let child = Child::play(&format!("responder {} auto", user()));
    child.expect("connected");
    assert!(requester.wait_registered(user(), PATIENCE));
    assert_eq!(
        ask(&requester, user(), "echo through"),
        Ok("through".to_owned())
    );
}

pub(super) fn another_uid_on_a_dead_requesters_port_is_not_taken_for_it() {
    let kind = CarrierKind::Netlink;
    let mut dead = Child::play("requester netlink");
    dead.expect("published");
    let entry = entry_text(&folder());
    dead.kill();
    fs::write("/run/entry.toml", entry).unwrap();
    let impostor = attack("impersonate", "netlink /run/entry.toml");
    impostor.expect("bound");
    let mut child = Child::play(&format!("responder {} {kind}", user()));
    impostor.expect("answered");
    let (requester, _) = requester(kind);
    assert!(requester.wait_registered(user(), PATIENCE));
    // The requester may know it earlier than the responder says it.
    child.expect("connected");
    child.tell("peers");
    assert_eq!(child.expect("peers"), "1", "the true requester only");
    let said = child.said();
    assert!(
        !said.iter().any(|said| said.starts_with("connected")),
        "{said:?}"
    );
}

/// Answers HELO just as the dead requester would have, but for the uid.
pub(super) fn impersonate_requester(entry: &str) {
    let target = Target::parse(&folder(), &fs::read_to_string(entry).unwrap());
    let mut socket = Socket::netlink(target.netlink.unwrap(), 0).unwrap();
    say!("bound");
    let own = socket.port();
    // A responder gives up a HELO that is not answered in time, and greets again.
    let mut sealer = loop {
        let helo = socket.receive();
        let ends = Ends {
            responder: helo.uid,
            requester: 0,
            instance: target.instance,
        };
        let frame = Frame::parse(&helo.bytes).unwrap();
        let (answer, sealer, _) = session::answer(&ends, frame.body).unwrap();
        let answer = clear(Kind::Helo, Flags::ANSWER, 0, own, &answer);
        if socket.send_to(helo.port, &answer).is_ok() {
            break sealer;
        }
    };
    let request = Subject {
        kind: Kind::Request,
        flags: Flags::NONE,
        index: 0,
        sequence: 1,
    };
    let _ = socket.send(&sealer.seal(request, own, b"die").unwrap());
    say!("answered");
    until_told();
}

pub(super) fn another_uid_that_takes_over_a_responders_port_reads_ciphertext_and_answers_nothing() {
    let kind = CarrierKind::Netlink;
    let (requester, heard) = requester_with(kind, |config| config.limits.successor_wait = PATIENCE);
    // A responder that lets go of its port without dying, or the requester would know at once.
    let mut victim = Child::play("attack victim netlink");
    heard.wait(&News::Registered(user(), kind), 1);
    let (_, queued) = submit(&requester, user(), "echo secret one", PATIENCE);
    victim.tell("let go");
    let port = victim.expect("free");
    let thief = attack("take-over", &format!("netlink {port}"));
    thief.expect("bound");
    let (_, stolen) = submit(&requester, user(), "echo secret two", PATIENCE);
    thief.expect("ciphertext");
    let unanswered = ask_within(&requester, user(), "echo x", IN_VAIN);
    assert_eq!(unanswered, Err(CallError::Deadline));
    // What the dead had queued and what the thief was sent, the successor answers.
    let _child = registered(&requester, user(), kind);
    assert_eq!(queued.recv().unwrap().unwrap().as_slice(), b"secret one");
    assert_eq!(stolen.recv().unwrap().unwrap().as_slice(), b"secret two");
    assert!(
        heard
            .all()
            .iter()
            .all(|news| !matches!(news, News::Event(..)))
    );
}

/// Registers, has a request in its queue, and closes its socket.
pub(super) fn leave_a_port() {
    let raw = RawResponder::greet(&target(), CarrierKind::Netlink, user());
    let port = raw.socket.port();
    assert_eq!(next_order(), "let go");
    drop(raw);
    say!("free {port}");
    until_told();
}

pub(super) fn take_over(port: u32) {
    let mut socket = Socket::netlink(port, 0).unwrap();
    say!("bound");
    let stolen = socket.receive();
    let plain = body("secret");
    assert!(
        !stolen
            .bytes
            .windows(plain.len())
            .any(|window| window == plain.as_slice())
    );
    let frame = Frame::parse(&stolen.bytes).unwrap();
    assert_eq!(frame.header.kind, Kind::Request);
    // The kernel lets this through: only the uid, and the keys, are wrong.
    let sequence = frame.header.sequence;
    for flags in [Flags::NONE, Flags::SEALED] {
        for kind in Kind::ALL {
            let forged = clear(kind, flags, sequence, port, frame.body);
            socket.send_to(stolen.port, &forged).unwrap();
        }
    }
    say!("ciphertext");
    until_told();
}
