//! What comes over a carrier, from whoever can send there.
//!
//! What depends on keys that a handshake draws cannot be in a corpus: there the input is laid over a
//! genuine message, octet for octet, by exclusive or. Zeros leave it as it is.

use claviger_callout::frame::{Flags, Frame, Kind};
use claviger_callout::fuzzing;
use claviger_callout::session::{self, Greeting, Opener, Sealer, Subject};

use crate::Reached;
use crate::fixed::ENDS;

/// One datagram.
pub fn frame(data: &[u8]) -> Reached {
    let frame = Frame::parse(data);
    if let Ok(frame) = &frame {
        assert_eq!(frame.header.datagram(frame.body), data);
    }
    frame.is_ok().into()
}

/// The first message of a handshake, as a requester gets it.
pub fn greeting(data: &[u8]) -> Reached {
    session::answer(&ENDS, data).is_ok().into()
}

/// The second one, as a responder gets it: laid over a genuine one.
pub fn answer(data: &[u8]) -> Reached {
    let (mut greeting, answer) = greeted();
    greeting.hear(&laid_over(answer, data)).is_ok().into()
}

/// A sealed frame: laid over a genuine one.
pub fn session(data: &[u8]) -> Reached {
    let (mut sealer, mut opener) = connected();
    let subject = Subject {
        kind: Kind::Request,
        flags: Flags::NONE,
        index: 1,
        sequence: 2,
    };
    let frame = sealer.seal(subject, 0, b"body").expect("it is short");
    let frame = laid_over(frame, data);
    let Ok(frame) = Frame::parse(&frame) else {
        return Reached::Refused;
    };
    let opened = opener.open(&frame);
    if let Ok((subject, body)) = &opened {
        assert_eq!((subject.sequence, body.as_slice()), (2, &b"body"[..]));
        assert!(opener.open(&frame).is_err(), "a frame opens once");
    }
    opened.is_ok().into()
}

/// What a requester publishes of itself.
pub fn rendezvous(data: &[u8]) -> Reached {
    let text = str::from_utf8(data);
    text.is_ok_and(fuzzing::rendezvous_entry).into()
}

fn greeted() -> (Greeting, Vec<u8>) {
    let (greeting, helo) = Greeting::start(&ENDS).expect("random bytes are there");
    let (answer, _, _) = session::answer(&ENDS, &helo).expect("it was made for these ends");
    (greeting, answer)
}

fn connected() -> (Sealer, Opener) {
    let (mut greeting, helo) = Greeting::start(&ENDS).expect("random bytes are there");
    let (answer, sealer, _) = session::answer(&ENDS, &helo).expect("it was made for these ends");
    greeting.hear(&answer).expect("it answers this greeting");
    let (_, opener) = greeting.finish().expect("it was answered");
    (sealer, opener)
}

fn laid_over(mut genuine: Vec<u8>, data: &[u8]) -> Vec<u8> {
    genuine.resize(genuine.len().max(data.len()), 0);
    for (octet, mask) in genuine.iter_mut().zip(data) {
        *octet ^= mask;
    }
    genuine
}
