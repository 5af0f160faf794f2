//! Answers the daemon's prompts: from `--pin-fd`, or by asking on the terminal.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::fd::RawFd;

use claviger_protocol::Secret;
use claviger_protocol::control::{Prompt, PromptKind, PromptPlace};
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
    fn each_prompt_takes_one_line_and_the_end_declines() {
        let mut lines = BufReader::new(&b"123456\nlast"[..]);
        assert_eq!(read_line(&mut lines).unwrap().expose(), b"123456");
        assert_eq!(read_line(&mut lines).unwrap().expose(), b"last");
        assert!(read_line(&mut lines).is_none());
    }
}
