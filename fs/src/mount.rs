//! From a command line to a mount that answers, and from there to its end.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use claviger_callout::{Limits, Requester, RequesterConfig, Serves, StartError};
use claviger_protocol::{Failure, keys, paths};
use claviger_vault::manifest::{self, Manifest, ManifestError};
use claviger_vault::native::NativeFormat;
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Uid;

use crate::args::Args;
use crate::attach::{Busy, attach, unmount};
use crate::bodies::NativeBodies;
use crate::callout_keys::CalloutKeys;
use crate::filesystem::VolumeFs;
use crate::fuse::Engine;
use crate::keeper::{self, Keeper};
use crate::kernel::Kernel;
use crate::lock::Lockable;
use crate::mountpoint;
use crate::options::{Audience, Options};
use crate::watch::Watch;
use crate::writer::{TakeError, Taken, Use};

/// How long the server of a mount that has just been unmounted may take to write everything out.
const LEAVING: Duration = Duration::from_secs(2);

/// After a signal, how long programs may keep files of a busy mount open.
const GRACE: Duration = Duration::from_secs(10);

/// How long a mount waits to hear from a daemon before it counts as mounted all the same, locked.
const DAEMON_GREETING: Duration = Duration::from_secs(1);

/// A volume that can be mounted: checked, and taken from other writers.
pub struct Prepared {
    lower: PathBuf,
    lower_root: OwnedFd,
    mountpoint: PathBuf,
    manifest: Manifest,
    options: Options,
    taken: Taken,
}

/// Checks everything that can be wrong before something is mounted.
///
/// # Errors
/// A [`Failure`] with what happened, to what, and what to do.
pub fn prepare(args: &Args) -> Result<Prepared, Failure> {
    let options = args.options.clone();
    let user = Uid::effective();
    if !user.is_root() {
        let permitted = options.check_unprivileged();
        permitted.map_err(|error| Failure::Permission(error.to_string()))?;
    }
    mountpoint::check_audience(options.audience, user, Path::new("/etc/fuse.conf"))?;
    let lower = args.lower.canonicalize();
    let lower = lower.map_err(|error| lower_failure(&args.lower, &error))?;
    let lower_root = open_dir(&lower).map_err(|error| lower_failure(&lower, &error))?;
    let mountpoint = mountpoint::check(&args.mountpoint, &lower)?;
    let loaded = manifest::load(&lower_root);
    let loaded = loaded.map_err(|error| manifest_failure(&lower, &error))?;
    if let manifest::Copy::Backup { because } = &loaded.copy {
        tracing::warn!(%because, "the manifest's backup is used");
    }
    let purpose = if options.flags.contains(MsFlags::MS_RDONLY) {
        Use::Read
    } else {
        Use::Write
    };
    let taken = Taken::take_within(&lower, purpose, LEAVING)
        .map_err(|error| take_failure(&lower, error))?;
    Ok(Prepared {
        lower,
        lower_root,
        mountpoint,
        // Whoever has the epoch key verifies it, the daemon; what is used here, the id, is bound
        // into every key that the daemon gives.
        manifest: loaded.manifest.claims().clone(),
        options,
        taken,
    })
}

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
        manifest,
        options,
        taken,
    } = prepared;
    let bodies = NativeBodies::new(manifest.volume(), manifest.scope(), &lower);
    let keys = CalloutKeys::new(manifest.volume(), Box::new(bodies));
    let format = NativeFormat {
        volume: manifest.volume(),
    };
    let volume = VolumeFs::with_caching(
        lower_root,
        Arc::new(format),
        Arc::new(keys.clone()),
        options.caching,
    )
    .map_err(system("lower folder"))?;
    let about = BTreeMap::from([
        ("volume".to_owned(), manifest.volume().to_string()),
        ("lower".to_owned(), lower.to_string_lossy().into_owned()),
        (
            "mountpoint".to_owned(),
            mountpoint.to_string_lossy().into_owned(),
        ),
    ]);
    // What daemons say until the keeper starts is kept for it.
    let (listener, notes) = keeper::listen(keys.clone());
    let published = Published::start(&keys, requester_config(&options, about), listener)?;
    let session = attach(
        Engine::new(Arc::clone(&volume)),
        &lower,
        &mountpoint,
        &options,
    )?;
    let attached = Attached(Some(&mountpoint));
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
    keeper.wait_for_daemon(DAEMON_GREETING);
    tracing::info!(mountpoint = %mountpoint.display(), volume = %manifest.volume(), "mounted");
    ready();

    // Ends when it is unmounted; the filesystem has written everything out by then.
    let ended = session.join();
    tracing::info!(mountpoint = %mountpoint.display(), "unmounted");
    drop(keeper);
    drop(published);
    drop(taken);
    ended.map_err(system("event loop"))
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
/// descriptors as are allowed, for every open file has one below.
fn harden() -> Result<(), Errno> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}

fn requester_config(options: &Options, about: BTreeMap<String, String>) -> RequesterConfig {
    let (dir, serves) = match (Mounter::of_process(), options.audience) {
        (Mounter::System, Audience::Everyone) => {
            (paths::system_requesters().into(), Serves::AnyUid)
        }
        (Mounter::System, Audience::Owner) => (paths::system_requesters().into(), Serves::Owner),
        // Serves its owner only, whoever the kernel lets in.
        (Mounter::User, Audience::Everyone | Audience::Owner) => {
            (paths::own_requesters(), Serves::Owner)
        }
    };
    RequesterConfig {
        dir,
        transport: options.transport,
        service: keys::SERVICE.into(),
        about,
        serves,
        limits: Limits::default(),
    }
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

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
    let dir = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    Ok(dir.into())
}

fn lower_failure(lower: &Path, error: &io::Error) -> Failure {
    let lower = lower.display();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound(format!("there is no folder {lower}")),
        io::ErrorKind::NotADirectory => Failure::NotFound(format!("{lower} is not a folder")),
        io::ErrorKind::PermissionDenied => Failure::Permission(format!("{lower}: {error}")),
        _ => Failure::Internal(format!("{lower}: {error}")),
    }
}

fn manifest_failure(lower: &Path, error: &ManifestError) -> Failure {
    let lower = lower.display();
    let text = match error {
        ManifestError::Missing => {
            format!("{lower} is not a volume: {error}\nmake one: claviger init {lower}")
        }
        _ => format!("{lower}: {error}"),
    };
    Failure::of_manifest(text, error)
}

fn take_failure(lower: &Path, error: TakeError) -> Failure {
    let text = format!("{}: {error}", lower.display());
    match error {
        TakeError::InUse => Failure::Busy(format!("{text}\nlook for it: findmnt -t fuse.claviger")),
        TakeError::Io(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::Permission(text)
        }
        TakeError::Io(source) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            Failure::Permission(format!("{text}\nmount it read-only: -o ro"))
        }
        TakeError::Io(_) => Failure::Internal(text),
    }
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
