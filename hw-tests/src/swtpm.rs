//! swtpm as the TPM of the machine.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{User, wait_until};

/// A TPM that listens on this network namespace's loopback.
#[derive(Debug)]
pub struct Swtpm {
    process: Child,
    state: PathBuf,
    port: u16,
}

impl Swtpm {
    /// Starts a new TPM with its state in `folder`, as the user who runs this.
    pub fn start_in(folder: &Path) -> Self {
        let port = free_pair_of_ports();
        Self {
            process: start(folder, port),
            state: folder.to_owned(),
            port,
        }
    }

    /// Starts a new TPM and names it in `user`'s configuration.
    pub fn new(user: &User) -> Self {
        let state = user.home().join("tpm");
        user.run("mkdir", [&state]).ok();
        let tpm = Self::start_in(&state);
        user.configure(&format!("[tpm]\ntcti = \"{}\"\n", tpm.tcti()));
        tpm
    }

    /// How to reach it.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Runs one of tpm2-tools on it and expects success; what it prints. The TPM serves one connection:
    /// a daemon must not hold one.
    pub fn tool(&self, name: &str, args: &[&str]) -> String {
        let output = Command::new(name)
            .args(args)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .output()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Switches the machine off.
    pub fn take_out(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
    }

    /// Switches it on again, with its state.
    pub fn put_back(&mut self) {
        self.process = start(&self.state, self.port);
    }

    /// Puts another TPM in its place: the disk is in another machine now.
    pub fn replace(&mut self) {
        self.take_out();
        let other = self.state.with_extension("of-another-machine");
        std::fs::create_dir(&other).expect("its parent is ours");
        self.process = start(&other, self.port);
    }

    /// Goes back to the first TPM after [`Self::replace`].
    pub fn return_home(&mut self) {
        self.take_out();
        self.put_back();
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(state: &Path, port: u16) -> Child {
    let server = format!("type=tcp,port={port},bindaddr=127.0.0.1");
    let control = format!("type=tcp,port={},bindaddr=127.0.0.1", port + 1);
    let process = Command::new("swtpm")
        .args([
            "socket",
            "--tpm2",
            "--tpmstate",
            &format!("dir={}", state.display()),
        ])
        .args([
            "--server",
            &server,
            "--ctrl",
            &control,
            "--flags",
            "not-need-init,startup-clear",
        ])
        .stdout(Stdio::null())
        .spawn()
        .expect("swtpm is installed");
    // Not by connecting: it serves one connection and would take that for its client.
    let listening = format!(":{port:04X} ");
    wait_until("swtpm listens", || {
        std::fs::read_to_string("/proc/net/tcp").is_ok_and(|text| {
            text.lines()
                .any(|line| line.contains(&listening) && line.contains(" 0A "))
        })
    });
    process
}

/// swtpm's control channel is on the next port. The network namespace is ours, so a port that is free
/// stays free.
fn free_pair_of_ports() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
        let port = first.local_addr().expect("it is bound").port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}
