//! One program run by a user, and what came of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A program about to be run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    shown: Vec<OsString>,
    input: Vec<u8>,
}

/// How it ended.
#[derive(Debug)]
pub struct Finished {
    shown: String,
    /// Exit code; 128 + N if signal N ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    pub(crate) fn new<S: AsRef<OsStr>>(
        program: &OsStr,
        args: impl IntoIterator<Item = S>,
        uid: u32,
        home: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Self {
        let mut command = Command::new(program);
        let mut shown = vec![program.to_owned()];
        for arg in args {
            command.arg(&arg);
            shown.push(arg.as_ref().to_owned());
        }
        command
            .uid(uid)
            .gid(uid)
            .current_dir(home)
            .env_clear()
            .envs(environment);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            command,
            shown,
            input: Vec::new(),
        }
    }

    /// What it reads.
    #[must_use]
    pub fn input(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.input = bytes.as_ref().to_owned();
        self
    }

    /// One more variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The answers to its PIN and passphrase prompts, in order.
    #[must_use]
    pub fn answers(mut self, answers: &[&str]) -> Self {
        self.command.args(["--pin-fd", "0"]);
        let lines: String = answers.iter().map(|answer| format!("{answer}\n")).collect();
        self.input(lines)
    }

    /// Runs it to its end.
    pub fn finish(self) -> Finished {
        let shown = self.shown();
        let mut child = self.spawn();
        // It need not read: a refused option, say, ends it first.
        drop(child.stdin.take());
        let output = child.wait_with_output().expect("it was started");
        let code = output.status.code().unwrap_or_else(|| {
            128 + std::os::unix::process::ExitStatusExt::signal(&output.status).unwrap_or(0)
        });
        Finished {
            shown,
            code,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it and expects success; its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        let finished = self.finish();
        assert_eq!(finished.code, 0, "{finished}");
        finished.stdout
    }

    /// Runs it and expects this exit code; its standard error.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        let finished = self.finish();
        assert_eq!(finished.code, code, "{finished}");
        finished.stderr
    }

    /// Starts it; its input has been written, its standard input is still open.
    pub fn spawn(mut self) -> Child {
        let shown = self.shown();
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let stdin = child.stdin.as_mut().expect("it is piped");
        // A program that does not read its input may close it before all is written.
        let _ = stdin.write_all(&self.input);
        child
    }

    /// Starts it with `terminal` as its standard input, output and error.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_on(mut self, terminal: &File) -> Child {
        let shown = self.shown();
        let stdio = || Stdio::from(terminal.try_clone().expect("it is a file"));
        self.command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        self.command
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"))
    }

    fn shown(&self) -> String {
        self.shown
            .iter()
            .map(|arg| arg.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "'{}' exited with {}\n--- stdout\n{}--- stderr\n{}---",
            self.shown, self.code, self.stdout, self.stderr
        )
    }
}
