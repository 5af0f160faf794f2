//! A person: a uid with a home, an environment and a daemon of their own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use crate::run::Run;
use crate::world::program;

/// A person.
#[derive(Debug)]
pub struct User {
    uid: u32,
    home: PathBuf,
    environment: BTreeMap<String, String>,
}

impl User {
    pub(crate) fn new(name: &str, uid: u32, home: PathBuf) -> Self {
        let environment = BTreeMap::from([
            ("HOME".into(), home.to_string_lossy().into_owned()),
            ("USER".into(), name.into()),
            (
                "PATH".into(),
                "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into(),
            ),
            ("XDG_RUNTIME_DIR".into(), format!("/run/user/{uid}")),
            ("CLAVIGER_LOG".into(), "debug".into()),
        ]);
        Self {
            uid,
            home,
            environment,
        }
    }

    /// Their uid, and gid.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Their home.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Their `$XDG_RUNTIME_DIR`.
    pub fn runtime(&self) -> PathBuf {
        PathBuf::from(format!("/run/user/{}", self.uid))
    }

    /// What is set for what they run.
    pub(crate) fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// Sets a variable for what they run from now on. A daemon that already runs does not see it.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.insert(name.into(), value.into());
    }

    /// Writes a file below their home, as theirs.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let file = self.home.join(path);
        let mut missing: Vec<&Path> = Vec::new();
        for folder in file
            .ancestors()
            .skip(1)
            .take_while(|folder| !folder.exists())
        {
            missing.push(folder);
        }
        for folder in missing.into_iter().rev() {
            fs::create_dir(folder).expect("a home is writable");
            self.own(folder);
        }
        fs::write(&file, contents).expect("a home is writable");
        self.own(&file);
        file
    }

    /// Adds to their configuration. A daemon that already runs does not see it.
    pub fn configure(&self, section: &str) {
        const FILE: &str = ".config/claviger/config.toml";
        let mut config = fs::read_to_string(self.home.join(FILE)).unwrap_or_default();
        config.push_str(section);
        self.write(FILE, config);
    }

    /// Makes what is at `path` theirs.
    pub fn own(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.uid)).expect("root may");
    }

    /// `claviger ARGS`.
    pub fn claviger<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.run(program("claviger"), args)
    }

    /// Starts their daemon where the kernel refuses `what`: `keyctl`, as in a container, or
    /// `memfd_secret`, as kernels do that do not know it.
    #[track_caller]
    pub fn start_daemon_without(&self, what: &str) {
        let daemon = program("clavigerd");
        let words = [what.as_ref(), daemon.as_os_str(), "--background".as_ref()];
        self.run(program("examples/refusing"), words).ok();
    }

    /// Any program, run by them in their home.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Run {
        Run::new(
            program.as_ref(),
            args,
            self.uid,
            &self.home,
            &self.environment,
        )
    }

    /// A line of shell.
    pub fn sh(&self, line: &str) -> Run {
        self.run("/bin/sh", ["-c", line])
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // The keyring outlives the namespaces. Root's is not a story's own.
        if self.uid != 0 {
            let _ = self.run("keyctl", ["clear", "@u"]).finish();
        }
    }
}
