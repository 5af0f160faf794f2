//! The daemon: its parts, and how they begin and end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_callout::{Responder, ResponderConfig, StartError};
use claviger_pki::auth_tok::enrolled::KeyFolder;
use claviger_pki::auth_tok::{AuthToks, Place};
use claviger_protocol::control::{
    FolderFormat, LockTarget, Locked, MountStatus, Status, VolumeStatus,
};
use claviger_protocol::keys::KeyEvent;
use claviger_protocol::paths;
use claviger_vault::ids::{Epoch, VolumeId};

use crate::audit::Audit;
use crate::config::Config;
use crate::ecryptfs::Kernel;
use crate::errand::Program;
use crate::instance::Instance;
use crate::key_service::KeyService;
use crate::modules::Modules;
use crate::mounts::Mount;
use crate::own_keys::OwnKeys;
use crate::prompt::{Asker, Prompts};
use crate::tokens::Tokens;
use crate::volumes::{Keys, Lockable, Volumes};
use crate::wait::Wait;

/// How long a new daemon, and an unlock, wait for the mounts that are there to take this daemon: only one that
/// hangs makes it as long.
const GREETINGS: Duration = Duration::from_secs(2);

/// Everything that one user's daemon has.
pub struct Daemon {
    /// What it goes by.
    pub config: Config,
    /// Where its files are.
    pub places: Places,
    /// The user's keys.
    pub own_keys: OwnKeys,
    /// Their tokens.
    pub tokens: Tokens,
    /// People.
    pub prompts: Prompts,
    /// The audit log.
    pub audit: Audit,
    /// Unlocked volumes.
    pub volumes: Volumes,
    /// The kernel's eCryptfs, if it is served.
    pub kernel: Kernel,
    responder: Mutex<Option<Arc<Responder>>>,
    /// Until it ends.
    instance: Mutex<Option<Instance>>,
}

/// Folders of this user.
#[derive(Clone, Debug)]
pub struct Places {
    /// `~/.config/claviger`
    pub config: PathBuf,
    /// `/etc/claviger`
    pub system_config: PathBuf,
    /// `~/.local/state/claviger`
    pub state: PathBuf,
}

/// Who asks for something, and for how long.
#[derive(Clone)]
pub struct Caller {
    /// Who can be asked for a PIN.
    pub asker: Asker,
    /// The program, for prompts and the audit log.
    pub program: Program,
    /// How long it may take.
    pub wait: Wait,
}

impl Places {
    /// As the environment and XDG's defaults say; `None` if there is no home.
    pub fn of_user() -> Option<Self> {
        Some(Self {
            config: paths::config_dir()?,
            system_config: paths::system_config_dir().into(),
            state: paths::state_dir()?,
        })
    }
}

impl Daemon {
    /// Puts it together; nothing is served yet.
    pub fn new(
        config: Config,
        places: Places,
        auth_toks: AuthToks,
        audit: Audit,
        instance: Instance,
    ) -> Self {
        let own_keys = OwnKeys::new(auth_toks, KeyFolder::new(places.config.join("keys")));
        let modules = Modules::new(&config);
        let tokens = Tokens::new(
            modules,
            config.final_try,
            config.token_timeout,
            config.prompt_timeout,
        );
        Self {
            prompts: Prompts::new(config.pinentry.clone(), config.prompt_timeout),
            config,
            places,
            own_keys,
            tokens,
            audit,
            volumes: Volumes::default(),
            kernel: Kernel::default(),
            responder: Mutex::default(),
            instance: Mutex::new(Some(instance)),
        }
    }

