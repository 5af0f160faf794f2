//! A person at a terminal: a pseudoterminal with a shell of theirs, which they type to and look at.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{tcgetpgrp, ttyname};

use crate::{Process, User, wait_until};

/// What the shell says when it waits for a line: the status of the one before.
const READY: &str = "<$?> ";

/// A terminal.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    path: PathBuf,
    shell: Child,
    shown: Arc<Mutex<String>>,
    /// What [`Self::shows`] has looked at.
    seen: usize,
}

impl User {
    /// A terminal with a shell, whose jobs Ctrl-C and Ctrl-Z reach.
    ///
    /// # Panics
    /// If there is no pseudoterminal to be had.
    pub fn terminal(&self) -> Terminal {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).expect("there are pseudoterminals");
        let path = ttyname(&pty.slave).expect("it is a terminal");
        // As login(1) does.
        self.own(&path);
        // The shell itself edits nothing and leaves the terminal as programs leave it.
        let shell = self.run("setsid", ["--ctty", "/bin/dash", "-i"]);
        let shell = shell.env("PS1", READY).env("TERM", "xterm");
        let shell = shell.spawn_on(&File::from(pty.slave));
        let master = File::from(pty.master);
        let shown = Arc::default();
        let (screen, on_screen) = (
            master.try_clone().expect("it is a file"),
            Arc::clone(&shown),
        );
        thread::spawn(move || watch(screen, &on_screen));
        let mut terminal = Terminal {
            master,
            path,
            shell,
            shown,
            seen: 0,
        };
        terminal.shows("<0> ");
        terminal
    }
}

impl Terminal {
    /// The path of the terminal.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Types for whatever reads the terminal.
    pub fn types(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("the shell keeps it open");
    }

    /// Waits until `text` is shown after what was waited for before; everything up to and with it.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> String {
        let mut found = None;
        let shown = self.shown.clone();
        let seen = self.seen;
        wait_until(
            &format!("'{text}' is shown after {:?}", self.all_shown()),
            || {
                let shown = lock(&shown);
                found = shown[seen..].find(text).map(|at| seen + at + text.len());
                found.is_some()
            },
        );
        self.seen = found.expect("it was waited for");
        lock(&self.shown)[seen..self.seen].to_owned()
    }

    /// Begins a command.
    pub fn begins(&mut self, line: &str) {
        self.types(&format!("{line}\n"));
        self.shows(line);
    }

    /// Waits for the end of the command, which has this status; what was shown.
    #[track_caller]
    pub fn ends(&mut self, status: i32) -> String {
        self.shows(&format!("<{status}> "))
    }

    /// Whether what is typed shows.
    pub fn echoes(&self) -> bool {
        let flags = tcgetattr(self.master.as_fd())
            .expect("it is a terminal")
            .local_flags;
        flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
    }

    /// What reads the terminal: the command that was begun, or the shell.
    ///
    /// # Panics
    /// If nothing does.
    pub fn reader(&self) -> Process {
        let group = tcgetpgrp(&self.master).expect("it is a terminal");
        Process {
            pid: group.as_raw().unsigned_abs(),
        }
    }

    /// All that was shown so far.
    pub fn all_shown(&self) -> String {
        lock(&self.shown).clone()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Notes what is shown until nobody has the terminal open any more.
fn watch(mut screen: File, shown: &Mutex<String>) {
    let mut some = [0; 4096];
    loop {
        match screen.read(&mut some) {
            Ok(0) => return,
            Ok(count) => lock(shown).push_str(&String::from_utf8_lossy(&some[..count])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // EIO: the last program that had it open has ended.
            Err(_) => return,
        }
    }
}

fn lock(shown: &Mutex<String>) -> MutexGuard<'_, String> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}
