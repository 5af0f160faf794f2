//! Runs a test in namespaces of its own, by starting the test program again inside them: what it mounts,
//! listens on and starts is gone with it, even by `kill -9`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Uid;

use crate::World;

/// Set inside the namespaces; its value is the first uid that the story may use.
const INSIDE: &str = "CLAVIGER_STORY_UIDS";

/// Above what distributions give to people and containers, below the overflow uid's 16-bit twin's
/// neighbours. The kernel keyring is not namespaced, so stories at the same time need uids of their own.
const FIRST_UID: u32 = 3_000_000;

/// What every test finds in its namespaces.
const FURNISH: &str =
    "mount -t tmpfs -o nodev,mode=0755 none /run && ip link set lo up && exec \"$0\" \"$@\"";

/// How many users one story may have.
pub(crate) const UIDS_PER_STORY: u32 = 8;

/// Runs `body` in a new [`World`]; `path` is the test's full name, the crate's included.
///
/// # Panics
/// If the story fails, or the namespaces cannot be made.
pub fn tell(path: &str, body: fn(&mut World)) {
    match inside() {
        Some(mut world) => body(&mut world),
        None => rerun(path, INSIDE, first_uid()),
    }
}

/// Runs a test of this program once more, where it has a `/run`, a loopback and pids of its own and
/// `variable` tells it so. `path` is the test's full name, the crate's included.
///
/// # Panics
/// If it fails there, or no test is called so: one that did not run would count as one that passed.
pub fn rerun(path: &str, variable: &str, value: impl AsRef<OsStr>) {
    let (_crate, test) = path.split_once("::").expect("a test has a path");
    let mut child = this_program(variable, value.as_ref())
        .args(["--exact", test, "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is installed");
    let mut ran = false;
    // Ends when all that the test has started is gone: its pids die with its first process.
    for line in BufReader::new(child.stdout.take().expect("piped above")).lines() {
        let line = line.expect("tests print text");
        ran |= line.contains("1 passed");
        println!("{line}");
    }
    let status = child.wait().expect("it is our child");
    assert!(status.success(), "{test} failed, see above: {status}");
    assert!(ran, "no test is called {test}");
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
    if let Some(world) = inside() {
        return Entered::Inside(world);
    }
    let status = this_program(INSIDE, first_uid().as_ref())
        .args(args)
        .status();
    Entered::Outside(status.expect("util-linux is installed"))
}

fn inside() -> Option<World> {
    let uids = env::var(INSIDE).ok()?;
    Some(World::new(uids.parse().expect("set by ourselves")))
}

/// Not another's: `cargo test` tells several stories at once in one process, nextest each in its own.
fn first_uid() -> String {
    static STORIES: AtomicU32 = AtomicU32::new(0);
    let story = STORIES.fetch_add(1, Ordering::Relaxed) * 100_000 + id() % 100_000;
    (FIRST_UID + story * UIDS_PER_STORY).to_string()
}

/// This program in new namespaces, as root.
fn this_program(variable: &str, value: &OsStr) -> Command {
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
    let mut setting = OsString::from(variable);
    setting.push("=");
    setting.push(value);
    command.arg(setting);
    // sudo drops them.
    for name in ["RUST_BACKTRACE", "CI"] {
        command.args(env::var(name).ok().map(|value| format!("{name}={value}")));
    }
    command.args(["sh", "-c", FURNISH]);
    command.arg(env::current_exe().expect("/proc is mounted"));
    command
}
