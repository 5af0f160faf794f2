//! Running a test again, in namespaces of its own: what it mounts is gone with it, even by `kill -9`.

use std::process::Command;

use nix::mount::{MsFlags, mount};

/// Set in the process that is in the namespaces.
const INSIDE: &str = "CLAVIGER_TEST_IN_NAMESPACES";

/// Runs `test` in namespaces, where `/mnt` is a tmpfs of its own. `name` is what libtest calls it.
///
/// # Panics
/// If the test fails, or namespaces cannot be had: root can.
pub(crate) fn isolated(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        mount(
            Some("test"),
            "/mnt",
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=0755"),
        )
        .expect("root in a mount namespace may mount a tmpfs");
        test();
        return;
    }
    let program = std::env::current_exe().expect("the test program has a path");
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child=KILL",
        ])
        .arg(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare(1) is there");
    assert!(status.success(), "{name} failed in its namespaces");
}

/// Declares a test that runs in namespaces.
macro_rules! isolated_test {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            let path = concat!(module_path!(), "::", stringify!($name));
            let (_, name) = path.split_once("::").expect("tests are in modules");
            $crate::namespaces::isolated(name, || $body);
        }
    };
}
pub(crate) use isolated_test;
