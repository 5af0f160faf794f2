//! A user's shell that stays: for what must be open, running or mapped while something else happens.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout};

use crate::User;

/// Ends the output of each line; a word that no file of a story holds.
const END: &str = "=== end of the line, status ";

/// A shell that runs.
#[derive(Debug)]
pub struct Shell {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// What a line came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `$?`.
    pub status: i32,
    /// Standard output and error.
    pub text: String,
}

impl User {
    /// A shell that stays.
    pub fn shell(&self) -> Shell {
        let mut process = self.run("/bin/sh", [] as [&str; 0]).spawn();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        Shell {
            process,
            input,
            output,
        }
    }
}

impl Shell {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs a line in it and waits for its end.
    #[track_caller]
    pub fn line(&mut self, line: &str) -> Said {
        self.begin(line);
        self.end()
    }

    /// Runs a line in it that succeeds; what it printed.
    #[track_caller]
    pub fn ok(&mut self, line: &str) -> String {
        let said = self.line(line);
        assert_eq!(said.status, 0, "{line}: {}", said.text);
        said.text
    }

    /// Begins a line, and does not wait for its end.
    #[track_caller]
    pub fn begin(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is open until the drop");
        // In a subshell only what is printed: `exec 3<file` has to change this shell.
        writeln!(input, "{{ {line}\n}} 2>&1; echo \"{END}$?\"").expect("the shell runs");
    }

    /// Types something for the program that the line in progress runs.
    #[track_caller]
    pub fn type_in(&mut self, text: &str) {
        let input = self.input.as_mut().expect("it is open until the drop");
        input.write_all(text.as_bytes()).expect("the shell runs");
    }

    /// Waits for the end of the line that was begun.
    #[track_caller]
    pub fn end(&mut self) -> Said {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            let read = self.output.read_until(b'\n', &mut line);
            assert!(read.is_ok_and(|n| n > 0), "the shell ended: {text}");
            let line = String::from_utf8_lossy(&line);
            if let Some((before, status)) = line.split_once(END) {
                text.push_str(before);
                let status = status.trim().parse().expect("a number");
                return Said { status, text };
            }
            text.push_str(&line);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
