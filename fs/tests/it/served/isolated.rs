//! Tests that mount run in mount, network and pid namespaces of their own, and leave nothing behind.

use std::env;
use std::path::Path;
use std::process::Command;

/// Set in the inner run, to the test's name.
const INSIDE: &str = "CLAVIGER_TEST_INSIDE";

/// Where a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In namespaces of its own, with an empty `/run`: here the promise is tested.
    Inside,
    /// The test has run inside, or had to be skipped.
    Outside,
}

/// Runs the test that it stands in once more, inside; `return`s from the outer run.
#[macro_export]
macro_rules! isolated {
    () => {
        if $crate::served::isolated::run($crate::test_name!())
            == $crate::served::isolated::Place::Outside
        {
            return;
        }
    };
}

/// The name by which libtest knows the function that this stands in.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        let path = path
            .strip_suffix("::here")
            .expect("the function just above");
        path.split_once("::")
            .expect("the crate's name comes first")
            .1
    }};
}

/// The work of [`isolated!`].
pub(crate) fn run(test: &str) -> Place {
    if env::var(INSIDE).is_ok_and(|name| name == test) {
        command("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        command("ip", &["link", "set", "lo", "up"]);
        return Place::Inside;
    }
    if !nix::unistd::Uid::effective().is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped, because it needs root and /dev/fuse: {test}");
        return Place::Outside;
    }
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child=KILL",
        ])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, test)
        .output()
        .expect("unshare is in util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "inside: {}", output.status);
    assert!(
        said.contains("1 passed"),
        "inside, no test is called {test}"
    );
    Place::Outside
}

fn command(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect(program);
    assert!(status.success(), "{program} {args:?}: {status}");
}
