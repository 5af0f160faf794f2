//! Keys of eCryptfs: of folders that are unlocked here for our mounts, and for the kernel's own eCryptfs,
//! which is served from the same keys.
//!
//! The kernel asks through `/dev/ecryptfs` and waits three seconds, so nobody is ever asked for a PIN on
//! its behalf: that is done by 'claviger ecryptfs add-key', and what needs a login that is not there is
//! refused at once. New files are wrapped with the public key, for which no token is needed.
//!
//! The format proves little: what opens was wrapped to this key by anybody, for any file.

mod answer;
mod auth_tok;
pub mod folder;
pub(crate) mod keys;
pub mod message;
mod pkcs1_v15;
mod unlock;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use claviger_callout::miscdev::{self, DeviceError, KernelCall, KernelResponder, KernelService};
use claviger_pki::auth_tok::enrolled::EnrolledKey;
use claviger_protocol::Failure;
use claviger_vault::ecryptfs::KeySig;
use nix::unistd::Uid;

use crate::config::KernelEcryptfs;
use crate::daemon::Daemon;
use crate::errand::{Errand, Program};
use crate::prompt::Asker;
use crate::tokens::Request;
use crate::wait::Wait;
use crate::workers::{Full, Workers};

/// The kernel has this many contexts, for all users.
const CONTEXTS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// The kernel's eCryptfs, as this daemon has to do with it.
#[derive(Default)]
pub struct Kernel {
    /// By the uid that each answers for.
    responders: Mutex<BTreeMap<u32, KernelResponder>>,
    /// What a sig stands for does not change; whether the key may be used is looked up each time.
    keys: Mutex<HashMap<KeySig, EnrolledKey>>,
}

impl Kernel {
    /// Answers no more.
    pub fn leave(&self) {
        let responders = std::mem::take(&mut *lock(&self.responders));
        drop(responders);
    }

    /// Begins to answer, for whom it does not yet. An error is about this user; what keeps it from
    /// answering for others is told in the log.
    fn serve(&self, daemon: &Arc<Daemon>) -> Result<(), DeviceError> {
        let mut responders = lock(&self.responders);
        // First: one that ended may hold the device still.
        responders.retain(|_, responder| responder.serves());
        let own = Uid::effective().as_raw();
        let mut served = Ok(());
        for uid in [&[own], daemon.config.kernel_uids.as_slice()].concat() {
            let Entry::Vacant(place) = responders.entry(uid) else {
                continue;
            };
            match start(daemon, uid) {
                Ok(responder) => {
                    tracing::info!(uid, "the kernel's eCryptfs is served");
                    place.insert(responder);
                }
                Err(error) if uid == own => served = Err(error),
                Err(error) => tracing::warn!(uid, %error, "the kernel's eCryptfs is not served"),
            }
        }
        served
    }
}

fn start(daemon: &Arc<Daemon>, uid: u32) -> Result<KernelResponder, DeviceError> {
    let path = Path::new(miscdev::DEVICE);
    let device = match uid == Uid::effective().as_raw() {
        true => miscdev::open(path),
        false => miscdev::open_for(path, uid),
    };
    let of_workers = daemon.clone();
    let answer = move |call| answer::answer(&of_workers, call);
    let service = Service(Workers::new("kernel", CONTEXTS, CONTEXTS.get(), answer));
    Ok(KernelResponder::start(device?, Arc::new(service))?)
}

struct Service(Workers<KernelCall>);

impl KernelService for Service {
    fn call(&self, call: KernelCall) {
        if let Err(Full(_refused)) = self.0.submit(call) {
            tracing::warn!("too many requests of the kernel at once: one refused");
        }
    }
}

impl Daemon {
    /// Answers the kernel from now on if that is configured; tells the log why it cannot.
    pub fn serve_kernel_if_configured(self: &Arc<Self>) {
        if self.config.kernel_ecryptfs == KernelEcryptfs::NotServed {
            return;
        }
        if let Err(error) = self.kernel.serve(self) {
            tracing::warn!(%error, "the kernel's eCryptfs is not served");
            return;
        }
        let daemon = self.clone();
        let prepare = move || daemon.prepare_kernel_keys();
        if let Err(error) = thread::Builder::new()
            .name("kernel-keys".into())
            .spawn(prepare)
        {
            tracing::error!(%error, "cannot start a thread");
        }
    }
}

/// On behalf of the kernel, which does not tell for whom it asks; nobody is prompted.
fn kernel_request(wait: Wait) -> Arc<Request> {
    Arc::new(Request {
        errand: Errand {
            volume: None,
            lower_path: None,
            program: Program {
                pid: 0,
                name: Some("the kernel's eCryptfs".into()),
            },
        },
        asker: Asker::Nobody,
        wait,
        waits_for: Box::new(|_| ()),
    })
}

/// One failure for all that may be wrong with a wrapped FEK.
pub(crate) fn does_not_open() -> Failure {
    Failure::Integrity("a wrapped FEK does not open".into())
}

pub(crate) fn not_encrypted() -> Failure {
    Failure::Internal("a FEK could not be wrapped".into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
