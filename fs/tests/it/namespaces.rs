//! Running a test again, in namespaces of its own: what it mounts is gone with it, even by `kill -9`.

use std::env;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::unistd::Uid;

/// Set in the process that is in the namespaces, to the test's name.
const INSIDE: &str = "CLAVIGER_TEST_IN_NAMESPACES";

/// Where a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In namespaces of its own, where `/mnt` and `/run` are empty: here the promise is tested.
    Inside,
    /// The test has run inside.
    Outside,
}

/// Runs the test that it stands in once more, inside; `return`s from the outer run.
macro_rules! isolated {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        if $crate::namespaces::enter(path) == $crate::namespaces::Place::Outside {
            return;
        }
    }};
}
pub(crate) use isolated;

/// Declares a test that runs in namespaces.
macro_rules! isolated_test {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            $crate::namespaces::isolated!();
            $body
        }
    };
}
pub(crate) use isolated_test;

/// The work of [`isolated!`]; `path` is that of a function in the test's own.
///
/// # Panics
/// If the test fails, or namespaces cannot be had. Nothing is skipped: a test that did not run would
/// count as one that passed.
pub(crate) fn enter(path: &str) -> Place {
    let test = path
        .strip_suffix("::here")
        .and_then(|path| path.split_once("::"))
        .map(|(_crate, test)| test)
        .expect("isolated! stands in a test, in a module");
    if env::var(INSIDE).is_ok_and(|name| name == test) {
        for place in ["/mnt", "/run"] {
            let options = Some("mode=0755");
            let flags = MsFlags::empty();
            mount(Some("test"), place, Some("tmpfs"), flags, options)
                .expect("root in a mount namespace may mount a tmpfs");
        }
        return Place::Inside;
    }
    assert!(
        Uid::effective().is_root() && Path::new("/dev/fuse").exists(),
        "{test} needs root and /dev/fuse"
    );
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child=KILL",
        ])
        .arg(env::current_exe().expect("the test program has a path"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .output()
        .expect("unshare is in util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed in its namespaces");
    assert!(said.contains("1 passed"), "no test is called {test}");
    Place::Outside
}
