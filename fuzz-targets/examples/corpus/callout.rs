//! Frames, greetings, entries.

use std::collections::BTreeMap;
use std::fs::{self};

use claviger_callout::frame::{Flags, Header, Kind};
use claviger_callout::session::Greeting;
use claviger_callout::{Requester, RequesterConfig};
use claviger_fuzz_targets::fixed::{ENDS, VOLUME};

use crate::Corpus;

pub(crate) fn seeds(corpus: &Corpus) {
    for kind in Kind::ALL {
        let header = Header {
            kind,
            flags: Flags::SEALED,
            sequence: 7,
            port: 0,
        };
        let name = format!("{kind:?}").to_lowercase();
        corpus.seed(
            "callout_frame",
            &name,
            header.datagram(b"a body of some octets"),
        );
    }
    let (_, helo) = Greeting::start(&ENDS).unwrap();
    corpus.seed("callout_greeting", "helo", helo);
    // Laid over a genuine message.
    corpus.seed("callout_answer", "genuine", [0; 50]);
    corpus.seed("callout_session", "genuine", [0; 56]);

    let folder = tempfile::tempdir().unwrap();
    let mut config = RequesterConfig::new(folder.path(), "org.example.shout/1");
    config.about = BTreeMap::from([("volume".into(), VOLUME.to_string())]);
    let requester = Requester::start(config, std::sync::Arc::new(())).unwrap();
    let entry = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_file() && fs::read_to_string(path).is_ok())
        .unwrap();
    corpus.seed("callout_rendezvous", "requester", fs::read(entry).unwrap());
    drop(requester);
}
