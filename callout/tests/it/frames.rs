//! What a responder of the user's own may send: in any order, and not what does not fit.

use std::thread;

use claviger_callout::CarrierKind;
use claviger_callout::frame::{FRAME_MAX, Flags, Kind};
use claviger_callout::session::Subject;
use claviger_hw_tests::wait_until;

use crate::harness::{News, PATIENCE, entry_text, folder, requester, submit};
use crate::raw::{RawResponder, Socket, Target};

crate::over_both_carriers! {
    replies_that_do_not_match_are_dropped
    malformed_frames_are_dropped_and_the_connection_lives
    replies_out_of_order_are_taken
}

fn replies_that_do_not_match_are_dropped(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let target = Target::parse(&folder(), &entry_text(&folder()));
    let mut raw = RawResponder::greet(&target, kind, 0);
    assert!(requester.wait_registered(0, PATIENCE));
    let (_, outcome) = submit(&requester, 0, "question", PATIENCE);
    let (index, sequence) = raw.request();

    raw.send(Kind::Response, index + 1, sequence, b"wrong index");
    raw.send(Kind::Response, u32::MAX, sequence, b"wrong index");
    raw.send(Kind::Response, index, sequence + 1, b"wrong sequence");
    raw.send(Kind::Response, index, 0, b"wrong sequence");
    let subject = Subject {
        kind: Kind::Response,
        flags: Flags::NONE,
        index,
        sequence,
    };
    let elsewhere = raw.socket.port() + 1;
    let wrong_port = raw.sealer.seal(subject, elsewhere, b"wrong port").unwrap();
    raw.socket.send(&wrong_port).unwrap();
    // The right reply, from a socket that is not the one the request went to.
    let stray = raw.seal(Kind::Response, index, sequence, b"wrong socket");
    let mut stranger = Socket::to(&target, kind).unwrap();
    stranger.send(&stray).unwrap();
    if kind == CarrierKind::Netlink {
        // The open port took and dropped it; the connection's own port is closed to strangers.
        let refused = stranger.send_to(raw.peer_port(), &stray).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let reply = raw.seal(Kind::Response, index, sequence, b"right");
    raw.socket.send(&reply).unwrap();
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"right");

    // An event heard twice would be an event replayed.
    let event = raw.seal(Kind::Event, 0, 0, b"once");
    raw.socket.send(&event).unwrap();
    raw.socket.send(&event).unwrap();
    raw.send(Kind::Event, 0, 0, b"then");
    heard.wait(&News::Event(0, b"then".to_vec()), 1);
    let once = News::Event(0, b"once".to_vec());
    assert_eq!(heard.all().iter().filter(|news| **news == once).count(), 1);

    // Replayed while a request waits in the very same context, and after it.
    let (_, outcome) = submit(&requester, 0, "question", PATIENCE);
    let (index, sequence) = raw.request();
    raw.socket.send(&reply).unwrap();
    raw.send(Kind::Response, index, sequence, b"fresh");
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"fresh");
    raw.socket.send(&reply).unwrap();
    raw.send(Kind::Response, index, sequence, b"twice");
    let (_, outcome) = submit(&requester, 0, "question", PATIENCE);
    let (index, sequence) = raw.request();
    raw.send(Kind::Response, index, sequence, b"last");
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"last");
}

fn malformed_frames_are_dropped_and_the_connection_lives(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let target = Target::parse(&folder(), &entry_text(&folder()));
    let mut raw = RawResponder::greet(&target, kind, 0);
    assert!(requester.wait_registered(0, PATIENCE));
    let (_, outcome) = submit(&requester, 0, "question", PATIENCE);
    let (index, sequence) = raw.request();
    let reply = raw.seal(Kind::Response, index, sequence, b"answer");
    for len in 1..reply.len() {
        raw.socket
            .send(&reply[..len])
            .unwrap_or_else(|_| thread::yield_now());
        // Cut short, and saying so in the header.
        let mut honest = reply[..len].to_vec();
        if let Some(length) = honest.first_chunk_mut::<4>() {
            *length = (len as u32).to_ne_bytes();
        }
        raw.socket
            .send(&honest)
            .unwrap_or_else(|_| thread::yield_now());
    }
    let mut oversize = vec![0; FRAME_MAX + 4096];
    oversize[..reply.len()].copy_from_slice(&reply);
    let length = (oversize.len() as u32).to_ne_bytes();
    oversize[..4].copy_from_slice(&length);
    wait_until("the frame is taken", || raw.socket.send(&oversize).is_ok());
    wait_until("the frame is taken", || raw.socket.send(&reply).is_ok());
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"answer");
}

fn replies_out_of_order_are_taken(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let target = Target::parse(&folder(), &entry_text(&folder()));
    let mut raw = RawResponder::greet(&target, kind, 0);
    assert!(requester.wait_registered(0, PATIENCE));
    let outcomes: Vec<_> = (0..20)
        .map(|_| submit(&requester, 0, "question", PATIENCE).1)
        .collect();
    let replies: Vec<_> = (0..20u8)
        .map(|number| {
            let (index, sequence) = raw.request();
            raw.seal(Kind::Response, index, sequence, &[number])
        })
        .collect();
    replies
        .iter()
        .rev()
        .for_each(|reply| raw.socket.send(reply).unwrap());
    for (number, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), [number as u8]);
    }
}
