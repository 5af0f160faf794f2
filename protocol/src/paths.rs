//! Where the programs keep things, and how they find each other.

use std::env;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

/// `$XDG_RUNTIME_DIR/claviger`, or `/run/user/UID/claviger`: the daemon's socket, own mounts.
pub fn runtime_dir() -> PathBuf {
    absolute("XDG_RUNTIME_DIR")
        .unwrap_or_else(|| PathBuf::from(format!("/run/user/{}", Uid::current())))
        .join("claviger")
}

/// The control socket of this user's daemon.
pub fn control_socket() -> PathBuf {
    runtime_dir().join("daemon.sock")
}

/// Rendezvous entries of requesters that this user started.
pub fn own_requesters() -> PathBuf {
    runtime_dir().join("mounts")
}

/// Rendezvous entries of root's mounts; the folder and what is in it belong to root.
pub fn system_requesters() -> &'static Path {
    Path::new("/run/claviger/mounts")
}

/// `$XDG_CONFIG_HOME/claviger`, or `~/.config/claviger`: configuration and enrolled keys.
pub fn config_dir() -> Option<PathBuf> {
    under_home("XDG_CONFIG_HOME", ".config")
}

/// `$XDG_STATE_HOME/claviger`, or `~/.local/state/claviger`: known volumes and the audit log.
pub fn state_dir() -> Option<PathBuf> {
    under_home("XDG_STATE_HOME", ".local/state")
}

/// Configuration of the machine, under that of the user.
pub fn system_config_dir() -> &'static Path {
    Path::new("/etc/claviger")
}

/// Another of our programs: beside this one if it is there, else where `make install` puts those that people
/// do not type, from `PREFIX/bin` in `PREFIX/libexec/claviger`.
pub fn program(name: &str) -> PathBuf {
    let this = env::current_exe().unwrap_or_else(|_no_proc| "/usr/bin/claviger".into());
    let folder = this.parent().unwrap_or(Path::new("/"));
    let beside = folder.join(name);
    if beside.is_file() {
        return beside;
    }
    folder.with_file_name("libexec").join("claviger").join(name)
}

fn under_home(variable: &str, default: &str) -> Option<PathBuf> {
    let base = absolute(variable).or_else(|| Some(absolute("HOME")?.join(default)))?;
    Some(base.join("claviger"))
}

/// The XDG specification has relative paths ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}
