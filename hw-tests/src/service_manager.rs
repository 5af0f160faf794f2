//! The service manager of one user: systemd, as a login starts it, on a machine that it did not boot.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::Run;
use crate::{User, wait_until};

/// Where the manager looks for control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// `systemd --user`; dropped, it stops its services and ends.
#[derive(Debug)]
pub struct ServiceManager<'a> {
    user: &'a User,
    process: Child,
    cgroup: PathBuf,
}

impl<'a> ServiceManager<'a> {
    /// Starts it, and with it what `default.target` of `user` wants. One a story, in its namespaces.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(user: &'a User) -> Self {
        // What sd_booted(3) looks at; in this story's /run.
        fs::create_dir_all("/run/systemd/system").expect("/run is ours");
        let cgroup = new_cgroup(user);
        let log = File::create(user.home().join("systemd.log")).expect("root may");
        let into_cgroup = format!(
            "echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"",
            cgroup.display()
        );
        let uid = user.uid().to_string();
        let process = Command::new("/bin/sh")
            .args(["-c", &into_cgroup, "setpriv", "--clear-groups"])
            .args(["--reuid", &uid, "--regid", &uid])
            .args(["/usr/lib/systemd/systemd", "--user", "--log-target=console"])
            .env_clear()
            .envs(user.environment())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("it is a file"))
            .stderr(log)
            .spawn()
            .expect("/bin/sh is there");
        let manager = Self {
            user,
            process,
            cgroup,
        };
        // Units of the machine that fail are not this story's.
        let reached = || manager.ctl(["is-active", "default.target"]).finish().stdout;
        wait_until("systemd has started", || reached() == "active\n");
        manager
    }

    /// `systemctl --user ARGS`.
    pub fn ctl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        self.user
            .run("systemctl", ["--user".into()].into_iter().chain(args))
    }

    /// A property of a unit, as `systemctl show` has it.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let said = self.ctl(["show", "--value", "-p", name, unit]).ok();
        said.trim_end().to_owned()
    }
}

impl Drop for ServiceManager<'_> {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.process.wait();
        // Control groups are not of the namespaces: these would stay.
        let find = ["-depth", "-type", "d", "-delete"];
        let _ = Command::new("find").arg(&self.cgroup).args(find).status();
    }
}

/// A control group below this process's own, which is `user`'s as systemd's `Delegate=` makes it theirs.
fn new_cgroup(user: &User) -> PathBuf {
    let none: Option<&str> = None;
    let flags = MsFlags::empty();
    mount(Some("none"), CGROUPS, Some("cgroup2"), flags, none)
        .unwrap_or_else(|errno| panic!("cgroup2 on {CGROUPS}: {errno}"));
    let ours = fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
    let ours = ours.lines().find_map(|line| line.strip_prefix("0::/"));
    let ours = Path::new(CGROUPS).join(ours.expect("there are control groups of version 2"));
    let cgroup = ours.join(format!("claviger-story-{}", user.uid()));
    fs::create_dir(&cgroup).unwrap_or_else(|error| panic!("{}: {error}", cgroup.display()));
    user.own(&cgroup);
    for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        user.own(&cgroup.join(file));
    }
    cgroup
}
