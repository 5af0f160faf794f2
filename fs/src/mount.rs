//! From a command line to a mount that answers, and from there to its end.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use claviger_callout::{Limits, Requester, RequesterConfig, Serves, StartError};
use claviger_protocol::{Failure, keys, paths};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Uid;

use crate::attach::{Busy, attach, loops, unmount};
use crate::callout_keys::CalloutKeys;
use crate::filesystem::VolumeFs;
use crate::fuse::Engine;
use crate::keeper::{self, Keeper};
use crate::kernel::Kernel;
use crate::lock::Lockable;
use crate::options::{Audience, Options};
use crate::prepare::Prepared;
use crate::watch::Watch;

/// After a signal, how long programs may keep files of a busy mount open.
const GRACE: Duration = Duration::from_secs(10);

/// How long a mount waits to hear from a daemon before it counts as mounted all the same, locked.
const DAEMON_GREETING: Duration = Duration::from_secs(1);

/// Mounts and serves until the mount ends; calls `ready` once it answers.
///
/// The process keeps secrets from now on: no core dumps, no ptrace(2) by its own user.
///
/// # Errors
/// A [`Failure`] if it could not be mounted or published, or its event loop failed.
pub fn serve(prepared: Prepared, ready: impl FnOnce()) -> Result<(), Failure> {
    harden().map_err(|errno| Failure::Internal(format!("hardening the process: {errno}")))?;
    // Before any thread starts: they inherit the mask, so that only `signals` sees these.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().map_err(system("sigmask"))?;

    let Prepared {
        lower,
        lower_root,
        mountpoint,
        served,
        options,
        taken,
    } = prepared;
    let id = served.id;
    let keys = CalloutKeys::new(id, served.bodies);
    let source = Arc::new(keys.clone());
    let volume = VolumeFs::with_caching(lower_root, served.format, source, options.caching);
    let volume = volume.map_err(system("lower folder"))?;
    let about = BTreeMap::from([
        ("volume".to_owned(), id.to_string()),
        ("format".to_owned(), options.format.kind().word().to_owned()),
        ("lower".to_owned(), lower.to_string_lossy().into_owned()),
        (
            "mountpoint".to_owned(),
            mountpoint.to_string_lossy().into_owned(),
        ),
    ]);
    // What daemons say until the keeper starts is kept for it.
    let (listener, notes) = keeper::listen(keys.clone());
    let published = match served.open {
        None => Some(Published::start(
            &keys,
            requester_config(&options, about)?,
            listener,
        )?),
        Some(tree) => {
            keys.set_tree(Some(tree));
            None
        }
    };
    let engine = Engine::new(Arc::clone(&volume));
    let lookout = engine.lookout();
    let session = attach(engine, &lower, &mountpoint, &options)?;
    let attached = Attached(Some(&mountpoint));
    // On one processor, whoever looked would keep the program from asking.
    if loops() > 1 {
        lookout.over(session.as_fd()).map_err(system("/dev/fuse"))?;
    }
    let mounted = Lockable {
        volume,
        keys: keys.clone(),
        kernel: Arc::new(Kernel::of(&session).map_err(system("/dev/fuse"))?),
    };
    let park = Arc::clone(mounted.volume.park());
    let _watch = Watch::start(park, Arc::new(keys.clone())).map_err(system("thread"))?;
    let keeper = Keeper::start(mounted.clone(), notes).map_err(system("thread"))?;
    let session = session.spawn().map_err(system("thread"))?;
    // The event loops answer this one.
    fs::metadata(&mountpoint).map_err(system("the mount does not answer"))?;
    unmount_on_signal(signals, mounted, mountpoint.clone()).map_err(system("thread"))?;
    attached.stays();
    if published.is_some() {
        keeper.wait_for_daemon(DAEMON_GREETING);
    }
    tracing::info!(mountpoint = %mountpoint.display(), volume = %id, "mounted");
    ready();

    // Ends when it is unmounted; the filesystem has written everything out by then.
    let ended = ended(session.join());
    tracing::info!(mountpoint = %mountpoint.display(), "unmounted");
    drop(keeper);
    drop(published);
    drop(taken);
    ended.map_err(system("event loop"))
}

/// How the event loops ended: well, if by an unmount.
///
/// One that has just taken a request off the queue when the mount goes is told of it by ECONNABORTED, all others
/// by ENODEV (`fuse_dev_do_read` of the kernel), which is all that fuser takes for an end.
///
/// # Errors
/// Any other.
pub fn ended(joined: io::Result<()>) -> io::Result<()> {
    match joined {
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
        joined => joined,
    }
}

/// The mount in the rendezvous folder. Dropped, it takes leave of the daemons and is gone from there.
struct Published<'a>(&'a CalloutKeys);

