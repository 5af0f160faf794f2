//! Auth toks in the kernel's user keyring.
//!
//! Keyrings are not namespaced, so every test has a uid of its own, whose keyring it clears.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Uid;
use tempfile::TempDir;

use crate::mock::example;

/// A user that nobody else is, with the probe program where he can run it.
struct User {
    uid: u32,
    folder: TempDir,
}

impl User {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            Uid::effective().is_root(),
            "only root can take on a uid of its own"
        );
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        // A clone may be below a folder that other users cannot enter.
        fs::copy(example("keyring_probe"), folder.path().join("probe")).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            uid: 1_000_000_000 + std::process::id() * 64 + number,
            folder,
        }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("probe")
    }

    fn probe(&self) -> Probe {
        let mut child = Command::new(self.program())
            .uid(self.uid)
            .gid(self.uid)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Probe {
            child,
            input: Some(input),
            output,
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.probe().does("clear", "ok");
    }
}

struct Probe {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Probe {
    fn says(&mut self, line: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim_end().into()
    }

    #[track_caller]
    fn does(&mut self, line: &str, expected: &str) {
        assert_eq!(self.says(line), expected, "{line}");
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().unwrap();
    }
}

#[test]
fn an_auth_tok_put_by_one_process_is_found_by_another_and_outlives_the_first() {
    let user = User::new();
    let mut daemon = user.probe();
    daemon.does("join", "keyring");
    daemon.does("find 1", "none");
    {
        let mut other = user.probe();
        other.does("join", "keyring");
        other.does("put 1 pkcs11 pkcs11:token=T", "ok");
    }
    daemon.does("find 1", "pkcs11 pkcs11:token=T");
    daemon.does("find-in-thread 1", "pkcs11");
    daemon.does("put 1 tpm /keys/1.pem", "ok");
    user.probe().does("join", "keyring");
    daemon.does("find 1", "tpm /keys/1.pem");
    daemon.does("remove 1", "ok");
    daemon.does("remove 1", "ok");
    daemon.does("find 1", "none");
}

#[test]
fn an_auth_tok_unlinked_by_hand_is_gone_at_once_and_back_when_it_is_put_back() {
    let user = User::new();
    let mut daemon = user.probe();
    daemon.does("join", "keyring");
    daemon.does("put 1 pkcs11 pkcs11:token=T", "ok");
    let mut keyctl = user.probe();
    keyctl.does("unlink 1", "ok");
    daemon.does("find 1", "none");
    daemon.does("put 1 pkcs11 pkcs11:token=T", "ok");
    daemon.does("find 1", "pkcs11 pkcs11:token=T");
    keyctl.does("join", "keyring");
    keyctl.does("revoke 1", "ok");
    daemon.does("find 1", "none");
    daemon.does("put 1 pkcs11 pkcs11:token=T", "ok");
    daemon.does("find 1", "pkcs11 pkcs11:token=T");
}

#[test]
fn what_is_no_auth_tok_is_named_as_such() {
    let user = User::new();
    let mut daemon = user.probe();
    daemon.does("join", "keyring");
    user.probe().does("nonsense 7", "ok");
    let expected = format!("the auth tok of key {} is malformed", "07".repeat(32));
    daemon.does("find 7", &expected);
}

#[test]
fn a_used_up_quota_is_named_as_such() {
    let user = User::new();
    let mut daemon = user.probe();
    daemon.does("join", "keyring");
    let locator = "x".repeat(512);
    let full = (1..=255).find_map(|number| {
        let answer = daemon.says(&format!("put {number} pkcs11 {locator}"));
        (answer != "ok").then_some((number, answer))
    });
    // 20,000 bytes a uid; a machine may be set up to allow more, not fewer.
    let (number, answer) = full.unwrap();
    assert!(number > 25, "{number} auth toks of the greatest size");
    let expected = "the kernel's key quota of this user is used up (see /proc/key-users)";
    assert_eq!(answer, expected);
}

#[test]
fn where_the_kernel_refuses_keyctl_they_are_in_memory_and_it_says_so() {
    let user = User::new();
    let mut daemon = user.probe();
    daemon.does("refuse-keyctl", "ok");
    daemon.does("join", "memory: Operation not permitted (os error 1)");
    daemon.does("put 1 pkcs11 pkcs11:token=T", "ok");
    daemon.does("find 1", "pkcs11 pkcs11:token=T");
    let mut other = user.probe();
    other.does("join", "keyring");
    other.does("find 1", "none");
}
