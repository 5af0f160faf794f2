//! Somebody with a home of his own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use claviger_hw_tests::show_programs;
use claviger_protocol::control::{Command as Order, GenerateKey, KeyInfo, Reply};
use claviger_vault::ids::VolumeId;
use nix::mount::{MsFlags, mount};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::{CLAVIGERD, Cli, Daemon, KERNELS_FOLDERS, Mount, PIN, wait_until};

/// Somebody with a home, a SoftHSM of his own, and an empty kernel keyring.
pub struct User {
    pub home: PathBuf,
    pub uid: u32,
}

impl User {
    pub fn become_owner_of(home: PathBuf) -> Self {
        use std::os::unix::fs::MetadataExt;

        let uid = fs::metadata(&home).unwrap().uid();
        let user = Self { home, uid };
        show_programs();
        show_kernels_folders();
        user.step_down();
        user.clear_keyring();
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            user.home.join("tokens").display()
        );
        fs::write(user.home.join("softhsm2.conf"), conf).unwrap();
        user.configure("[pkcs11]\nlibraries = ['/usr/lib/softhsm/libsofthsm2.so']\n");
        user
    }

    /// Becomes this user; root stays in the saved uid, see [`User::as_root`].
    fn step_down(&self) {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        setgroups(&[]).unwrap();
        setresgid(gid, gid, gid).unwrap();
        setresuid(uid, uid, Uid::from_raw(0)).unwrap();
    }

    /// Does `work` as root.
    pub fn as_root<T>(&self, work: impl FnOnce() -> T) -> T {
        let root = Uid::from_raw(0);
        setresuid(root, root, root).unwrap();
        let done = work();
        let uid = Uid::from_raw(self.uid);
        setresuid(uid, uid, root).unwrap();
        done
    }

    pub fn configure(&self, text: &str) {
        fs::write(self.home.join("config/claviger/config.toml"), text).unwrap();
    }

    /// A program with this user's environment and nothing else.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .envs(self.environment())
            .current_dir(&self.home);
        command
    }

    pub fn environment(&self) -> [(&'static str, PathBuf); 5] {
        [
            ("HOME", self.home.clone()),
            ("XDG_RUNTIME_DIR", self.home.join("run")),
            ("XDG_CONFIG_HOME", self.home.join("config")),
            ("XDG_STATE_HOME", self.home.join("state")),
            ("SOFTHSM2_CONF", self.home.join("softhsm2.conf")),
        ]
    }

    pub fn keyctl(&self, arguments: &[&str]) -> String {
        let output = self.command("keyctl").args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "keyctl {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn clear_keyring(&self) {
        self.keyctl(&["clear", "@u"]);
    }

    pub fn control_socket(&self) -> PathBuf {
        self.home.join("run/claviger/daemon.sock")
    }

    pub fn audit_log(&self) -> String {
        fs::read_to_string(self.home.join("state/claviger/audit.log")).unwrap_or_default()
    }

    /// Audit lines of one kind of event.
    pub fn audited(&self, event: &str) -> Vec<serde_json::Value> {
        let log = self.audit_log();
        let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &serde_json::Value| line["event"] == event)
            .collect()
    }

    /// A SoftHSM token with [`PIN`].
    pub fn make_token(&self, label: &str) {
        let made = self
            .command("softhsm2-util")
            .args(["--init-token", "--free", "--label", label])
            .args(["--so-pin", "00000000", "--pin", PIN])
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    }

    /// Moves what is in one folder to another: pulls a token, or puts it back.
    pub fn move_all(&self, from: &str, to: &str) {
        fs::create_dir_all(self.home.join(to)).unwrap();
        for entry in fs::read_dir(self.home.join(from)).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), self.home.join(to).join(entry.file_name())).unwrap();
        }
    }

    /// A CLI whose person types [`PIN`] whenever asked.
    pub fn cli(&self) -> Cli<'_> {
        Cli::new(self, |_| Some(PIN.into()))
    }

    /// A daemon, a token `card` and a key in it.
    pub fn with_card(&self) -> (Daemon, KeyInfo) {
        self.make_token("card");
        let daemon = self.start();
        let key = self.cli().generate_in_token("card");
        (daemon, key)
    }

    /// A key in a PEM file, without a passphrase.
    pub fn software_key(&self) -> KeyInfo {
        let order = Order::KeyGenerate(GenerateKey {
            module: "openssl".into(),
            key_type: Some("ec-p256".into()),
            token: None,
            label: Some("file key".into()),
            out: Some(self.home.join("key.pem")),
            pin: None,
        });
        match self.cli().run(order).unwrap() {
            Reply::Key(key) => key,
            other => panic!("{other:?}"),
        }
    }

    /// Starts `clavigerd` and waits until it serves.
    pub fn start(&self) -> Daemon {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.home.join("daemon.log"))
            .unwrap();
        let child = self
            .command(CLAVIGERD)
            .env("CLAVIGER_LOG", "debug")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Daemon { child };
        wait_until("the daemon serves", || {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "clavigerd ended: {ended:?}");
            UnixStream::connect(self.control_socket()).is_ok()
        });
        daemon
    }

    /// Poses as a filesystem with this volume.
    pub fn mount(&self, volume: VolumeId) -> Mount {
        Mount::start(self, volume)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if thread::panicking() {
            // It may have been root who panicked, whose keyring is not ours to clear.
            let log = fs::read_to_string(self.home.join("daemon.log")).unwrap_or_default();
            eprintln!("--- daemon\n{log}");
            return;
        }
        self.clear_keyring();
    }
}

/// Makes the folders that a kernel's eCryptfs wrote visible to every uid: the clone may lie where only its
/// owner enters.
fn show_kernels_folders() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/tests/data/ecryptfs");
    fs::create_dir(KERNELS_FOLDERS).unwrap();
    let none: Option<&str> = None;
    mount(Some(&data), KERNELS_FOLDERS, none, MsFlags::MS_BIND, none).unwrap();
}
