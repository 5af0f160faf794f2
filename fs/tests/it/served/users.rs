//! A mount of root's with several users, each with a daemon of his own.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use claviger_vault::epoch::EpochKey;

use super::daemon::{self, Daemon, Unwraps};
use super::volume::{Mounted, Volume};
use crate::namespaces::isolated;

const ANN: u32 = 23_041;
const BOB: u32 = 23_042;
const ROOT: u32 = 0;

/// A volume in which everybody may make files, mounted for everybody.
fn shared() -> (Volume, Mounted) {
    let volume = Volume::make();
    let base = volume.lower.parent().unwrap();
    fs::set_permissions(base, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&volume.lower, fs::Permissions::from_mode(0o777)).unwrap();
    let mounted = volume.mount_with("allow_other");
    (volume, mounted)
}

/// What `uid` gets of `sh -c SCRIPT PATH`: what it prints, or the error it names.
fn sh(uid: u32, script: &str, path: &Path) -> Result<String, String> {
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(path)
        .stdin(Stdio::null())
        .uid(uid)
        .gid(uid)
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    let said = String::from_utf8(output.stderr).unwrap();
    Err(said
        .trim()
        .rsplit(": ")
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// A process of `uid` that has `path` open for as long as its standard input is.
fn hold_open(uid: u32, path: &Path) -> Child {
    let mut holder = Command::new("sh")
        .args(["-c", "exec 3<> \"$0\" && echo open && cat > /dev/null"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .uid(uid)
        .gid(uid)
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    holder
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"open\n");
    holder
}

fn cat(uid: u32, path: &Path) -> Result<String, String> {
    sh(uid, "cat \"$0\"", path)
}

fn ls(uid: u32, path: &Path) -> Result<String, String> {
    sh(uid, "ls \"$0\"", path)
}

fn no_key<T>() -> Result<T, String> {
    Err("Required key not available".into())
}

#[test]
fn names_are_for_all_contents_for_whom_his_own_daemon_grants_them() {
    isolated!();
    let (volume, _mounted) = shared();
    let mut ann = Daemon::start_as(ANN, &volume.key_file());
    let mut bob = Daemon::start_as(BOB, &volume.key_file());
    let file = volume.path("file");
    let folder = &volume.mountpoint;
    assert_eq!(ls(ANN, folder), no_key());

    ann.unlock();
    volume.wait_unlocked();
    sh(ANN, "umask 0; echo by ann > \"$0\"", &file).unwrap();
    assert_eq!(ls(BOB, folder), Ok("file\n".into()));
    assert_eq!(cat(BOB, &file), no_key());
    assert_eq!(cat(ROOT, &file), no_key(), "root has no daemon");

    bob.unlock();
    bob.expect("names");
    assert_eq!(cat(BOB, &file), Ok("by ann\n".into()));
    sh(BOB, "echo by bob >> \"$0\"", &file).unwrap();
    let stat = fs::metadata(&file).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&stat), ANN);

    ann.lock();
    assert_eq!(cat(ANN, &file), no_key());
    assert_eq!(ls(ANN, folder), Ok("file\n".into()));
    assert_eq!(cat(BOB, &file), Ok("by ann\nby bob\n".into()));

    bob.lock();
    assert_eq!(ls(BOB, folder), no_key());
    assert_eq!(cat(BOB, &file), no_key());
}

#[test]
fn who_has_the_names_gets_no_content_by_a_daemon_that_invents_its_keys() {
    isolated!();
    let (volume, mounted) = shared();
    let mut ann = Daemon::start_as(ANN, &volume.key_file());
    let mut mallory = Daemon::start_as(BOB, &volume.key_file());
    ann.unlock();
    volume.wait_unlocked();
    mallory.unlock();
    mallory.expect("names");
    mallory.unwraps(Unwraps::Invent);
    let file = volume.path("file");
    sh(ANN, "umask 0; echo by ann > \"$0\"", &file).unwrap();
    let held = hold_open(ANN, &file);
    let refused = |done| assert_eq!(done, Err("Input/output error".into()));
    refused(cat(BOB, &file));
    refused(sh(BOB, "cat >> \"$0\"", &file));
    mounted.wait_logged("refused with EIO");
    held.wait_with_output().unwrap();
    assert_eq!(cat(ANN, &file), Ok("by ann\n".into()));
    mallory.unwraps(Unwraps::Answer);
    assert_eq!(cat(BOB, &file), Ok("by ann\n".into()));
}

#[test]
fn who_has_gone_does_not_keep_the_names_open_when_the_last_one_locks() {
    isolated!();
    let (volume, mounted) = shared();
    let mut ann = Daemon::start_as(ANN, &volume.key_file());
    let mut bob = Daemon::start_as(BOB, &volume.key_file());
    ann.unlock();
    ann.expect("names");
    bob.unlock();
    bob.expect("names");
    mounted.wait_logged("unlocked uid=23042");
    drop(ann);
    mounted.wait_logged("a daemon went uid=23041");
    assert_eq!(ls(ANN, &volume.mountpoint), Ok(String::new()));
    bob.lock();
    assert_eq!(ls(ANN, &volume.mountpoint), no_key());
}

#[test]
fn invented_names_keys_are_refused() {
    isolated!();
    let (volume, mounted) = shared();
    let invented = volume.key_file().with_file_name("invented.key");
    daemon::write_key_file(&invented, volume.id(), &EpochKey::random().unwrap());
    let mut mallory = Daemon::start_as(BOB, &invented);
    mallory.unlock();
    mounted.wait_logged("names keys refused");
    assert_eq!(ls(BOB, &volume.mountpoint), no_key());

    let mut ann = Daemon::start_as(ANN, &volume.key_file());
    ann.unlock();
    volume.wait_unlocked();
    sh(ANN, "echo by ann > \"$0\"", &volume.path("file")).unwrap();
}
