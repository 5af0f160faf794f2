//! Serves the kernel's own eCryptfs from the same keys as our mounts.
//!
//! The kernel asks through `/dev/ecryptfs` and waits three seconds, so nobody is ever asked for a PIN on
//! its behalf: that is done by 'claviger ecryptfs add-key', and what needs a login that is not there is
//! refused at once. New files are wrapped with the public key, for which no token is needed.
//!
//! The format proves little: what opens was wrapped to this key by anybody, for any file.

mod auth_tok;
mod message;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use claviger_callout::miscdev::{self, DeviceError, KernelCall, KernelResponder, KernelService};
use claviger_pki::auth_tok::enrolled::EnrolledKey;
use claviger_pki::cancel::Cancel;
use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::{Decapsulate, Locator};
use claviger_pki::oaep;
use claviger_protocol::Failure;
use claviger_protocol::control::{KeyInfo, KeyRef};
use claviger_vault::ecryptfs::KeySig;
use claviger_vault::secret::random_array;
use nix::unistd::Uid;
use zeroize::Zeroizing;

use crate::audit::{Event, UsedKey};
use crate::config::KernelEcryptfs;
use crate::daemon::{Caller, Daemon};
use crate::enrol::Named;
use crate::errand::{Errand, Program};
use crate::own_keys::shown;
use crate::prompt::Asker;
use crate::tokens::{Login, Request};
use crate::wait::Wait;
use crate::workers::{Full, Workers};

use message::{CodedFek, Question};

/// The kernel has this many contexts, for all users.
const CONTEXTS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// Of the kernel's patience, for what happens before a request is read and after it is answered.
const MARGIN: Duration = Duration::from_millis(250);

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
    let answer = move |call| answer(&of_workers, call);
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

    /// Starts modules and logs in, where a file has the PIN, before the kernel waits for it.
    fn prepare_kernel_keys(&self) {
        for key in self.own_keys.enrolled() {
            let Some(sig) = sig_of(&key.public_key).filter(|sig| auth_tok::is_put(*sig)) else {
                continue;
            };
            let wait = Wait::at_most(self.config.token_timeout);
            if let Err(failure) = self.prove(&key, &kernel_request(wait)) {
                tracing::warn!(%sig, %failure, "the kernel cannot be answered yet: run 'claviger ecryptfs add-key'");
            }
        }
    }

    /// Makes a key usable by the kernel's eCryptfs: enrols it, logs in to its token, tries it out, and puts
    /// its auth tok into the keyring.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] for a key that is not RSA.
    pub fn ecryptfs_add_key(
        self: &Arc<Self>,
        key: &KeyRef,
        caller: &Caller,
    ) -> Result<(KeyInfo, KeySig), Failure> {
        let request = caller.request(None);
        let enrolled = match self.name(key, &request)? {
            Named::Private(enrolled) => *enrolled,
            Named::Public(..) => {
                return Err(Failure::Usage(format!(
                    "{} holds no private key",
                    shown(key)
                )));
            }
        };
        let sig = sig_of(&enrolled.public_key).ok_or_else(|| {
            let key_type = enrolled.public_key.key_type();
            Failure::Unsupported(format!(
                "eCryptfs wraps to RSA keys, and this one is {key_type}"
            ))
        })?;
        self.prove(&enrolled, &request)?;
        self.own_keys.add(&enrolled)?;
        auth_tok::put(sig, enrolled.key_id())?;
        match self.config.kernel_ecryptfs {
            KernelEcryptfs::Served => {
                if let Err(error) = self.kernel.serve(self) {
                    caller.asker.tell(&format!("The kernel is not served: {error}"));
                }
            }
            KernelEcryptfs::NotServed => caller.asker.tell(
                "The kernel is not served: set 'kernel = true' under [ecryptfs] in config.toml, then 'claviger stop'",
            ),
        }
        Ok((self.own_keys.info(&enrolled), sig))
    }

    /// Has the token open something as the kernel will ask for it: finds out now, with somebody there to
    /// enter a PIN, what would otherwise cost a file operation.
    fn prove(&self, key: &EnrolledKey, request: &Arc<Request>) -> Result<(), Failure> {
        let secret: [u8; 32] = random_array();
        let encapsulation =
            oaep::encrypt_sha1(&key.public_key, &secret).ok_or_else(not_encrypted)?;
        let opened = self.open(key, &key.module, &key.locator, encapsulation, request)?;
        if opened.as_slice() != secret {
            return Err(Failure::Module {
                module: key.module.clone(),
                what: "it opened something else than was wrapped".into(),
            });
        }
        Ok(())
    }

    fn open(
        &self,
        key: &EnrolledKey,
        module: &str,
        locator: &Locator,
        encapsulation: Vec<u8>,
        request: &Arc<Request>,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let call = Decapsulate {
            locator: locator.clone(),
            public_key: key.public_key.clone(),
            kem: Kem::RsaOaepSha1,
            encapsulation,
        };
        let opened = self
            .tokens
            .decapsulate(module, &call, Login::IfNeeded, request);
        Ok(opened?)
    }

    /// The enrolled key of that sig.
    fn kernel_key(&self, sig: KeySig) -> Result<EnrolledKey, Failure> {
        let known = lock(&self.kernel.keys).get(&sig).cloned();
        let found = known.or_else(|| {
            let mut enrolled = self.own_keys.enrolled().into_iter();
            enrolled.find(|key| sig_of(&key.public_key) == Some(sig))
        });
        let key =
            found.ok_or_else(|| Failure::NotARecipient(format!("no key {sig} is enrolled")))?;
        lock(&self.kernel.keys).insert(sig, key.clone());
        Ok(key)
    }

    /// A key, and where its auth tok says now that its private half is.
    fn usable_kernel_key(&self, sig: KeySig) -> Result<(EnrolledKey, String, Locator), Failure> {
        let key = self.kernel_key(sig)?;
        let own = self.own_keys.usable(key.key_id())?.ok_or_else(|| {
            Failure::NotARecipient(format!("the auth tok of key {} is not here", key.key_id()))
        })?;
        Ok((key, own.module, own.locator))
    }
}

