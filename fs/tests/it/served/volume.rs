//! A volume in a temporary folder, and a mount of it by the program itself.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use claviger_hw_tests::wait_until;
use claviger_vault::dir::{Location, Record};
use claviger_vault::ids::{Scope, VolumeId};
use claviger_vault::manifest::{self, Manifest, Recipient, RecipientKind, ToWrap, Wrap};
use claviger_vault::names::NamesKeys;

use super::daemon::{Daemon, write_key_file};

/// An empty volume, and a mountpoint beside it.
pub(crate) struct Volume {
    root: tempfile::TempDir,
    pub(crate) lower: PathBuf,
    pub(crate) mountpoint: PathBuf,
}

/// A mount that this process serves in the foreground.
pub(crate) struct Mounted {
    pub(crate) child: Child,
    mountpoint: PathBuf,
    log: PathBuf,
}

impl Volume {
    pub(crate) fn make() -> Self {
        Self::make_in("claviger-")
    }

    /// The same, in a folder whose name begins with `prefix`.
    pub(crate) fn make_in(prefix: &str) -> Self {
        let root = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
        let lower = root.path().canonicalize().unwrap().join("lower");
        Self::make_at(root, lower)
    }

    /// The same, whose ciphertext goes to the new folder `lower`.
    pub(crate) fn make_over(lower: PathBuf) -> Self {
        Self::make_at(tempfile::tempdir().unwrap(), lower)
    }

    fn make_at(root: tempfile::TempDir, lower: PathBuf) -> Self {
        let mountpoint = root.path().canonicalize().unwrap().join("mnt");
        let volume = Self {
            root,
            lower,
            mountpoint,
        };
        fs::create_dir(&volume.lower).unwrap();
        fs::create_dir(&volume.mountpoint).unwrap();
        volume.init();
        volume
    }

    pub(crate) fn id(&self) -> VolumeId {
        let loaded = manifest::load(fs::File::open(&self.lower).unwrap()).unwrap();
        loaded.manifest.claims().volume()
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.root.path().join("epoch.key")
    }

    /// `claviger-fs LOWER MOUNTPOINT`, to which the caller may add.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_claviger-fs"));
        command
            .args([&self.lower, &self.mountpoint])
            .args(["-o", &self.log_option()]);
        command
    }

    /// Keeps the log of a mount in the background out of the machine's.
    pub(crate) fn log_option(&self) -> String {
        format!("log={}", self.root.path().join("background.log").display())
    }

    /// Mounts in the foreground and waits until that answers.
    pub(crate) fn mount(&self) -> Mounted {
        self.mount_with("defaults")
    }

    pub(crate) fn mount_with(&self, options: &str) -> Mounted {
        let log = self.root.path().join("fs.log");
        let child = self
            .command()
            .args(["-f", "-o", options])
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mounted = Mounted {
            child,
            mountpoint: self.mountpoint.clone(),
            log,
        };
        wait_until("mounted", || self.is_mounted());
        mounted
    }

    /// Mounts, with a daemon that has unlocked it.
    pub(crate) fn mount_unlocked(&self) -> (Mounted, Daemon) {
        let mounted = self.mount();
        let mut daemon = Daemon::start(&self.key_file());
        daemon.unlock();
        self.wait_unlocked();
        (mounted, daemon)
    }

    pub(crate) fn wait_unlocked(&self) {
        wait_until("unlocked", || fs::read_dir(&self.mountpoint).is_ok());
    }

    pub(crate) fn is_mounted(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        device(&self.mountpoint) != device(self.root.path())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    fn init(&self) {
        // Nothing here unwraps it: the daemon of these tests has its key from a file.
        let recipient = Recipient::new(RecipientKind::File, "test", vec![0x30, 0]);
        let wrap = |_: &Recipient, _: ToWrap<'_>| {
            Ok::<_, Infallible>(Wrap {
                algorithm: 100,
                body: vec![1; 80],
            })
        };
        let (manifest, key) = Manifest::create(Scope::Volume, vec![recipient], wrap).unwrap();
        let lower_root = fs::File::open(&self.lower).unwrap();
        manifest.store(&key, &lower_root).unwrap();
        let epoch = manifest.epoch();
        let names_key = key.names_key(manifest.volume());
        let names = NamesKeys::new(epoch, epoch, [(epoch, names_key)]).unwrap();
        Record::create(&lower_root, &names, Location::ROOT).unwrap();
        write_key_file(&self.key_file(), manifest.volume(), &key);
    }
}

impl Mounted {
    /// Waits until the server has logged `text`.
    pub(crate) fn wait_logged(&self, text: &str) {
        wait_until(&format!("logged: {text}"), || self.logged().contains(text));
    }

    /// What the server has logged.
    pub(crate) fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for the process to end.
    pub(crate) fn wait(mut self) -> std::process::ExitStatus {
        wait_until("ended", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = nix::mount::umount2(&self.mountpoint, nix::mount::MntFlags::MNT_DETACH);
        eprint!("{}", fs::read_to_string(&self.log).unwrap_or_default());
    }
}

/// What a program that is expected to fail says, and with which code it exits.
pub(crate) fn refusal(output: &Output) -> (i32, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("it was not killed"), said)
}