impl<'a> Published<'a> {
    fn start(
        keys: &'a CalloutKeys,
        config: RequesterConfig,
        observer: Arc<keeper::Listener>,
    ) -> Result<Self, Failure> {
        let requester = Requester::start(config, observer);
        let requester = requester.map_err(|error| publish_failure(&error))?;
        keys.use_requester(Some(Arc::new(requester)));
        Ok(Self(keys))
    }
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        self.0.use_requester(None);
    }
}

/// A mount that does not answer yet. Dropped, it is unmounted: nobody would serve it.
struct Attached<'a>(Option<&'a Path>);

impl Attached<'_> {
    fn stays(mut self) {
        self.0 = None;
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        if let Some(mountpoint) = self.0
            && let Err(error) = unmount(mountpoint, Busy::Detach)
        {
            tracing::error!(%error, "cannot unmount");
        }
    }
}

/// No core dump and no debugger of the same user reads what this process knows; and as many
/// descriptors as are allowed, for every open file has one below, and files as large as are: whoever writes
/// has a limit of his own. To write beyond ours is an error, and not the end of the mount.
fn harden() -> Result<(), Errno> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_FSIZE] {
        let (_, most) = getrlimit(resource)?;
        setrlimit(resource, most, most)?;
    }
    SigSet::from_iter([Signal::SIGXFSZ]).thread_block()
}

fn requester_config(
    options: &Options,
    about: BTreeMap<String, String>,
) -> Result<RequesterConfig, Failure> {
    let (dir, serves) = match (Mounter::of_process(), options.audience) {
        (Mounter::System, audience) => {
            let folder = paths::system_requesters();
            open_to_daemons(folder).map_err(system("the folder of root's mounts"))?;
            let serves = match audience {
                Audience::Everyone => Serves::AnyUid,
                Audience::Owner => Serves::Owner,
            };
            (folder.into(), serves)
        }
        // Serves its owner only, whoever the kernel lets in.
        (Mounter::User, Audience::Everyone | Audience::Owner) => {
            (paths::own_requesters(), Serves::Owner)
        }
    };
    Ok(RequesterConfig {
        dir,
        transport: options.transport,
        service: keys::SERVICE.into(),
        about,
        serves,
        limits: Limits::default(),
    })
}

/// Lets every user's daemon look into the folder that all mounts of root share: a requester makes it for those
/// whom itself serves, and one for root alone would close it to all that come after. Each entry has its own mode.
fn open_to_daemons(folder: &Path) -> io::Result<()> {
    for folder in folder.parent().into_iter().chain([folder]) {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => fs::set_permissions(folder, Permissions::from_mode(0o755))?,
        }
    }
    Ok(())
}

/// Whose mount it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mounter {
    /// The machine's.
    System,
    /// A user's; or of the root of a user namespace, in whom no daemon of another uid would trust.
    User,
}

impl Mounter {
    fn of_process() -> Self {
        // PROC_USER_INIT_INO, Linux include/linux/proc_ns.h.
        const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
        let namespace = fs::metadata("/proc/self/ns/user");
        let initial = namespace.is_ok_and(|namespace| namespace.ino() == INITIAL_USER_NAMESPACE);
        if Uid::effective().is_root() && initial {
            return Self::System;
        }
        Self::User
    }
}

/// Unmounts at the first of `signals`. A mount that stays busy is taken out of the tree at once, and
/// [`GRACE`] later locked, which writes everything out, and abandoned.
fn unmount_on_signal(signals: SigSet, mounted: Lockable, mountpoint: PathBuf) -> io::Result<()> {
    let work = move || {
        while let Err(errno) = signals.wait() {
            tracing::debug!(%errno, "sigwait");
        }
        if unmount(&mountpoint, Busy::Refuse).is_ok() {
            return;
        }
        tracing::warn!(mountpoint = %mountpoint.display(), "busy: unmounted lazily");
        if let Err(error) = unmount(&mountpoint, Busy::Detach) {
            tracing::error!(%error, "cannot unmount");
        }
        thread::sleep(GRACE);
        let lost = mounted.lock();
        tracing::error!(lost = lost.len(), "files were still open: abandoned");
        mounted.keys.use_requester(None);
        std::process::exit(0);
    };
    thread::Builder::new().name("signals".into()).spawn(work)?;
    Ok(())
}

fn publish_failure(error: &StartError) -> Failure {
    let mut text = format!("the mount cannot be published: {error}");
    if let Some(source) = error.source() {
        text = format!("{text}: {source}");
    }
    match error {
        StartError::Folder { .. } if !Uid::effective().is_root() => Failure::Permission(format!(
            "{text}\nset XDG_RUNTIME_DIR to a folder of your own, as a login session does"
        )),
        StartError::Folder { .. } | StartError::Socket { .. } | StartError::System(_) => {
            Failure::Internal(text)
        }
    }
}

/// A fault of the system, told with what it happened to.
fn system<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Internal(format!("{what}: {error}"))
}
