//! A user, his daemon, his tokens, his CLI.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use claviger_callout::{Observer, Requester, RequesterConfig};
use claviger_protocol::control::{
    Command as Order, Conversation, FromDaemon, GenerateKey, KeyInfo, KeyRef, Prompt, PromptPlace,
    Recovery, Reply, ToDaemon, UnlockWith, VERSION,
};
use claviger_protocol::keys::{KeyEvent, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::{Scope, VolumeId};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use zeroize::Zeroizing;

/// The PIN of every token here; long enough that finding it in memory is no accident.
pub const PIN: &str = "planted-pin-7391";

/// Longest wait for anything: far beyond what a loaded machine needs.
const SOON: Duration = Duration::from_secs(30);

const INSIDE: &str = "CLAVIGERD_TEST_HOME";

/// Declares a test whose body runs as a [`User`] of its own.
macro_rules! user_test {
    ($(#[$attribute:meta])* fn $name:ident($user:ident) $body:block) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            crate::harness::as_user(concat!(module_path!(), "::", stringify!($name)), |$user| $body);
        }
    };
}
pub(crate) use user_test;

/// Runs `body` in new namespaces, as a uid that nobody else has.
pub fn as_user(test: &str, body: impl FnOnce(&User)) {
    if let Some(home) = std::env::var_os(INSIDE) {
        let user = User::become_owner_of(home.into());
        body(&user);
        user.clear_keyring();
        return;
    }
    assert!(
        Uid::effective().is_root(),
        "these tests switch users and need root"
    );
    build_modules();
    let home = tempfile::tempdir().unwrap();
    // Of one process at a time, so of one test at a time.
    let uid = 1_000_000 + std::process::id();
    for folder in [".", "run", "config", "config/claviger", "state", "tokens"] {
        let path = home.path().join(folder);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&path, Some(uid), Some(uid)).unwrap();
    }
    let test = test.split_once("::").unwrap().1;
    // A /run of its own: root's mounts of other tests must not be seen.
    let script = "mount -t tmpfs tmpfs /run && ip link set lo up && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child=KILL",
        ])
        .args(["sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, home.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let log = fs::read_to_string(home.path().join("daemon.log")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}\n{}\n--- daemon\n{log}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert!(
        text(&output.stdout).contains("1 passed"),
        "ran nothing: {test}"
    );
}

/// The modules that this crate's tests use, beside the program under test.
fn build_modules() {
    let program = Path::new(env!("CARGO_BIN_EXE_clavigerd"));
    let names = ["claviger-pki-openssl", "claviger-pki-pkcs11"];
    if names
        .iter()
        .all(|name| program.with_file_name(name).exists())
    {
        return;
    }
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            names[0],
            "--package",
            names[1],
        ])
        .status()
        .unwrap();
    assert!(built.success(), "the modules do not build");
}

/// Somebody with a home, a SoftHSM of his own, and an empty kernel keyring.
pub struct User {
    pub home: PathBuf,
    pub uid: u32,
}

impl User {
    fn become_owner_of(home: PathBuf) -> Self {
        use std::os::unix::fs::MetadataExt;

        let uid = fs::metadata(&home).unwrap().uid();
        let user = Self { home, uid };
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

    fn clear_keyring(&self) {
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

    /// A CLI whose person types [`PIN`] whenever asked.
    pub fn cli(&self) -> Cli<'_> {
        Cli {
            user: self,
            place: PromptPlace::default(),
            answer: Box::new(|_| Some(PIN.into())),
        }
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
            .command(env!("CARGO_BIN_EXE_clavigerd"))
            .env("CLAVIGER_LOG", "debug")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Daemon { child };
        until("the daemon serves", || {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "clavigerd ended: {ended:?}");
            UnixStream::connect(self.control_socket()).is_ok()
        });
        daemon
    }

    /// Poses as a filesystem with this volume.
    pub fn mount(&self, volume: VolumeId) -> Mount {
        let events = Arc::new(Events::default());
        let mut config = RequesterConfig::new(self.home.join("run/claviger/mounts"), "test/1");
        config.about = BTreeMap::from([
            ("volume".into(), volume.to_string()),
            ("mountpoint".into(), "/mnt".into()),
            ("lower".into(), "/lower".into()),
        ]);
        let requester = Requester::start(config, events.clone()).unwrap();
        assert!(
            requester.wait_registered(self.uid, SOON),
            "the daemon does not register"
        );
        Mount {
            requester,
            events,
            uid: self.uid,
            volume,
        }
    }
}

