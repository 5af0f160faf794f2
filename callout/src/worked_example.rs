//! The worked example of `docs/protocol-callout.md`, made by the code it describes.

use std::fmt::Write;

use crate::Instance;
use crate::frame::{Flags, Header, Kind};
use crate::handshake::Ends;
use crate::session::{Sealer, Subject, halves};

const DOCUMENT: &str = include_str!("../../docs/protocol-callout.md");

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        text.push_str("    ");
        line.iter()
            .for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

fn sealed(sealer: &mut Sealer, kind: Kind, index: u32, sequence: u32, body: &[u8]) -> String {
    let subject = Subject {
        kind,
        flags: Flags::NONE,
        index,
        sequence,
    };
    hex(&sealer.seal(subject, 0, body).unwrap())
}

fn example() -> String {
    let instance: [u8; 16] = core::array::from_fn(|place| place as u8);
    let ends = Ends {
        responder: 1000,
        requester: 0,
        instance: Instance::from_bytes(instance),
    };
    let prologue = ends.prologue();
    let helo = |flags, message: &[u8]| {
        let body = [&[1, 0], message].concat();
        hex(&Header {
            kind: Kind::Helo,
            flags,
            sequence: 0,
            port: 0,
        }
        .datagram(&body))
    };
    let (from_responder, from_requester) = ([0x11; 32], [0x22; 32]);
    let noise = |key| {
        ends.noise(&prologue)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(key)
    };
    let mut responder = noise(&from_responder).build_initiator().unwrap();
    let mut requester = noise(&from_requester).build_responder().unwrap();
    let mut message = [0; 64];

    let mut text = format!("Prologue:\n\n{}", hex(&prologue));
    let len = responder.write_message(&[], &mut message).unwrap();
    requester.read_message(&message[..len], &mut []).unwrap();
    write!(text, "\n1. HELO:\n\n{}", helo(Flags::NONE, &message[..len])).unwrap();
    let len = requester.write_message(&[], &mut message).unwrap();
    responder.read_message(&message[..len], &mut []).unwrap();
    write!(
        text,
        "\n2. HELO, ANSWER:\n\n{}",
        helo(Flags::ANSWER, &message[..len])
    )
    .unwrap();

    let (mut responder, _) = halves(responder.into_stateless_transport_mode().unwrap());
    let (mut requester, _) = halves(requester.into_stateless_transport_mode().unwrap());
    let confirmation = sealed(&mut responder, Kind::Helo, 0, 0, &[]);
    write!(text, "\n3. HELO, SEALED, nonce 0:\n\n{confirmation}").unwrap();
    let request = sealed(&mut requester, Kind::Request, 5, 9, b"hello");
    write!(
        text,
        "\nREQUEST, index 5, sequence 9, body `hello`, nonce 0:\n\n{request}"
    )
    .unwrap();
    let response = sealed(&mut responder, Kind::Response, 5, 9, b"HELLO");
    write!(
        text,
        "\nRESPONSE to it, body `HELLO`, nonce 1:\n\n{response}"
    )
    .unwrap();
    text
}

#[cfg(target_endian = "little")]
#[test]
fn the_document_shows_what_the_code_sends() {
    let example = example();
    assert!(
        DOCUMENT.contains(&example),
        "docs/protocol-callout.md should contain:\n{example}"
    );
}
