//! Whoever waits for a key can be interrupted, and never waits for himself.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::daemon::{Daemon, Unwraps};
use super::volume::{Mounted, Volume};
use crate::namespaces::isolated;

/// The promise: `EINTR` within this.
const SOON: Duration = Duration::from_millis(200);

/// What a machine that also builds programs may add to it.
const SLACK: Duration = Duration::from_millis(300);

/// A file that is not open, whose opening takes a person.
fn file_that_waits() -> (Volume, Mounted, Daemon) {
    let volume = Volume::make();
    let (mounted, daemon) = volume.mount_unlocked();
    fs::write(volume.path("file"), "content").unwrap();
    // A locked mount has forgotten whom it granted the file.
    let mut daemon = daemon;
    daemon.lock();
    daemon.unlock();
    volume.wait_unlocked();
    daemon.unwraps(Unwraps::Hold);
    (volume, mounted, daemon)
}

fn cat(path: &Path) -> Child {
    let mut command = Command::new("cat");
    command
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

#[test]
fn a_signal_ends_the_wait_for_a_key_and_calls_the_daemon_back() {
    isolated!();
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let (volume, _mounted, daemon) = file_that_waits();
        let mut waiting = cat(&volume.path("file"));
        daemon.expect("holds ");
        let sent = Instant::now();
        kill(pid(&waiting), signal).unwrap();
        let status = waiting.wait().unwrap();
        assert!(
            sent.elapsed() < SOON + SLACK,
            "{signal}: {:?}",
            sent.elapsed()
        );
        assert_eq!(status.signal(), Some(signal as i32));
        daemon.expect("cancelled");
    }
}

#[test]
fn an_ignored_signal_ends_no_wait() {
    isolated!();
    let (volume, _mounted, mut daemon) = file_that_waits();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' INT; exec cat \"$0\""])
        .arg(volume.path("file"));
    let waiting = shell.stdout(Stdio::piped()).spawn().unwrap();
    daemon.expect("holds ");
    kill(pid(&waiting), Signal::SIGINT).unwrap();
    daemon.unwraps(Unwraps::Answer);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"content");
}

#[test]
fn of_two_who_wait_for_one_file_the_other_still_gets_it() {
    isolated!();
    let (volume, _mounted, mut daemon) = file_that_waits();
    let mut first = cat(&volume.path("file"));
    daemon.expect("holds ");
    let second = cat(&volume.path("file"));
    kill(pid(&first), Signal::SIGKILL).unwrap();
    first.wait().unwrap();
    daemon.unwraps(Unwraps::Answer);
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"content");
}

#[test]
fn a_lock_answers_everyone_who_waits() {
    isolated!();
    let (volume, _mounted, mut daemon) = file_that_waits();
    let waiting = cat(&volume.path("file"));
    daemon.expect("holds ");
    daemon.lock();
    let output = waiting.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Required key not available"), "{said}");
}

#[test]
fn the_daemon_and_what_it_starts_are_refused_at_once() {
    isolated!();
    let (volume, _mounted, mut daemon) = file_that_waits();
    let asked = Instant::now();
    let said = daemon.cat(&volume.path("file"));
    assert!(said.contains("Required key not available"), "{said}");
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
}
