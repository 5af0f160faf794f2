//! A stand-in for a filesystem: the requester's end of callout.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use claviger_callout::{Observer, Outcome, Requester, RequesterConfig, Ticket};
use claviger_protocol::keys::{FreshFile, KeyEvent, KeyReply, KeyRequest, SERVICE};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::VolumeId;
use zeroize::Zeroizing;

use super::{SOON, User, wait_until};

/// It acknowledges what the daemon tells of keys, as filesystems do; a lock is the test's business.
pub struct Mount {
    requester: Arc<Requester>,
    events: Arc<Events>,
    uid: u32,
    pub volume: VolumeId,
}

#[derive(Default)]
struct Events {
    seen: Mutex<Vec<KeyEvent>>,
    requester: OnceLock<Weak<Requester>>,
}

impl Observer for Events {
    fn event(&self, uid: u32, body: &[u8]) {
        let event = postcard::from_bytes(body).unwrap();
        self.seen.lock().unwrap().push(event);
        let requester = self.requester.get().and_then(Weak::upgrade);
        let (Some(requester), false) = (requester, matches!(event, KeyEvent::Lock { .. })) else {
            return;
        };
        acknowledge(&requester, uid, event);
    }
}

fn acknowledge(requester: &Requester, uid: u32, event: KeyEvent) {
    let lost = Vec::new();
    let acknowledge = KeyRequest::Acknowledge { event, lost };
    let body = Zeroizing::new(postcard::to_stdvec(&acknowledge).unwrap());
    requester.submit(uid, body, Instant::now() + SOON, Box::new(|_| ()));
}

impl Mount {
    pub fn start(user: &User, volume: VolumeId) -> Self {
        Self::of_service(SERVICE, user, volume)
    }

    /// One that asks for another service than ours, perhaps.
    pub fn of_service(service: &str, user: &User, volume: VolumeId) -> Self {
        let events = Arc::new(Events::default());
        let mut config = RequesterConfig::new(user.home.join("run/claviger/mounts"), service);
        config.about = BTreeMap::from([
            ("volume".into(), volume.to_string()),
            ("mountpoint".into(), "/mnt".into()),
            ("lower".into(), "/lower".into()),
        ]);
        let requester = Arc::new(Requester::start(config, events.clone()).unwrap());
        events.requester.set(Arc::downgrade(&requester)).unwrap();
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
        match self.ask(&self.unwrap_request(header)) {
            KeyReply::Feks { feks, .. } => Ok(feks),
            KeyReply::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    fn unwrap_request(&self, header: &[u8]) -> KeyRequest {
        KeyRequest::UnwrapFek {
            volume: self.volume,
            header: header.to_vec(),
            lower_path: b"lower-name".to_vec(),
            pid: std::process::id(),
        }
    }

    /// Asks without waiting.
    pub fn begin_unwrap(&self, header: &[u8]) -> (Ticket, Receiver<Outcome>) {
        let request = self.unwrap_request(header);
        let body = Zeroizing::new(postcard::to_stdvec(&request).unwrap());
        let (send, answer) = channel();
        let done = Box::new(move |outcome| send.send(outcome).unwrap());
        let deadline = Instant::now() + SOON;
        let ticket = self
            .requester
            .submit(self.uid, body, deadline, done)
            .unwrap();
        (ticket, answer)
    }

    pub fn cancel(&self, ticket: Ticket) {
        self.requester.cancel(ticket);
    }

    /// Says that it has done what an event asks for.
    pub fn acknowledge(&self, event: KeyEvent) {
        acknowledge(&self.requester, self.uid, event);
    }

    pub fn wait_event(&self, event: KeyEvent) {
        wait_until("an event", || {
            self.events.seen.lock().unwrap().contains(&event)
        });
    }
}