/// A running `clavigerd`, killed when dropped.
pub struct Daemon {
    pub child: Child,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Processes that it has started and that live.
    pub fn children(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
        let lists: Vec<String> = lists.map(Result::unwrap_or_default).collect();
        lists
            .join(" ")
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    /// Everything in the memory of `pid` that can be read; to be called as root.
    pub fn memory_of(pid: u32) -> Vec<Vec<u8>> {
        use std::os::unix::fs::FileExt;

        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut found = Vec::new();
        for line in maps.lines() {
            let (range, rest) = line.split_once(' ').unwrap();
            if !rest.starts_with('r') || line.contains("[v") {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let parse = |text| u64::from_str_radix(text, 16).unwrap();
            let mut area = vec![0; usize::try_from(parse(end) - parse(start)).unwrap()];
            // A secret area cannot be read, not even by root: that is its purpose.
            if memory.read_exact_at(&mut area, parse(start)).is_ok() {
                found.push(area);
            }
        }
        assert!(!found.is_empty(), "nothing of process {pid} could be read");
        found
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Person<'a> = Box<dyn Fn(&Prompt) -> Option<String> + Send + Sync + 'a>;

/// The CLI's end of a control connection, and the person before it.
pub struct Cli<'a> {
    user: &'a User,
    pub place: PromptPlace,
    answer: Person<'a>,
}

impl<'a> Cli<'a> {
    /// With a person who answers so.
    pub fn answering(
        mut self,
        answer: impl Fn(&Prompt) -> Option<String> + Send + Sync + 'a,
    ) -> Self {
        self.answer = Box::new(answer);
        self
    }

    pub fn connect(&self, command: Order) -> Conversation {
        let stream = UnixStream::connect(self.user.control_socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut conversation = Conversation::new(stream).unwrap();
        let message = ToDaemon::Command {
            version: VERSION,
            prompt_place: self.place.clone(),
            command,
        };
        conversation.send(&message).unwrap();
        conversation
    }

    /// Runs a command to its end.
    pub fn run(&self, command: Order) -> Result<Reply, Failure> {
        let mut conversation = self.connect(command);
        loop {
            match conversation.receive().unwrap() {
                FromDaemon::Prompt(prompt) => self.reply(&mut conversation, &prompt),
                FromDaemon::Notice(_) => {}
                FromDaemon::Done(result) => return result,
            }
        }
    }

    /// Answers one prompt as the person would.
    pub fn reply(&self, conversation: &mut Conversation, prompt: &Prompt) {
        let answer = (self.answer)(prompt).map(|text| Secret::new(text.into_bytes()));
        conversation.send(&ToDaemon::Answer(answer)).unwrap();
    }

    pub fn generate_in_token(&self, token: &str) -> KeyInfo {
        let order = Order::KeyGenerate(GenerateKey {
            module: "pkcs11".into(),
            key_type: Some("ec-p256".into()),
            token: Some(format!("pkcs11:token={token}")),
            label: Some(format!("{token} key")),
            out: None,
            pin: None,
        });
        match self.run(order).unwrap() {
            Reply::Key(key) => key,
            other => panic!("{other:?}"),
        }
    }

    /// Makes a volume in `~/NAME`; the recovery key's text, if one was asked for.
    pub fn init(
        &self,
        name: &str,
        scope: Scope,
        keys: &[&KeyInfo],
        recovery: Recovery,
    ) -> (PathBuf, VolumeId, Option<Secret>) {
        let dir = self.user.home.join(name);
        let order = Order::Init {
            dir: dir.clone(),
            scope,
            recipients: keys
                .iter()
                .map(|key| KeyRef::Id(key.key_id.clone()))
                .collect(),
            passphrase: None,
            recovery,
        };
        match self.run(order).unwrap() {
            Reply::Initialised {
                volume, recovery, ..
            } => (dir, volume, recovery),
            other => panic!("{other:?}"),
        }
    }

    pub fn unlock(&self, dir: &Path, with: UnlockWith) -> Result<Reply, Failure> {
        self.run(Order::Unlock {
            dir: dir.into(),
            with,
        })
    }
}

/// A stand-in for a filesystem: the requester's end of callout.
pub struct Mount {
    requester: Requester,
    events: Arc<Events>,
    uid: u32,
    pub volume: VolumeId,
}

#[derive(Default)]
struct Events(Mutex<Vec<KeyEvent>>);

impl Observer for Events {
    fn event(&self, _uid: u32, body: &[u8]) {
        self.0
            .lock()
            .unwrap()
            .push(postcard::from_bytes(body).unwrap());
    }
}

impl Mount {
    pub fn ask(&self, request: &KeyRequest) -> KeyReply {
        let body = Zeroizing::new(postcard::to_stdvec(request).unwrap());
        let deadline = Instant::now() + SOON;
        let answer = self.requester.call(self.uid, body, deadline).unwrap();
        postcard::from_bytes(&answer).unwrap()
    }

    pub fn fresh(&self) -> claviger_protocol::keys::FreshFile {
        let request = KeyRequest::Fresh {
            volume: self.volume,
            count: 1,
        };
        match self.ask(&request) {
            KeyReply::Fresh(mut files) => files.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub fn unwrap(&self, header: &[u8]) -> Result<Vec<Secret>, Failure> {
        let request = KeyRequest::UnwrapFek {
            volume: self.volume,
            header: header.to_vec(),
            lower_path: b"lower-name".to_vec(),
            pid: std::process::id(),
        };
        match self.ask(&request) {
            KeyReply::Feks { feks, .. } => Ok(feks),
            KeyReply::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    pub fn wait_event(&self, event: KeyEvent) {
        until("an event", || {
            self.events.0.lock().unwrap().contains(&event)
        });
    }
}

/// Waits for a condition.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a child says on stderr until it ends.
pub fn stderr_of(mut child: Child) -> (std::process::ExitStatus, String) {
    let mut text = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    (child.wait().unwrap(), text)
}
