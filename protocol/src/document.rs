//! Holds `docs/protocol.md` to the code: the worked examples are made here, and the tables checked.
//!
//! After a change of the bodies, `CLAVIGER_WRITE_EXAMPLES=1 cargo test -p claviger-protocol document`
//! writes the examples anew.

use std::fmt::{Debug, Write};

use nix::errno::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::{FromDaemon, ToDaemon};
use crate::encode;

mod messages;

use messages::{
    answer, command, commands, control_replies, ecryptfs_replies, ecryptfs_requests, events,
    failures, from_daemon, replies, requests,
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
const START: &str =
    "<!-- generated: CLAVIGER_WRITE_EXAMPLES=1 cargo test -p claviger-protocol document -->\n";
const END: &str = "<!-- end -->\n";

fn document() -> String {
    std::fs::read_to_string(DOCUMENT).unwrap()
}

fn examples() -> String {
    let mut text = String::new();
    let mut example = |what: &str, octets: &[u8]| {
        writeln!(text, "{what}:\n").unwrap();
        for line in octets.chunks(32) {
            let line: Vec<_> = line.iter().map(|octet| format!("{octet:02x}")).collect();
            writeln!(text, "    {}", line.join(" ")).unwrap();
        }
        writeln!(text).unwrap();
    };
    let bodies = [
        (&requests()[0], "REQUEST Names, of `/home/ann/Private`"),
        (
            &requests()[1],
            "REQUEST UnwrapFek, head `aaaaaa` (cut short), lower path `x/y`, pid 4711",
        ),
        (&requests()[2], "REQUEST Fresh, 64"),
        (&requests()[3], "REQUEST SealStream to `card`, pid 4711"),
        (
            &requests()[4],
            "REQUEST UnsealStream, header `aaaaaa` (cut short), pid 4711",
        ),
        (
            &requests()[5],
            "REQUEST Acknowledge of Lock, `x/y` lost its last writes",
        ),
        (
            &requests()[6],
            "REQUEST Ecryptfs Names, names encrypted by `9e9e9e9e9e9e9e9e`",
        ),
    ];
    for (body, what) in bodies {
        example(what, &encode(body).unwrap());
    }
    let bodies = [
        (&replies()[0], "RESPONSE Failed: Locked"),
        (
            &replies()[1],
            "RESPONSE Names, current epoch 2, minimum 1, two keys",
        ),
        (&replies()[2], "RESPONSE Feks, one, sealed under epoch 2"),
        (
            &replies()[3],
            "RESPONSE Fresh, one, head `aaaaaa` (cut short)",
        ),
        (
            &replies()[4],
            "RESPONSE Stream, header `aaaaaa` (cut short)",
        ),
        (&replies()[5], "RESPONSE Done"),
        (&replies()[6], "RESPONSE Ecryptfs Names"),
    ];
    for (body, what) in bodies {
        example(what, &encode(body).unwrap());
    }
    let what = "EVENT NewEpoch, 300";
    example(what, &encode(&events()[2]).unwrap());
    let conversation = [
        (
            framed(&command()),
            "Control: Command, no place for prompts, Unlock `/home/ann/Private` with any key",
        ),
        (
            framed(&from_daemon()[0]),
            "Control: Prompt for a PIN, `PIN of card`",
        ),
        (framed(&answer()), "Control: Answer, `1234`"),
        (
            framed(&from_daemon()[2]),
            "Control: Done, Unlocked by the token key `abab…` labelled `card`, nothing changed",
        ),
    ];
    for (octets, what) in conversation {
        example(what, &octets);
    }
    let refused = FromDaemon::Done(Err(failures().swap_remove(5)));
    let what = "Control: Done, PinWrong, `card`, 2 tries left";
    example(what, &framed(&refused));
    text
}

/// As [`crate::control::Conversation::send`] puts it on the socket.
fn framed(message: &impl Serialize) -> Vec<u8> {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut conversation = crate::control::Conversation::new(ours).unwrap();
    conversation.send(message).unwrap();
    drop(conversation);
    let mut octets = Vec::new();
    theirs.read_to_end(&mut octets).unwrap();
    octets
}

#[test]
fn the_examples_in_the_protocol_s_description_are_what_the_code_sends() {
    let written = document();
    let (before, rest) = written.split_once(START).expect("the place for examples");
    let (_, after) = rest.split_once(END).expect("its end");
    let expected = format!("{before}{START}\n{}{END}{after}", examples());
    if std::env::var_os("CLAVIGER_WRITE_EXAMPLES").is_some() {
        std::fs::write(DOCUMENT, &expected).unwrap();
        return;
    }
    assert_eq!(written, expected);
}

#[test]
fn the_tables_in_the_protocol_s_description_number_every_message() {
    numbered(&requests());
    numbered(&replies());
    numbered(&ecryptfs_requests());
    numbered(&ecryptfs_replies());
    numbered(&events());
    numbered(&commands());
    numbered(&[command(), answer(), ToDaemon::Stop, ToDaemon::Nobody]);
    numbered(&from_daemon());
    numbered(&control_replies());
    numbered(&failures());
}

/// Every message of the type is among `all`, and has a row that begins with its number and name.
fn numbered<T: Serialize + DeserializeOwned + Debug>(all: &[T]) {
    let document = document();
    for (number, message) in all.iter().enumerate() {
        assert_eq!(usize::from(encode(message).unwrap()[0]), number);
        let shown = format!("{message:?}");
        let name = shown.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        let row = format!("\n| {number} | {name} |");
        assert!(document.contains(&row), "docs/protocol.md lacks {row:?}");
    }
    // A number that is in use has fields that are missing here, or none.
    let next = [u8::try_from(all.len()).unwrap()];
    let unknown = postcard::from_bytes::<T>(&next).unwrap_err();
    assert_eq!(unknown, postcard::Error::SerdeDeCustom, "one is missing");
}

#[test]
fn the_table_of_failures_gives_each_its_errno_and_exit_code() {
    let document = document();
    for failure in failures() {
        let shown = format!("{failure:?}");
        let name = shown.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        let row = document
            .lines()
            .find(|line| line.contains(&format!("| {name} |")) && line.contains(" | E"))
            .unwrap();
        let errno = Errno::from_raw(failure.errno());
        let end = format!("| {errno:?} | {} |", failure.exit_code() as u8);
        assert!(row.ends_with(&end), "{row} does not end with {end}");
    }
}
