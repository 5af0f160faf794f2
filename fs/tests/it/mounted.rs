//! A volume, mounted.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claviger_fs::filesystem::VolumeFs;
use claviger_fs::fuse::Engine;
use claviger_vault::dir::{Location, Record};
use claviger_vault::ids::Scope;
use fuser::{BackgroundSession, Config, MountOption, Notifier, Session, SessionACL};

use crate::keys::InProcess;

/// A new volume in `/mnt`, and its mount.
pub(crate) struct Mounted {
    pub(crate) keys: Arc<InProcess>,
    pub(crate) fs: Arc<VolumeFs>,
    session: Option<BackgroundSession>,
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

    /// Makes a volume of the new folder `lower`.
    pub(crate) fn over(lower: &Path, scope: Scope) -> Self {
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
        let (fs, session) = mount(&keys, lower, &upper);
        Self {
            keys,
            fs,
            session: Some(session),
            lower: lower.into(),
            upper,
        }
    }

    /// Unmounts and mounts again: nothing is remembered but what is below.
    pub(crate) fn remount(&mut self) {
        self.unmount();
        let (fs, session) = mount(&self.keys, &self.lower, &self.upper);
        self.fs = fs;
        self.session = Some(session);
    }

    pub(crate) fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            session
                .umount_and_join()
                .expect("nothing uses the mount any more");
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

    pub(crate) fn notifier(&self) -> Notifier {
        self.session.as_ref().expect("it is mounted").notifier()
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

fn mount(keys: &Arc<InProcess>, lower: &Path, upper: &Path) -> (Arc<VolumeFs>, BackgroundSession) {
    let source = Arc::clone(keys) as Arc<dyn claviger_fs::keys::KeySource>;
    let fs = VolumeFs::new(open(lower), keys.volume, keys.scope, source)
        .expect("the lower root is a directory");
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
    let session = Session::new(Engine(Arc::clone(&fs)), upper, &config).expect("root may mount");
    (fs, session.spawn().expect("a thread"))
}

fn open(folder: &Path) -> OwnedFd {
    fs::File::open(folder).expect("the folder is there").into()
}
