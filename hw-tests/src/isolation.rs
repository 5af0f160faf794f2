//! Runs a story in namespaces of its own, by starting the test program again inside them.

use std::env;
use std::process::{Command, id};

use nix::unistd::Uid;

use crate::World;

/// Set inside the namespaces; its value is the first uid that the story may use.
const INSIDE: &str = "CLAVIGER_STORY_UIDS";

/// Above what distributions give to people and containers, below the overflow uid's 16-bit twin's
/// neighbours. The kernel keyring is not namespaced, so stories at the same time need uids of their own.
const FIRST_UID: u32 = 3_000_000;

/// How many users one story may have.
pub(crate) const UIDS_PER_STORY: u32 = 8;

/// Runs `body` in a new [`World`]; `path` is the test's full name, the crate's included.
///
/// # Panics
/// If the story fails, or the namespaces cannot be made.
pub fn tell(path: &str, body: fn(&mut World)) {
    if let Ok(uids) = env::var(INSIDE) {
        let first = uids.parse().expect("set by ourselves");
        let mut world = World::new(first);
        body(&mut world);
        return;
    }
    let (_crate, test) = path.split_once("::").expect("a test has a path");
    let first = FIRST_UID + (id() % 100_000) * UIDS_PER_STORY;
    let mut command = if Uid::effective().is_root() {
        Command::new("unshare")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "unshare"]);
        sudo
    };
    command.args([
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child=KILL",
        "env",
    ]);
    command.arg(format!("{INSIDE}={first}"));
    for name in ["RUST_BACKTRACE", "CI"] {
        command.args(env::var(name).ok().map(|value| format!("{name}={value}")));
    }
    command.arg(env::current_exe().expect("/proc is mounted"));
    command.args(["--exact", test, "--nocapture"]);
    let status = command.status().expect("util-linux is installed");
    assert!(
        status.success(),
        "the story '{test}' failed: see its output above"
    );
}
