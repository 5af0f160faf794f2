//! Running a test again, in namespaces of its own: what it mounts is gone with it, even by `kill -9`.

use std::env;
use std::path::Path;

use claviger_hw_tests::rerun;
use nix::mount::{MsFlags, mount};

/// Set in the process that is in the namespaces.
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
pub(crate) fn enter(path: &str) -> Place {
    if env::var_os(INSIDE).is_some() {
        let flags = MsFlags::empty();
        mount(
            Some("test"),
            "/mnt",
            Some("tmpfs"),
            flags,
            Some("mode=0755"),
        )
        .expect("root in a mount namespace may mount a tmpfs");
        return Place::Inside;
    }
    // Nothing is skipped: a test that did not run would count as one that passed.
    assert!(Path::new("/dev/fuse").exists(), "{path} needs /dev/fuse");
    let test = path
        .strip_suffix("::here")
        .expect("isolated! names a function of its own");
    rerun(test, INSIDE, "1");
    Place::Outside
}
