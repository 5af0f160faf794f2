//! Holds `docs/protocol.md` to the code: the worked examples are made here, and the tables checked.
//!
//! After a change of the bodies, `CLAVIGER_WRITE_EXAMPLES=1 cargo test -p claviger-protocol document`
//! writes the examples anew.

use std::fmt::{Debug, Write};
use std::path::PathBuf;

use claviger_vault::ids::{Epoch, Scope, VolumeId};
use nix::errno::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::{
    Answers, Command, FromDaemon, GenerateKey, KeyInfo, KeyRef, LockTarget, Locked, Needed,
    NewRecipient, OtherKeys, PasswordKey, Prompt, PromptKind, PromptPlace, RecipientInfo, Recovery,
    Reply, Status, ToDaemon, UnlockEcryptfs, UnlockWith, VERSION,
};
use crate::keys::{
    EcryptfsReply, EcryptfsRequest, FreshFek, FreshFile, KeyEvent, KeyReply, KeyRequest,
};
use crate::{Failure, Secret, encode};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
const START: &str =
    "<!-- generated: CLAVIGER_WRITE_EXAMPLES=1 cargo test -p claviger-protocol document -->\n";
const END: &str = "<!-- end -->\n";

const VOLUME: VolumeId = VolumeId([0x11; 16]);

fn document() -> String {
    std::fs::read_to_string(DOCUMENT).unwrap()
}

fn secret(byte: u8) -> Secret {
    Secret::new(vec![byte; 32])
}

fn folder() -> PathBuf {
    "/home/ann/Private".into()
}

fn requests() -> Vec<KeyRequest> {
    let lock = KeyEvent::Lock { volume: VOLUME };
    vec![
        KeyRequest::Names {
            volume: VOLUME,
            lower_root: b"/home/ann/Private".to_vec(),
        },
        KeyRequest::UnwrapFek {
            volume: VOLUME,
            header: vec![0xaa; 3],
            lower_path: b"x/y".to_vec(),
            pid: 4711,
        },
        KeyRequest::Fresh {
            volume: VOLUME,
            count: 64,
        },
        KeyRequest::SealStream {
            recipients: vec![KeyRef::Id("card".into())],
            pid: 4711,
        },
        KeyRequest::UnsealStream {
            header: vec![0xaa; 3],
            pid: 4711,
        },
        KeyRequest::Acknowledge {
            event: lock,
            lost: vec![b"x/y".to_vec()],
        },
        KeyRequest::Ecryptfs {
            folder: VOLUME,
            request: ecryptfs_requests().swap_remove(0),
        },
    ]
}

fn ecryptfs_requests() -> Vec<EcryptfsRequest> {
    vec![
        EcryptfsRequest::Names {
            fnek: Some([0x9e; 8]),
        },
        EcryptfsRequest::Fek {
            packets: vec![0x8c; 3],
            lower_path: b"x/y".to_vec(),
            pid: 4711,
        },
        EcryptfsRequest::Fresh {
            recipients: vec![[0xf2; 8]],
            key_len: 16,
            count: 64,
        },
    ]
}

fn ecryptfs_replies() -> Vec<EcryptfsReply> {
    vec![
        EcryptfsReply::Names(Some(secret(0x9e))),
        EcryptfsReply::Fek(secret(0xfe)),
        EcryptfsReply::Fresh(vec![FreshFek {
            packets: vec![0x8c; 3],
            fek: secret(0xfe),
        }]),
    ]
}

fn replies() -> Vec<KeyReply> {
    vec![
        KeyReply::Failed(Failure::Locked),
        KeyReply::Names {
            current: Epoch(2),
            minimum: Epoch(1),
            scope: Scope::Volume,
            keys: vec![(Epoch(1), secret(1)), (Epoch(2), secret(2))],
        },
        KeyReply::Feks {
            feks: vec![secret(0xfe)],
            newest: 0,
            epoch: Epoch(2),
        },
        KeyReply::Fresh(vec![FreshFile {
            epoch: Epoch(2),
            header: vec![0xaa; 3],
            fek: secret(0xfe),
        }]),
        KeyReply::Stream {
            header: vec![0xaa; 3],
            key: secret(0xcc),
        },
        KeyReply::Done,
        KeyReply::Ecryptfs(ecryptfs_replies().swap_remove(0)),
    ]
}

fn events() -> Vec<KeyEvent> {
    vec![
        KeyEvent::Lock { volume: VOLUME },
        KeyEvent::Unlocked { volume: VOLUME },
        KeyEvent::NewEpoch {
            volume: VOLUME,
            epoch: Epoch(300),
        },
    ]
}

