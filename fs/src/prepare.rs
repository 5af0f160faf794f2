//! What can be wrong with a mount, found out before anything is mounted.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use claviger_protocol::Failure;
use claviger_vault::ecryptfs::{
    EcryptfsFormat, EcryptfsTree, LowerOwner, MountOptions, View, folder_id,
};
use claviger_vault::format::{Format, Tree};
use claviger_vault::ids::VolumeId;
use claviger_vault::manifest::{self, ManifestError};
use claviger_vault::native::NativeFormat;
use nix::mount::MsFlags;
use nix::sys::stat::fstat;
use nix::unistd::Uid;

use crate::args::Args;
use crate::bodies::{Bodies, EcryptfsBodies, NativeBodies};
use crate::mount_table;
use crate::mountpoint;
use crate::options::{FormatOption, Options};
use crate::writer::{LOCK_FILE, TakeError, Taken, Use};

/// How long the server of a mount that has just been unmounted may take to write everything out.
const LEAVING: Duration = Duration::from_secs(2);

/// A volume that can be mounted: checked, and taken from other writers.
pub struct Prepared {
    pub(crate) lower: PathBuf,
    pub(crate) lower_root: OwnedFd,
    pub(crate) mountpoint: PathBuf,
    pub(crate) served: Served,
    pub(crate) options: Options,
    pub(crate) taken: Taken,
}

/// What is to be served, by its format.
pub(crate) struct Served {
    /// The volume's id, or what stands for it.
    pub(crate) id: VolumeId,
    pub(crate) format: Arc<dyn Format>,
    /// What its daemons are asked.
    pub(crate) bodies: Box<dyn Bodies>,
    /// The tree, where it is open to everybody and no daemon is asked.
    pub(crate) open: Option<Arc<dyn Tree>>,
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
    let purpose = if options.flags.contains(MsFlags::MS_RDONLY) {
        Use::Read
    } else {
        Use::Write
    };
    let (served, lock) = match &options.format {
        FormatOption::Native => (native(&lower, &lower_root)?, LOCK_FILE),
        FormatOption::Ecryptfs(of_format) => {
            check_owner(of_format.owner, &lower_root, &lower)?;
            if purpose == Use::Write {
                refuse_beside_the_kernel(&lower)?;
            }
            (ecryptfs(&lower, of_format)?, "the lower folder")
        }
    };
    let taken = match &options.format {
        FormatOption::Native => Taken::take_within(&lower, purpose, LEAVING),
        // Nothing of ours may lie in a folder that the kernel mounts, too.
        FormatOption::Ecryptfs(_) => Taken::take_folder_within(&lower_root, purpose, LEAVING),
    };
    let taken = taken.map_err(|error| take_failure(&lower, lock, error))?;
    Ok(Prepared {
        lower,
        lower_root,
        mountpoint,
        served,
        options,
        taken,
    })
}

fn native(lower: &Path, lower_root: &OwnedFd) -> Result<Served, Failure> {
    let loaded = manifest::load(lower_root);
    let loaded = loaded.map_err(|error| manifest_failure(lower, &error))?;
    if let manifest::Copy::Backup { because } = &loaded.copy {
        tracing::warn!(%because, "the manifest's backup is used");
    }
    // Whoever has the epoch key verifies it, the daemon; what is used here, the id, is bound into
    // every key that the daemon gives.
    let claims = loaded.manifest.claims();
    let (volume, scope) = (claims.volume(), claims.scope());
    Ok(Served {
        id: volume,
        format: Arc::new(NativeFormat { volume }),
        bodies: Box::new(NativeBodies::new(volume, scope, lower)),
        open: None,
    })
}

/// Refuses the lower folder of another user, if the options ask for that. It goes by the real uid, as the
/// kernel does, and by the folder that is open: what its path names may change (CVE-2011-1833).
fn check_owner(owner: LowerOwner, root: &OwnedFd, lower: &Path) -> Result<(), Failure> {
    if owner == LowerOwner::Anybody {
        return Ok(());
    }
    let stat = fstat(root).map_err(|errno| lower_failure(lower, &errno.into()))?;
    if Uid::from_raw(stat.st_uid) == Uid::current() {
        return Ok(());
    }
    Err(Failure::Permission(format!(
        "{} belongs to uid {}\n'ecryptfs_check_dev_ruid' lets its owner mount it only",
        lower.display(),
        stat.st_uid
    )))
}

/// Refuses a folder that the kernel's eCryptfs has mounted, too: neither would see what the other
/// writes, and both would write whole extents.
fn refuse_beside_the_kernel(lower: &Path) -> Result<(), Failure> {
    let mounts = claviger_protocol::mount_table::read();
    let mounts = mounts.map_err(|error| Failure::Internal(format!("/proc: {error}")))?;
    match mount_table::kernel_ecryptfs_of(lower, mounts) {
        None => Ok(()),
        Some(mountpoint) => Err(Failure::Busy(format!(
            "the kernel's eCryptfs is mounted at {}, over files of {}\n\
             unmount that first, or mount read-only: -o ro",
            mountpoint.display(),
            lower.display()
        ))),
    }
}

fn ecryptfs(lower: &Path, options: &MountOptions) -> Result<Served, Failure> {
    tracing::warn!(
        lower = %lower.display(),
        "eCryptfs authenticates nothing: who can write to the lower folder can change what is read here"
    );
    let id = folder_id(lower);
    // Names are shown as they are below, too.
    let options = match options.view {
        View::Content => options.clone(),
        View::Encrypted => MountOptions {
            fnek: None,
            ..options.clone()
        },
    };
    let open: Option<Arc<dyn Tree>> = match options.view {
        View::Content => None,
        View::Encrypted => {
            let tree = EcryptfsTree::new(options.clone(), None);
            Some(Arc::new(
                tree.map_err(|error| Failure::Internal(error.to_string()))?,
            ))
        }
    };
    Ok(Served {
        id,
        bodies: Box::new(EcryptfsBodies::new(id, options.clone())),
        format: Arc::new(EcryptfsFormat { options }),
        open,
    })
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
            format!(
                "{lower} is not a volume: {error}\nmake one: claviger init {lower}\na folder of eCryptfs is mounted with --format ecryptfs"
            )
        }
        _ => format!("{lower}: {error}"),
    };
    Failure::of_manifest(text, error)
}

fn take_failure(lower: &Path, lock: &str, error: TakeError) -> Failure {
    let text = match error {
        TakeError::InUse => format!("{}: {error}", lower.display()),
        TakeError::Io(_) => format!("{}: {lock}: {error}", lower.display()),
    };
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
