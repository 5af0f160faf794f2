//! A stand-in for a filesystem: the requester's end of callout.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use claviger_callout::{Observer, Requester, RequesterConfig};
use claviger_protocol::keys::{FreshFile, KeyEvent, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::VolumeId;
use zeroize::Zeroizing;

use super::{SOON, User, until};

/// A stand-in for a filesystem: the requester's end of callout.
pub struct Mount {
    requester: Requester,
    events: Arc<Events>,
    uid: u32,
    pub volume: VolumeId,
}

#[derive(Default)]
struct Events(Mutex<Vec<KeyEvent>>);

impl Observer for Events {
    fn event(&self, _uid: u32, body: &[u8]) {
        self.0
            .lock()
            .unwrap()
            .push(postcard::from_bytes(body).unwrap());
    }
}

impl Mount {
    pub fn start(user: &User, volume: VolumeId) -> Self {
        let events = Arc::new(Events::default());
        let mut config = RequesterConfig::new(user.home.join("run/claviger/mounts"), "test/1");
        config.about = BTreeMap::from([
            ("volume".into(), volume.to_string()),
            ("mountpoint".into(), "/mnt".into()),
            ("lower".into(), "/lower".into()),
        ]);
        let requester = Requester::start(config, events.clone()).unwrap();
        assert!(
            requester.wait_registered(user.uid, SOON),
            "the daemon does not register"
        );
        Self {
            requester,
            events,
            uid: user.uid,
            volume,
        }
    }

    pub fn ask(&self, request: &KeyRequest) -> KeyReply {
        let body = Zeroizing::new(postcard::to_stdvec(request).unwrap());
        let deadline = Instant::now() + SOON;
        let answer = self.requester.call(self.uid, body, deadline).unwrap();
        postcard::from_bytes(&answer).unwrap()
    }

    pub fn fresh(&self) -> FreshFile {
        let request = KeyRequest::Fresh {
            volume: self.volume,
            count: 1,
        };
        match self.ask(&request) {
            KeyReply::Fresh(mut files) => files.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub fn unwrap(&self, header: &[u8]) -> Result<Vec<Secret>, Failure> {
        let request = KeyRequest::UnwrapFek {
            volume: self.volume,
            header: header.to_vec(),
            lower_path: b"lower-name".to_vec(),
            pid: std::process::id(),
        };
        match self.ask(&request) {
            KeyReply::Feks { feks, .. } => Ok(feks),
            KeyReply::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    pub fn wait_event(&self, event: KeyEvent) {
        until("an event", || {
            self.events.0.lock().unwrap().contains(&event)
        });
    }
}