fn commands() -> Vec<Command> {
    let (key, dir) = (|| KeyRef::Id("card".into()), folder);
    vec![
        Command::Init {
            dir: dir(),
            scope: Scope::File,
            recipients: vec![key()],
            passphrase: None,
            recovery: Recovery::Make,
        },
        unlock(),
        Command::Lock(LockTarget::All),
        Command::Status,
        Command::TokenList,
        Command::KeyGenerate(GenerateKey {
            module: "tpm".into(),
            key_type: None,
            token: None,
            label: Some("laptop".into()),
            out: None,
            pin: Some(Secret::new(b"1234".to_vec())),
        }),
        Command::KeyAdd {
            key: key(),
            label: None,
        },
        Command::KeyList,
        Command::KeyRemove { key: key() },
        Command::RecipientList { dir: dir() },
        Command::RecipientAdd {
            dir: dir(),
            recipient: NewRecipient::Recovery,
        },
        Command::RecipientRemove {
            dir: dir(),
            recipient: "card".into(),
        },
        Command::Attach,
        Command::EcryptfsAddKey {
            key: KeyRef::Id("card".into()),
        },
        Command::EcryptfsUnlock(UnlockEcryptfs {
            dir: dir(),
            passwords: vec![PasswordKey {
                salt: *b"99887766",
                key: Secret::new(vec![0x9e; 64]),
            }],
            keys: vec![key()],
            sigs: vec![[0xf2; 8]],
            fnek: Some([0x9e; 8]),
            needed: Needed::All,
            others: OtherKeys::InKeyring,
        }),
    ]
}

fn unlock() -> Command {
    Command::Unlock {
        dir: folder(),
        with: UnlockWith::AnyKey,
    }
}

fn command() -> ToDaemon {
    ToDaemon::Command {
        answers: Answers::Terminal,
        version: VERSION,
        prompt_place: PromptPlace::default(),
        command: unlock(),
    }
}

fn answer() -> ToDaemon {
    ToDaemon::Answer(Some(Secret::new(b"1234".to_vec())))
}

fn recipient() -> RecipientInfo {
    RecipientInfo {
        key_id: "ab".repeat(32),
        kind: "token".into(),
        label: "card".into(),
        key_type: "ec-p256".into(),
    }
}

fn from_daemon() -> Vec<FromDaemon> {
    vec![
        FromDaemon::Prompt(Prompt {
            kind: PromptKind::Pin,
            text: "PIN of card".into(),
        }),
        FromDaemon::Notice("touch the token".into()),
        FromDaemon::Done(Ok(unlocked())),
        FromDaemon::Attached,
        FromDaemon::Withdrawn,
    ]
}

fn unlocked() -> Reply {
    Reply::Unlocked {
        volume: VOLUME,
        by: Some(recipient()),
        changes: Vec::new(),
    }
}

fn control_replies() -> Vec<Reply> {
    let key = || KeyInfo {
        key_id: "ab".repeat(32),
        module: "tpm".into(),
        label: "laptop".into(),
        key_type: "ec-p256".into(),
        locator: "/k.pem".into(),
        in_keyring: true,
        provenance: "in-token".into(),
    };
    vec![
        Reply::Done,
        Reply::Initialised {
            volume: VOLUME,
            recovery: None,
            recipients: vec![recipient()],
        },
        unlocked(),
        Reply::Locked(Locked {
            volumes: vec![VOLUME],
            lost: Vec::new(),
            silent: Vec::new(),
        }),
        Reply::Status(Status {
            daemon_pid: 4711,
            auth_toks: "keyring".into(),
            volumes: Vec::new(),
            modules: Vec::new(),
        }),
        Reply::Tokens(Vec::new()),
        Reply::Key(key()),
        Reply::Keys(vec![key()]),
        Reply::Recipients {
            epoch: Epoch(2),
            recipients: vec![recipient()],
            recovery: None,
        },
        Reply::EcryptfsKey {
            key: key(),
            sig: "fd591e1468c3ea8a".into(),
        },
        Reply::EcryptfsUnlocked {
            folder: VOLUME,
            by: vec![recipient()],
            sigs: vec![[0xf2; 8]],
        },
    ]
}

fn failures() -> Vec<Failure> {
    let text = || "x".to_owned();
    vec![
        Failure::Internal(text()),
        Failure::Usage(text()),
        Failure::NotFound(text()),
        Failure::NotARecipient(text()),
        Failure::TokenAbsent { token: text() },
        Failure::PinWrong {
            token: "card".into(),
            tries_left: Some(2),
        },
        Failure::PinBlocked { token: text() },
        Failure::NobodyToAsk { what: text() },
        Failure::Declined,
        Failure::TimedOut { what: text() },
        Failure::Cancelled,
        Failure::Locked,
        Failure::NoDaemon { uid: 1000 },
        Failure::BadMountpoint(text()),
        Failure::Permission(text()),
        Failure::Integrity(text()),
        Failure::Identity(text()),
        Failure::Policy(text()),
        Failure::TpmLockout(text()),
        Failure::Unsupported(text()),
        Failure::Busy(text()),
        Failure::Module {
            module: text(),
            what: text(),
        },
    ]
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
