//! Runs a story in namespaces of its own, by starting the test program again inside them.

use std::env;
use std::process::{Command, ExitStatus, id};

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
    let (_crate, test) = path.split_once("::").expect("a test has a path");
    match enter(&["--exact", test, "--nocapture"]) {
        Entered::Inside(mut world) => body(&mut world),
        Entered::Outside(status) => {
            assert!(
                status.success(),
                "the story '{test}' failed: see its output above"
            );
        }
    }
}

/// On which side of the namespaces this process is.
#[derive(Debug)]
pub enum Entered {
    /// Inside: everything here is this process's own.
    Inside(World),
    /// Outside: the same program has run inside, and ended so.
    Outside(ExitStatus),
}

/// Runs this program again with `args` in namespaces of its own, unless that has been done.
///
/// # Panics
/// If the namespaces cannot be made.
pub fn enter(args: &[&str]) -> Entered {
    if let Ok(uids) = env::var(INSIDE) {
        let first = uids.parse().expect("set by ourselves");
        return Entered::Inside(World::new(first));
    }
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
    Entered::Outside(
        command
            .args(args)
            .status()
            .expect("util-linux is installed"),
    )
}
