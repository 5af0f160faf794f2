//! One message of each number, in their order.

use std::path::PathBuf;

use claviger_vault::ids::{Epoch, Scope, VolumeId};

use crate::control::{
    Answers, Command, FromDaemon, GenerateKey, KeyInfo, KeyRef, LockTarget, Locked, Needed,
    NewRecipient, OtherKeys, PasswordKey, Prompt, PromptKind, PromptPlace, RecipientInfo, Recovery,
    Reply, Status, ToDaemon, UnlockEcryptfs, UnlockWith, VERSION,
};
use crate::keys::{
    EcryptfsReply, EcryptfsRequest, FreshFek, FreshFile, KeyEvent, KeyReply, KeyRequest,
};
use crate::{Failure, Secret};

const VOLUME: VolumeId = VolumeId([0x11; 16]);

fn secret(byte: u8) -> Secret {
    Secret::new(vec![byte; 32])
}

fn folder() -> PathBuf {
    "/home/ann/Private".into()
}

pub(super) fn requests() -> Vec<KeyRequest> {
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

pub(super) fn ecryptfs_requests() -> Vec<EcryptfsRequest> {
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

pub(super) fn ecryptfs_replies() -> Vec<EcryptfsReply> {
    vec![
        EcryptfsReply::Names(Some(secret(0x9e))),
        EcryptfsReply::Fek(secret(0xfe)),
        EcryptfsReply::Fresh(vec![FreshFek {
            packets: vec![0x8c; 3],
            fek: secret(0xfe),
        }]),
    ]
}

pub(super) fn replies() -> Vec<KeyReply> {
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

pub(super) fn events() -> Vec<KeyEvent> {
    vec![
        KeyEvent::Lock { volume: VOLUME },
        KeyEvent::Unlocked { volume: VOLUME },
        KeyEvent::NewEpoch {
            volume: VOLUME,
            epoch: Epoch(300),
        },
    ]
}

pub(super) fn commands() -> Vec<Command> {
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

pub(super) fn command() -> ToDaemon {
    ToDaemon::Command {
        answers: Answers::Terminal,
        version: VERSION,
        prompt_place: PromptPlace::default(),
        command: unlock(),
    }
}

pub(super) fn answer() -> ToDaemon {
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

pub(super) fn from_daemon() -> Vec<FromDaemon> {
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

pub(super) fn control_replies() -> Vec<Reply> {
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
            folders: vec!["/home/ann/Private".into()],
            mounts: Vec::new(),
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

pub(super) fn failures() -> Vec<Failure> {
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
