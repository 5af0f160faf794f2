//! A user, his daemon, his tokens, his CLI.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use claviger_hw_tests::rerun;
pub use claviger_hw_tests::wait_until;
use nix::unistd::Uid;

mod cli;
mod daemon;
mod modules;
mod mount;
mod user;

pub use cli::Cli;
pub use daemon::Daemon;
pub use mount::Mount;
pub use user::User;

/// The PIN of every token here; long enough that finding it in memory is no accident.
pub const PIN: &str = "planted-pin-7391";

/// The program under test, where every uid finds it.
pub const CLAVIGERD: &str = "/run/programs/clavigerd";

/// What a kernel's eCryptfs wrote, where every uid finds it.
pub const KERNELS_FOLDERS: &str = "/run/ecryptfs";

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
        body(&User::become_owner_of(home.into()));
        return;
    }
    assert!(
        Uid::effective().is_root(),
        "these tests switch users and need root"
    );
    modules::build();
    let home = tempfile::tempdir().unwrap();
    // The kernel keyring is the uid's, whatever the namespace: no two tests that run may share one.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let uid = 1_000_000 + std::process::id() * 128 + number % 128;
    for folder in [".", "run", "config", "config/claviger", "state", "tokens"] {
        let path = home.path().join(folder);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&path, Some(uid), Some(uid)).unwrap();
    }
    rerun(test, INSIDE, home.path());
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
