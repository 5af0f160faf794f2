//! The daemon as a service of systemd's user manager, by the unit that is shipped.

use std::fs;
use std::path::Path;

use claviger_hw_tests::{Process, ServiceManager, User, story, wait_until};
use nix::sys::signal::Signal;

use crate::scene::{folder, says, software_key};

const UNIT: &str = "clavigerd.service";

/// Puts the unit where a user's own are, as it is.
fn has_the_unit(user: &User) {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../daemon/systemd")
        .join(UNIT);
    user.write(
        &format!(".config/systemd/user/{UNIT}"),
        fs::read(unit).unwrap(),
    );
}

/// The process that systemd takes for the service.
fn main_process(manager: &ServiceManager<'_>) -> Process {
    let pid = manager.property(UNIT, "MainPID").parse().unwrap();
    Process { pid }
}

story! {
    /// `systemctl --user enable --now clavigerd`, and at each login from then on.
    fn the_unit_starts_at_login_serves_and_locks_when_it_is_stopped(world) {
        world.install_programs();
        let alice = world.user("alice");
        has_the_unit(&alice);
        alice.sh(&format!("systemctl --user enable {UNIT}")).ok();
        let manager = ServiceManager::start(&alice);
        // Type=notify: active means that it said so, not that it was started.
        assert_eq!(manager.property(UNIT, "ActiveState"), "active");
        let main = main_process(&manager);
        assert_eq!(alice.daemon(), main);
        assert_eq!(alice.status()["auth_toks"], "keyring");

        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("echo diary >private/diary").ok();
        let limits = fs::read_to_string(format!("/proc/{}/limits", main.pid)).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        says(core, &["0                    0"]);
        says(&fs::read_to_string(format!("/proc/{}/status", main.pid)).unwrap(), &["Umask:\t0077"]);

        manager.ctl(["stop", UNIT]).ok();
        assert_eq!(manager.property(UNIT, "Result"), "success");
        assert!(main.has_ended());
        says(&alice.sh("cat private/diary").fails(1), &["Required key not available"]);
        manager.ctl(["start", UNIT]).ok();
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/diary").ok(), "diary\n");
        // 'claviger stop' is no failure either: it stays stopped until somebody wants it.
        alice.claviger(["stop"]).ok();
        wait_until("systemd has noticed", || manager.property(UNIT, "ActiveState") == "inactive");
        assert_eq!(manager.property(UNIT, "Result"), "success");
        alice.claviger(["umount", "private"]).ok();
    }
}

story! {
    /// `Restart=on-failure`, and what no restart helps.
    fn the_unit_is_restarted_after_a_crash_and_not_after_a_refusal(world) {
        world.install_programs();
        let alice = world.user("alice");
        has_the_unit(&alice);
        let manager = ServiceManager::start(&alice);
        manager.ctl(["start", UNIT]).ok();
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("echo diary >private/diary").ok();
        let crashed = main_process(&manager);
        crashed.signal(Signal::SIGKILL);
        wait_until("systemd has started another", || {
            manager.property(UNIT, "NRestarts") == "1" && manager.property(UNIT, "ActiveState") == "active"
        });
        assert_ne!(main_process(&manager), crashed);
        assert_eq!(alice.daemon(), main_process(&manager));
        // It has no keys, and the mount that was open can be opened again.
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/diary").ok(), "diary\n");
        alice.claviger(["umount", "private"]).ok();
        manager.ctl(["stop", UNIT]).ok();

        let refused = |status: &str| {
            manager.ctl(["start", UNIT]).fails(1);
            assert_eq!(manager.property(UNIT, "ExecMainStatus"), status);
            assert_eq!(manager.property(UNIT, "ActiveState"), "failed");
            manager.ctl(["reset-failed", UNIT]).ok();
        };
        alice.configure("nonsense = 1\n");
        refused("2");
        fs::remove_file(alice.home().join(".config/claviger/config.toml")).unwrap();
        // One that a command has started runs already.
        alice.claviger(["status"]).ok();
        refused("75");
        alice.claviger(["stop"]).ok();
        manager.ctl(["start", UNIT]).ok();
    }
}