    /// Answers filesystems from now on.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn serve_mounts(self: &Arc<Self>) -> Result<(), StartError> {
        let dirs = [paths::own_requesters(), paths::system_requesters().into()];
        let service = Arc::new(KeyService::new(self));
        let responder = Arc::new(Responder::start(ResponderConfig::new(dirs), service)?);
        // The command that this daemon was started for may be an unlock, and mounts that are there
        // already shall have the keys when it returns.
        responder.wait_greeted(GREETINGS);
        *self.responder() = Some(responder);
        Ok(())
    }

    /// Locks everything, leaves all mounts, ends all modules; then another daemon may take its place.
    /// Once more, it does nothing. What the lock came to.
    pub fn shut_down(&self) -> Locked {
        // First: what is unlocked while mounts are waited for, nobody would lock.
        self.volumes.close();
        let caller = Caller::nobody(Wait::at_most(Duration::from_secs(20)));
        let locked = self.lock(&LockTarget::All, &caller);
        let locked = locked.unwrap_or_else(|failure| {
            tracing::error!(%failure, "not everything could be locked");
            Locked::default()
        });
        for fault in locked.faults() {
            tracing::error!("{fault}");
        }
        let responder = self.responder().take();
        // Outside the lock: its thread may be in the middle of an event of ours.
        drop(responder);
        self.kernel.leave();
        self.tokens.modules.stop();
        let instance = self
            .instance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(instance);
        locked
    }

    /// Filesystems that have registered.
    pub fn mounts(&self) -> Vec<Mount> {
        let peers = self.responder().as_ref().map(|responder| responder.peers());
        peers
            .unwrap_or_default()
            .iter()
            .map(Mount::of_peer)
            // Others, such as 'claviger cat', hold no keys that an event could take away.
            .filter(|mount| !mount.mountpoint.is_empty())
            .collect()
    }

    /// Waits until mounts that have just come have taken this daemon, so that [`Self::tell_mounts`]
    /// reaches them.
    pub(crate) fn wait_for_mounts(&self) {
        // Not under the lock: the responder's thread may be about to ask for it.
        let responder = self.responder().clone();
        if let Some(responder) = responder {
            responder.wait_greeted(GREETINGS);
        }
    }

    /// Tells all mounts of `event`, and begins to wait for those of its volume to acknowledge it.
    pub(crate) fn tell_mounts(&self, event: KeyEvent) {
        let (KeyEvent::Lock { volume }
        | KeyEvent::Unlocked { volume }
        | KeyEvent::NewEpoch { volume, .. }) = event;
        let mounts = self.mounts();
        let of_volume = mounts.iter().filter(|mount| mount.volume == Some(volume));
        self.volumes.acknowledgements.begin(event, of_volume);
        self.broadcast(event);
    }

    fn broadcast(&self, event: KeyEvent) {
        let body = match postcard::to_stdvec(&event) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%error, ?event, "event does not encode");
                return;
            }
        };
        if let Some(responder) = self.responder().as_ref() {
            responder.broadcast(&body);
        }
    }

    /// What is open.
    pub fn status(&self) -> Status {
        let mounts = self.mounts();
        let open = self.volumes.all();
        let epoch = |keys: &Keys| Some(keys.epochs.current_epoch());
        let native = open
            .iter()
            .map(|volume| shown(volume, FolderFormat::Native, epoch, &mounts));
        let folders = self.volumes.all_folders();
        let folders = folders
            .iter()
            .map(|folder| shown(folder, FolderFormat::Ecryptfs, |_| None, &mounts));
        let mut volumes: Vec<_> = native.chain(folders).collect();
        for mount in &mounts {
            if let Some(id) = mount.volume
                && !volumes.iter().any(|shown| shown.volume == id)
            {
                volumes.push(VolumeStatus {
                    volume: id,
                    dir: mount.lower.clone(),
                    format: mount.format,
                    unlocked: false,
                    opened_by: None,
                    epoch: None,
                    mounts: of_volume(id, &mounts),
                });
            }
        }
        volumes.sort_by(|a, b| a.dir.cmp(&b.dir));
        Status {
            daemon_pid: std::process::id(),
            auth_toks: match self.own_keys.place() {
                Place::Keyring => "keyring".into(),
                Place::Memory { reason } => format!("memory ({reason})"),
            },
            volumes,
            modules: self.tokens.modules.status(),
        }
    }

    fn responder(&self) -> MutexGuard<'_, Option<Arc<Responder>>> {
        self.responder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown<K>(
    open: &Lockable<K>,
    format: FolderFormat,
    epoch: impl FnOnce(&K) -> Option<Epoch>,
    mounts: &[Mount],
) -> VolumeStatus {
    let epoch = open.with_keys(epoch);
    VolumeStatus {
        volume: open.id(),
        dir: open.dir().to_string_lossy().into_owned(),
        format,
        unlocked: epoch.is_ok(),
        opened_by: Some(open.opened_by().clone()),
        epoch: epoch.ok().flatten(),
        mounts: of_volume(open.id(), mounts),
    }
}

fn of_volume(id: VolumeId, mounts: &[Mount]) -> Vec<MountStatus> {
    let of_volume = mounts.iter().filter(|mount| mount.volume == Some(id));
    let shown = of_volume.map(|mount| MountStatus {
        mountpoint: mount.mountpoint.clone(),
        carrier: mount.carrier.clone(),
        pid: mount.pid,
    });
    shown.collect()
}
