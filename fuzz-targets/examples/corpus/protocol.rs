//! What filesystem, daemon and command line say to each other.

use claviger_fuzz_targets::fixed::VOLUME;
use claviger_protocol::control::{
    self, Answers, Command, FromDaemon, PromptPlace, Reply, ToDaemon,
};
use claviger_protocol::keys::{FreshFile, KeyEvent, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::{Epoch, Scope};

use crate::Corpus;

pub(crate) fn seeds(corpus: &Corpus) {
    let requests = [
        (
            "names",
            KeyRequest::Names {
                volume: VOLUME,
                lower_root: b"/home/a/Private".into(),
            },
        ),
        (
            "unwrap",
            KeyRequest::UnwrapFek {
                volume: VOLUME,
                header: vec![13; 512],
                lower_path: b"dir/file".into(),
                pid: 4711,
            },
        ),
        (
            "acknowledge",
            KeyRequest::Acknowledge {
                event: KeyEvent::Lock { volume: VOLUME },
                lost: vec![b"dir/file".into()],
            },
        ),
    ];
    for (name, request) in &requests {
        corpus.seed(
            "protocol_key_request",
            name,
            postcard::to_stdvec(request).unwrap(),
        );
    }
    let secret = || Secret::new(vec![14; 32]);
    let replies = [
        (
            "names",
            KeyReply::Names {
                current: Epoch(2),
                minimum: Epoch(1),
                scope: Scope::Volume,
                keys: vec![(Epoch(1), secret()), (Epoch(2), secret())],
            },
        ),
        (
            "feks",
            KeyReply::Feks {
                feks: vec![secret()],
                newest: 0,
                epoch: Epoch(1),
            },
        ),
        (
            "fresh",
            KeyReply::Fresh(vec![FreshFile {
                epoch: Epoch(1),
                header: vec![15; 512],
                fek: secret(),
            }]),
        ),
        ("failed", KeyReply::Failed(Failure::Locked)),
    ];
    for (name, reply) in &replies {
        corpus.seed(
            "protocol_key_reply",
            name,
            postcard::to_stdvec(reply).unwrap(),
        );
    }
    let event = KeyEvent::NewEpoch {
        volume: VOLUME,
        epoch: Epoch(2),
    };
    corpus.seed(
        "protocol_key_event",
        "new-epoch",
        postcard::to_stdvec(&event).unwrap(),
    );

    let framed = |body: Vec<u8>| {
        let length = u32::try_from(body.len()).unwrap();
        [&length.to_le_bytes()[..], &body].concat()
    };
    let command = ToDaemon::Command {
        answers: Answers::Terminal,
        version: control::VERSION,
        prompt_place: PromptPlace::default(),
        command: Command::Init {
            dir: "/home/a/Private".into(),
            scope: Scope::File,
            recipients: vec![control::KeyRef::Uri("pkcs11:token=Card".into())],
            passphrase: Some(secret()),
            recovery: control::Recovery::Make,
        },
    };
    let answer = ToDaemon::Answer(Some(secret()));
    for (name, message) in [("init", &command), ("answer", &answer)] {
        let body = postcard::to_stdvec(message).unwrap();
        corpus.seed("protocol_to_daemon", name, framed(body));
    }
    let done = FromDaemon::Done(Ok(Reply::Unlocked {
        volume: VOLUME,
        by: None,
        changes: vec!["recipient added".into()],
    }));
    let prompt = FromDaemon::Prompt(control::Prompt {
        kind: control::PromptKind::Pin,
        text: "PIN of Card".into(),
    });
    for (name, message) in [("unlocked", &done), ("prompt", &prompt)] {
        let body = postcard::to_stdvec(message).unwrap();
        corpus.seed("protocol_from_daemon", name, framed(body));
    }
}
