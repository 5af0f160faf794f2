//! The module protocol's octets, as `docs/protocol-module.md` promises them to other languages.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use claviger_pki::host::{ENVIRONMENT, GRACE};
use claviger_pki::key::{Kem, KeyType, PublicKey};
use claviger_pki::module::{
    Decapsulate, DecryptPkcs1V15, Generate, Key, Locator, ModuleError, PinState, Provenance, Token,
};
use claviger_pki::wire::{
    Answer, Call, FromModule, Incoming, Login, MESSAGE_MAX, Polled, Settings, ToModule, VERSION,
    WireError, receive, send,
};
use nix::unistd::{Pid, gettid};
use proptest::prelude::*;
use serde::Serialize;
use zeroize::Zeroizing;

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol-module.md");
    std::fs::read_to_string(path).unwrap()
}

fn octets(message: &impl Serialize) -> Vec<u8> {
    let mut frame = Vec::new();
    send(&mut frame, message).unwrap();
    frame
}

fn call(call: Call) -> ToModule {
    ToModule::Call {
        id: 7,
        time_ms: 30_000,
        call,
    }
}

fn answer(result: Result<Answer, ModuleError>) -> FromModule {
    FromModule::Answer { id: 7, result }
}

/// The public key of RFC 9180 appendix A.3.
fn public_key() -> PublicKey {
    let point = "04fe8c19ce0905191ebc298a9245792531f26f0cece2460639e8bc39cb7f706a82\
                 6a779b4cf969b8a0e539c7f62fb3d30ad6aa8f80e30f1d128aafd68a2ce72ea0";
    let point = data_encoding::HEXLOWER.decode(point.as_bytes()).unwrap();
    PublicKey::from_ec_point(KeyType::EcP256, &point).unwrap()
}

fn from_host() -> Vec<ToModule> {
    vec![
        ToModule::Hello {
            version: VERSION,
            settings: Settings::from([("tcti".into(), "device:/dev/tpmrm0".into())]),
        },
        call(Call::Tokens),
        call(Call::Keys {
            selector: "pkcs11:token=T".into(),
        }),
        call(Call::Generate(Generate {
            token: String::new(),
            key_type: Some(KeyType::EcP256),
            label: "L".into(),
            out: Some("/k.pem".into()),
            pin: Some(Zeroizing::new(b"1234".to_vec())),
        })),
        call(Call::Login(Login {
            locator: Locator("/k.pem".into()),
            pin: Zeroizing::new(b"1234".to_vec()),
        })),
        call(Call::Logout),
        call(Call::Decapsulate(Decapsulate {
            locator: Locator("/k.pem".into()),
            public_key: public_key(),
            kem: Kem::DhkemP256,
            encapsulation: vec![4, 0xaa, 0xbb],
        })),
        call(Call::DecryptPkcs1V15(DecryptPkcs1V15 {
            locator: Locator("/k.pem".into()),
            public_key: public_key(),
            ciphertext: vec![0xaa, 0xbb],
        })),
        ToModule::Cancel { id: 7 },
    ]
}

fn from_module() -> Vec<FromModule> {
    vec![
        FromModule::Refused(ModuleError::Unsupported("v2".into())),
        answer(Ok(Answer::Done)),
        answer(Ok(Answer::Tokens(vec![Token {
            label: "T".into(),
            uri: "pkcs11:token=T".into(),
            model: "M".into(),
            serial: "S".into(),
            pin_state: PinState::TriesLeft(3),
        }]))),
        answer(Ok(Answer::Keys(Vec::new()))),
        answer(Ok(Answer::Key(Key {
            locator: Locator("/k.pem".into()),
            public_key: public_key(),
            label: "L".into(),
            kems: vec![Kem::DhkemP256],
            provenance: Provenance::Software,
        }))),
        answer(Ok(Answer::Secret(Zeroizing::new(vec![0xcc; 32])))),
        answer(Err(ModuleError::PinWrong {
            token: "T".into(),
            state: PinState::FinalTry,
        })),
        answer(Err(ModuleError::NotDecryptable)),
        answer(Err(ModuleError::Backend {
            call: "C_Decrypt".into(),
            detail: "CKR_X".into(),
        })),
    ]
}

/// If this fails, other implementations break: raise the version, and bring the document up to date.
#[test]
fn the_document_shows_the_octets_that_are_sent() {
    let document = document();
    let shown: String = document.split_whitespace().collect();
    let mut frames: Vec<Vec<u8>> = from_host().iter().map(octets).collect();
    frames.extend(from_module().iter().map(octets));
    for frame in frames {
        let hex = data_encoding::HEXLOWER.encode(&frame);
        assert!(
            shown.contains(&hex),
            "not in docs/protocol-module.md:\n{hex}"
        );
    }
}

#[test]
fn the_document_lists_the_environment_that_modules_get() {
    let document = document();
    for name in ENVIRONMENT {
        assert!(document.contains(name), "{name}");
    }
}