fn answer(daemon: &Daemon, call: KernelCall) {
    let question = match Question::parse(&call.body) {
        Ok(question) => question,
        Err(error) => return tracing::warn!(%error, "the kernel asks something unknown"),
    };
    let sig = question.sig();
    let answered = match question {
        Question::Unwrap { wrapped, .. } => unwrap(daemon, sig, wrapped, call.received),
        Question::Wrap { fek, .. } => wrap(daemon, sig, &fek),
    };
    match answered {
        Ok(body) => {
            if let Err(error) = call.reply(body) {
                tracing::warn!(%sig, %error, "the kernel was not answered");
            }
        }
        // Dropped, the call is refused at once.
        Err(failure) => tracing::warn!(%sig, %failure, "the kernel was refused"),
    }
}

fn unwrap(
    daemon: &Daemon,
    sig: KeySig,
    wrapped: Vec<u8>,
    received: Instant,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let patience = daemon.config.kernel_patience.saturating_sub(MARGIN);
    let request = kernel_request(Wait::new(received + patience, Cancel::never()));
    let mut used = UsedKey::default();
    let result = daemon
        .usable_kernel_key(sig)
        .and_then(|(key, module, locator)| {
            used.key_id = Some(key.key_id().to_string());
            used.module = Some(module.clone());
            if wrapped.len() != key.public_key.key_type().encapsulation_len() {
                return Err(does_not_open());
            }
            let opened = daemon.open(&key, &module, &locator, wrapped, &request)?;
            let fek = CodedFek::new(opened).ok_or_else(does_not_open)?;
            Ok(message::unwrapped(&fek))
        });
    let took = received.elapsed();
    daemon
        .audit
        .record(Event::Unwrap, &request.errand, &used, &result, took);
    result
}

fn wrap(daemon: &Daemon, sig: KeySig, fek: &CodedFek) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let (key, ..) = daemon.usable_kernel_key(sig)?;
    let wrapped = oaep::encrypt_sha1(&key.public_key, fek.expose());
    wrapped
        .and_then(|wrapped| message::wrapped(&wrapped))
        .ok_or_else(not_encrypted)
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

/// The sig of an RSA key; `None` for others, which eCryptfs knows nothing of.
fn sig_of(key: &PublicKey) -> Option<KeySig> {
    let (modulus, exponent) = key.rsa()?;
    Some(KeySig::of_rsa(modulus, exponent))
}

/// One failure for all that may be wrong with a wrapped FEK.
fn does_not_open() -> Failure {
    Failure::Integrity("a wrapped FEK does not open".into())
}

fn not_encrypted() -> Failure {
    Failure::Internal("a FEK could not be wrapped".into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
