//! What shows of a user's Claviger from outside: status, processes, logs.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{Process, User};

impl User {
    /// `claviger status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        parsed(&self.claviger(["status", "--json"]).ok())
    }

    /// Their daemon; started if none runs.
    #[track_caller]
    pub fn daemon(&self) -> Process {
        process(&self.status()["daemon_pid"])
    }

    /// The filesystem of the only mount of the only volume.
    #[track_caller]
    pub fn filesystem(&self) -> Process {
        process(&self.mounts()[0]["pid"])
    }

    /// The only process of a module. For `pkcs11`, which has one a library, see
    /// [`SoftHsm::alone`](crate::SoftHsm::alone).
    #[track_caller]
    pub fn module(&self, name: &str) -> Process {
        let status = self.status();
        let modules = status["modules"].as_array().expect("it is a list");
        let mut named = modules.iter().filter(|module| module["module"] == name);
        let module = named
            .next()
            .unwrap_or_else(|| panic!("no {name}: {status}"));
        assert!(named.next().is_none(), "several of {name}: {status}");
        process(&module["pid"])
    }

    /// All modules that run.
    #[track_caller]
    pub fn modules(&self) -> Vec<Process> {
        let status = self.status();
        let modules = status["modules"].as_array().expect("it is a list");
        modules
            .iter()
            .map(|module| process(&module["pid"]))
            .collect()
    }

    /// The mounts of the only volume, as `status` tells.
    #[track_caller]
    pub fn mounts(&self) -> Value {
        let status = self.status();
        let volumes = status["volumes"].as_array().expect("it is a list");
        assert_eq!(volumes.len(), 1, "{status}");
        volumes[0]["mounts"].clone()
    }

    /// The lines of the audit log, of the daemon's life and those before.
    pub fn audit(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.state().join("audit.log")).unwrap_or_default();
        log.lines().map(parsed).collect()
    }

    /// How many audit lines there are of an event: `unlock`, `unwrap`, `lock`, …
    pub fn audited(&self, event: &str) -> usize {
        let lines = self.audit();
        lines.iter().filter(|line| line["event"] == event).count()
    }

    /// All that was logged: by the daemon, its modules, the filesystem, the audit.
    pub fn logs(&self) -> String {
        let folder = fs::read_dir(self.state()).expect("a daemon has run");
        folder
            .map(|entry| entry.expect("it is ours").path())
            .filter(|path| path.to_string_lossy().contains(".log"))
            .map(|path| String::from_utf8_lossy(&fs::read(path).expect("root may")).into_owned())
            .collect()
    }

    /// Where their logs and known volumes are.
    pub fn state(&self) -> std::path::PathBuf {
        self.home().join(".local/state/claviger")
    }

    /// The lower files of a volume below their home whose name is no record or sidecar.
    pub fn lower_files(&self, dir: &str) -> Vec<std::path::PathBuf> {
        let mut files = Vec::new();
        collect(&self.home().join(dir), &mut files);
        files
    }
}

fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).expect("it is a folder") {
        let entry = entry.expect("it is a folder");
        let name = entry.file_name();
        let kind = entry.file_type().expect("it is there");
        match name.to_string_lossy().starts_with('.') {
            true => (),
            false if kind.is_dir() => collect(&entry.path(), files),
            false if kind.is_file() => files.push(entry.path()),
            false => (),
        }
    }
}

#[track_caller]
fn process(pid: &Value) -> Process {
    let pid = pid.as_u64().unwrap_or_else(|| panic!("{pid} is no pid"));
    Process {
        pid: u32::try_from(pid).expect("pids are small"),
    }
}

#[track_caller]
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