#[test]
fn the_document_tells_the_grace_that_modules_get() {
    let document = document();
    let words: Vec<_> = document.split_whitespace().collect();
    let text = words.join(" ");
    let seconds = GRACE.as_secs();
    for told in [
        format!("the daemon's grace ({seconds} seconds)"),
        format!("has not answered {seconds} seconds later is killed"),
    ] {
        assert!(text.contains(&told), "{told}");
    }
}

#[test]
fn every_message_is_read_back() {
    for message in from_host() {
        let frame = octets(&message);
        let read: ToModule = receive(&frame[..]).unwrap();
        assert_eq!(octets(&read), frame);
    }
    for message in from_module() {
        let frame = octets(&message);
        let read: FromModule = receive(&frame[..]).unwrap();
        assert_eq!(octets(&read), frame);
    }
}

/// Gives so many bytes a read, however many are wanted.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.1.min(out.len());
        self.0.read(&mut out[..length])
    }
}

#[test]
fn messages_that_arrive_together_or_in_pieces_are_read_one_by_one() {
    let mut messages = from_host();
    // Larger than what is read at once.
    let selector = "x".repeat(100_000);
    messages.insert(1, call(Call::Keys { selector }));
    let frames: Vec<_> = messages.iter().map(octets).collect();
    let stream = frames.concat();
    for piece in [1, 7, 500, stream.len()] {
        let mut incoming = Incoming::new(Pieces(&stream, piece));
        for frame in &frames {
            let read: ToModule = receive(&mut incoming).unwrap();
            assert_eq!(octets(&read), *frame);
        }
        let end = receive::<ToModule>(&mut incoming);
        assert!(matches!(end, Err(WireError::End)), "{piece}");
    }
}

/// How often a thread of this process went to sleep, once it sleeps.
fn sleeps(tid: Pid) -> u64 {
    let status = || fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    while !status().contains("\nState:\tS") {
        thread::yield_now();
    }
    let status = status();
    let line = status
        .lines()
        .find(|line| line.starts_with("voluntary_ctxt_switches"));
    let (_, count) = line.unwrap().split_once('\t').unwrap();
    count.parse().unwrap()
}

#[test]
fn a_reader_is_not_woken_when_the_other_end_takes_what_was_sent_to_it() {
    const MESSAGES: u64 = 50;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut outgoing = ours.try_clone().unwrap();
    let (say, tid) = mpsc::channel();
    let reader = thread::spawn(move || {
        say.send(gettid()).unwrap();
        let mut octet = [0];
        Polled(ours).read_exact(&mut octet).map(|()| octet)
    });
    let tid = tid.recv().unwrap();
    let before = sleeps(tid);
    for _ in 0..MESSAGES {
        outgoing.write_all(&[1; 100]).unwrap();
        theirs.read_exact(&mut [0; 100]).unwrap();
        sleeps(tid);
    }
    assert!(sleeps(tid) < before + MESSAGES / 2);
    theirs.write_all(&[7]).unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), [7]);
}

#[test]
fn a_reader_sees_the_end() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert_eq!(Polled(ours).read(&mut [0]).unwrap(), 0);
}

#[test]
fn every_truncation_is_an_error_and_only_nothing_at_all_is_the_end() {
    for message in from_host() {
        let frame = octets(&message);
        assert!(matches!(receive::<ToModule>(&[][..]), Err(WireError::End)));
        for length in 1..frame.len() {
            let cut = receive::<ToModule>(&frame[..length]);
            assert!(matches!(cut, Err(WireError::Io(_))), "{length}");
        }
    }
}

#[test]
fn bytes_after_a_message_are_malformed() {
    let mut frame = octets(&ToModule::Cancel { id: 7 });
    frame[0] += 1;
    frame.push(0);
    assert!(matches!(
        receive::<ToModule>(&frame[..]),
        Err(WireError::Malformed)
    ));
}

#[test]
fn a_message_over_the_limit_is_refused_at_both_ends() {
    let selector = "x".repeat(MESSAGE_MAX);
    let sent = send(Vec::new(), &call(Call::Keys { selector }));
    assert!(matches!(sent, Err(WireError::TooLarge(_))));
    let prefix = u32::try_from(MESSAGE_MAX + 1).unwrap().to_le_bytes();
    let received = receive::<ToModule>(&prefix[..]);
    assert!(matches!(received, Err(WireError::TooLarge(size)) if size == MESSAGE_MAX + 1));
}

#[test]
fn no_pin_and_no_secret_is_shown_by_debug() {
    for message in from_host() {
        let shown = format!("{message:?}");
        assert!(
            !shown.contains("1234") && !shown.contains("[49, 50"),
            "{shown}"
        );
    }
    for message in from_module() {
        let shown = format!("{message:?}");
        assert!(!shown.contains("204"), "{shown}");
    }
}

proptest! {
    #[test]
    fn no_input_panics_or_takes_long(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let started = Instant::now();
        let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        frame.extend(&body);
        let _ = receive::<ToModule>(&frame[..]);
        let _ = receive::<FromModule>(&frame[..]);
        prop_assert!(started.elapsed().as_secs() < 5);
    }
}
