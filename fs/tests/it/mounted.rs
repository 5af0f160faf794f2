//! A volume, mounted.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claviger_fs::filesystem::VolumeFs;
use claviger_fs::fuse::Engine;
use claviger_fs::kernel::{Expiry, Kernel};
use claviger_fs::keys::KeySource;
use claviger_fs::mount::ended;
use claviger_vault::dir::{Location, Record};
use claviger_vault::format::Format;
use claviger_vault::ids::Scope;
use claviger_vault::native::NativeFormat;
use fuser::{BackgroundSession, Config, InitFlags, MountOption, Session, SessionACL};

use crate::keys::InProcess;

/// What a mount takes the kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// This one, with all it can do.
    Present,
    /// The oldest that is supported: without `FUSE_HANDLE_KILLPRIV_V2` (Linux 5.11) and
    /// `FUSE_NOTIFY_INC_EPOCH` (6.16).
    Linux5_10,
}

/// A new volume in `/mnt`, and its mount.
pub(crate) struct Mounted {
    pub(crate) keys: Arc<InProcess>,
    pub(crate) fs: Arc<VolumeFs>,
    session: Option<(BackgroundSession, Kernel)>,
    age: Age,
    lower: PathBuf,
    upper: PathBuf,
}

impl Mounted {
    pub(crate) fn new() -> Self {
        Self::of_scope(Scope::Volume)
    }

    pub(crate) fn of_scope(scope: Scope) -> Self {
        Self::over(Path::new("/mnt/lower"), scope)
    }

    pub(crate) fn of_age(age: Age) -> Self {
        Self::make(Path::new("/mnt/lower"), Scope::Volume, age)
    }

    /// Makes a volume of the new folder `lower`.
    pub(crate) fn over(lower: &Path, scope: Scope) -> Self {
        Self::make(lower, scope, Age::Present)
    }

    pub(crate) fn make(lower: &Path, scope: Scope, age: Age) -> Self {
        // RUST_LOG shows what the filesystem says.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
        let upper = PathBuf::from("/mnt/upper");
        fs::create_dir(lower).expect("the folder is new");
        fs::create_dir_all(&upper).expect("the tmpfs is ours");
        fs::create_dir(lower.join(".claviger")).expect("the folder is empty");
        let keys = InProcess::new(scope);
        Record::create(open(lower), &keys.names_keys(), Location::ROOT)
            .expect("the folder is empty");
        let (fs, session) = mount(&keys, lower, &upper, age);
        Self {
            keys,
            fs,
            session: Some(session),
            age,
            lower: lower.into(),
            upper,
        }
    }

    /// Unmounts and mounts again: nothing is remembered but what is below.
    pub(crate) fn remount(&mut self) {
        self.unmount();
        let (fs, session) = mount(&self.keys, &self.lower, &self.upper, self.age);
        self.fs = fs;
        self.session = Some(session);
    }

    pub(crate) fn unmount(&mut self) {
        if let Some((session, _)) = self.session.take() {
            ended(session.umount_and_join()).expect("nothing uses the mount any more");
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.upper
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.upper.join(name)
    }

    pub(crate) fn lower(&self) -> &Path {
        &self.lower
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        let (_, kernel) = self.session.as_ref().expect("it is mounted");
        kernel
    }

    /// The lower file that was changed last among those of ours in `dir`.
    pub(crate) fn lower_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.lower.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("the lower folder reads") {
                let entry = entry.expect("the lower folder reads");
                if entry.file_type().expect("it has a type").is_dir() {
                    folders.push(entry.path());
                } else if entry.file_name() != claviger_vault::names::RECORD {
                    found.push(entry.path());
                }
            }
        }
        found
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn mount(
    keys: &Arc<InProcess>,
    lower: &Path,
    upper: &Path,
    age: Age,
) -> (Arc<VolumeFs>, (BackgroundSession, Kernel)) {
    let source = Arc::clone(keys) as Arc<dyn KeySource>;
    let format = Arc::new(NativeFormat {
        volume: keys.volume,
    });
    serve(format, source, lower, upper, age)
}

/// Mounts `lower` at `upper`.
pub(crate) fn serve(
    format: Arc<dyn Format>,
    source: Arc<dyn KeySource>,
    lower: &Path,
    upper: &Path,
    age: Age,
) -> (Arc<VolumeFs>, (BackgroundSession, Kernel)) {
    let fs = VolumeFs::new(open(lower), format, source).expect("the lower root is a directory");
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::DefaultPermissions,
        MountOption::Dev,
        MountOption::Suid,
        MountOption::FSName("claviger-test".into()),
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    config.clone_fd = true;
    let volume = Arc::clone(&fs);
    let engine = match age {
        Age::Present => Engine::new(volume),
        Age::Linux5_10 => Engine::without(InitFlags::FUSE_HANDLE_KILLPRIV_V2, volume),
    };
    let session = Session::new(engine, upper, &config).expect("root may mount");
    let kernel = match age {
        Age::Present => Kernel::of(&session),
        Age::Linux5_10 => Kernel::that_expires(Expiry::NameByName, &session),
    };
    let kernel = kernel.expect("a descriptor is left");
    (fs, (session.spawn().expect("a thread"), kernel))
}

fn open(folder: &Path) -> OwnedFd {
    fs::File::open(folder).expect("the folder is there").into()
}
