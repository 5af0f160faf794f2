//! Answers the daemon's prompts: from `--pin-fd`, or by asking on the terminal.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixStream;

use claviger_protocol::Secret;
use claviger_protocol::control::{Prompt, PromptKind, PromptPlace};
use claviger_protocol::failure::ExitCode;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::ttyname;
use zeroize::Zeroizing;

use crate::{Failed, print, sys};

/// Where answers come from.
pub enum Prompter {
    /// Lines of a file descriptor.
    Lines(BufReader<File>),
    /// The controlling terminal.
    Terminal,
}

impl Prompter {
    /// By the `--pin-fd` option.
    ///
    /// # Errors
    /// [`Failed`] if the descriptor cannot be read.
    pub fn new(pin_fd: Option<RawFd>) -> Result<Self, Failed> {
        let Some(fd) = pin_fd else {
            return Ok(Self::Terminal);
        };
        let file =
            sys::duplicate(fd).map_err(|error| Failed::usage(format!("--pin-fd {fd}: {error}")))?;
        Ok(Self::Lines(BufReader::new(file)))
    }

    /// Waits until `prompt` can be answered; `false` if the daemon has something to say before.
    ///
    /// Of a terminal this is not known: it is read with its echo off, by its own prompt.
    pub fn answers_before(&self, prompt: &Prompt, daemon: &UnixStream) -> bool {
        let Self::Lines(lines) = self else {
            return true;
        };
        // No line is read to agree.
        if prompt.kind == PromptKind::Confirm || !lines.buffer().is_empty() {
            return true;
        }
        let of = |source| PollFd::new(source, PollFlags::POLLIN);
        let mut sources = [of(lines.get_ref().as_fd()), of(daemon.as_fd())];
        loop {
            match poll(&mut sources, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                // A descriptor that cannot be polled is read.
                Err(_) => return true,
                Ok(_) => break,
            }
        }
        let [lines, _] = &sources;
        lines.any().unwrap_or(true)
    }

    /// Asks; `None` if nobody answers, or the answer is no.
    pub fn ask(&mut self, prompt: &Prompt) -> Option<Secret> {
        let text = print::plain(&prompt.text);
        match (self, prompt.kind) {
            (Self::Lines(_), PromptKind::Confirm) => Some(Secret::new(Vec::new())),
            (Self::Lines(lines), PromptKind::Pin | PromptKind::Passphrase) => read_line(lines),
            (Self::Terminal, PromptKind::Confirm) => confirm(&text),
            (Self::Terminal, PromptKind::Pin | PromptKind::Passphrase) => {
                match rpassword::prompt_password(format!("{text}: ")) {
                    Ok(answer) => Some(Secret::new(answer.into_bytes())),
                    Err(error) => {
                        eprintln!("claviger: no terminal to ask on ({error}): {text}");
                        eprintln!("  Run 'claviger unlock' on one, or give the answer by --pin-fd");
                        None
                    }
                }
            }
        }
    }

    /// Asks for a new secret twice, `what` naming it: `PIN`, `passphrase`.
    ///
    /// # Errors
    /// [`Failed`] if nobody answers, or the answers are empty or differ.
    pub fn ask_new(&mut self, kind: PromptKind, what: &str) -> Result<Secret, Failed> {
        let mut ask = |text: String| {
            let answer = self.ask(&Prompt { kind, text });
            answer.ok_or_else(|| Failed::new(ExitCode::Declined, format!("no {what} given")))
        };
        let first = ask(format!("New {what}"))?;
        if first.expose().is_empty() {
            return Err(Failed::usage(format!("an empty {what} protects nothing")));
        }
        if ask("The same once more".into())?.expose() != first.expose() {
            return Err(Failed::usage(format!("the two {what}s differ")));
        }
        Ok(first)
    }

    /// Asks whether to do `text`.
    pub fn agrees(&mut self, text: String) -> bool {
        let kind = PromptKind::Confirm;
        self.ask(&Prompt { kind, text }).is_some()
    }
}

/// The terminal and display that pinentry may use for this user's volumes later.
pub fn prompt_place() -> PromptPlace {
    let variable = |name| std::env::var(name).ok();
    PromptPlace {
        tty: ttyname(io::stdin())
            .ok()
            .map(|path| path.to_string_lossy().into_owned()),
        display: variable("DISPLAY"),
        wayland_display: variable("WAYLAND_DISPLAY"),
        term: variable("TERM"),
    }
}

/// One line without its end; `None` at the end of the input.
fn read_line(lines: &mut impl BufRead) -> Option<Secret> {
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    if lines.read_until(b'\n', &mut line).ok()? == 0 {
        return None;
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Some(Secret::new(std::mem::take(&mut *line)))
}

fn confirm(text: &str) -> Option<Secret> {
    if !io::stdin().is_terminal() {
        return None;
    }
    eprint!("{text} [y/N] ");
    io::stderr().flush().ok()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    matches!(answer.trim(), "y" | "Y" | "yes").then(|| Secret::new(Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_the_daemon_takes_back_waits_for_no_line() {
        let (lines, mut typed) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(lines));
        let prompter = Prompter::Lines(BufReader::new(file));
        let (ours, mut daemon) = UnixStream::pair().unwrap();
        daemon.write_all(b"done").unwrap();
        let prompt = |kind| Prompt {
            kind,
            text: String::new(),
        };
        assert!(!prompter.answers_before(&prompt(PromptKind::Pin), &ours));
        assert!(prompter.answers_before(&prompt(PromptKind::Confirm), &ours));
        typed.write_all(b"1234\n").unwrap();
        assert!(prompter.answers_before(&prompt(PromptKind::Pin), &ours));
    }

    #[test]
    fn each_prompt_takes_one_line_and_the_end_declines() {
        let mut lines = BufReader::new(&b"123456\nlast"[..]);
        assert_eq!(read_line(&mut lines).unwrap().expose(), b"123456");
        assert_eq!(read_line(&mut lines).unwrap().expose(), b"last");
        assert!(read_line(&mut lines).is_none());
    }
}
