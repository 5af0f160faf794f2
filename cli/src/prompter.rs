//! Answers the daemon's prompts: from `--pin-fd`, or by asking on the terminal.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use claviger_protocol::Secret;
use claviger_protocol::control::{Answers, Prompt, PromptKind, PromptPlace};
use claviger_protocol::failure::ExitCode;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::ttyname;
use zeroize::Zeroizing;

use crate::print::errln;
use crate::terminal::{self, Echo, Event, Question};
use crate::{Failed, print, sys};

/// Where answers come from.
pub enum Prompter {
    /// Lines of a file descriptor.
    Lines(BufReader<File>),
    /// The controlling terminal.
    Terminal,
}

/// A prompt that waits for its answer; dropped, it is off the screen.
#[expect(
    clippy::large_enum_variant,
    reason = "one exists at a time, and for a moment"
)]
pub enum Asked<'a> {
    /// One of these lines answers it.
    Line(&'a mut BufReader<File>),
    /// Who is at the terminal does.
    Terminal(Question, PromptKind),
    /// There is nobody.
    Nobody,
}

/// What comes of waiting for an answer.
pub enum Waited {
    /// The answer; `None` if it is no.
    Answer(Option<Secret>),
    /// There is nobody to answer.
    Nobody,
    /// The daemon has something to say.
    DaemonSpeaks,
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

    /// Who answers the daemon's prompts: from a menu of a desktop there is no terminal, and pinentry asks on its
    /// display.
    pub fn answers(&self, place: &PromptPlace) -> Answers {
        let is_on_a_display = place.display.is_some() || place.wayland_display.is_some();
        match self {
            Self::Lines(_) => Answers::Descriptor,
            Self::Terminal if is_on_a_display && !terminal::is_there() => Answers::Pinentry,
            Self::Terminal => Answers::Terminal,
        }
    }

    /// Whether who answers sees the question.
    pub fn has_a_person(&self) -> bool {
        matches!(self, Self::Terminal)
    }

    /// Asks, and waits for nothing yet.
    pub fn put(&mut self, prompt: &Prompt) -> Asked<'_> {
        let text = print::plain(&prompt.text);
        let lines = match (self, prompt.kind) {
            // Who wrote the lines has not seen the question, and agrees to nothing.
            (Self::Lines(_), PromptKind::Confirm) => return Asked::Nobody,
            (Self::Lines(lines), PromptKind::Pin | PromptKind::Passphrase) => lines,
            (Self::Terminal, kind) => return on_terminal(&text, kind),
        };
        Asked::Line(lines)
    }

    /// Asks; `None` if nobody answers, or the answer is no.
    pub fn ask(&mut self, prompt: &Prompt) -> Option<Secret> {
        match self.put(prompt).wait(None) {
            Waited::Answer(answer) => answer,
            Waited::Nobody | Waited::DaemonSpeaks => None,
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

impl Asked<'_> {
    /// Waits for the answer, or until `daemon` has something to say.
    pub fn wait(&mut self, daemon: Option<BorrowedFd<'_>>) -> Waited {
        match self {
            Self::Line(lines) => match line_comes_before(lines, daemon) {
                true => Waited::Answer(read_line(lines)),
                false => Waited::DaemonSpeaks,
            },
            Self::Terminal(question, kind) => match question.wait(daemon) {
                Ok(Event::Other) => Waited::DaemonSpeaks,
                Ok(Event::Line(line)) => Waited::Answer(line.and_then(|line| meant(line, *kind))),
                // Its terminal is gone.
                Err(_) => Waited::Nobody,
            },
            Self::Nobody => Waited::Nobody,
        }
    }

    /// Shows a notice, and the prompt again below it.
    pub fn tell(&self, notice: &str) {
        match self {
            // If its terminal is gone, the prompt finds out.
            Self::Terminal(question, _) => drop(question.say(&print::plain(notice))),
            Self::Line(_) | Self::Nobody => print::error_lines(notice),
        }
    }
}

/// The terminal and display that pinentry may use for this user's volumes later.
pub fn prompt_place() -> PromptPlace {
    let variable = |name| std::env::var(name).ok();
    let tty = ttyname(io::stdin())
        .or_else(|_| ttyname(io::stdout()))
        .or_else(|_| ttyname(io::stderr()));
    PromptPlace {
        tty: tty.ok().map(|path| path.to_string_lossy().into_owned()),
        display: variable("DISPLAY"),
        xauthority: variable("XAUTHORITY"),
        wayland_display: variable("WAYLAND_DISPLAY"),
        term: variable("TERM"),
    }
}

/// Whether a line can be read, and not before it what `daemon` says.
fn line_comes_before(lines: &BufReader<File>, daemon: Option<BorrowedFd<'_>>) -> bool {
    let Some(daemon) = daemon else {
        return true;
    };
    if !lines.buffer().is_empty() {
        return true;
    }
    let of = |source| PollFd::new(source, PollFlags::POLLIN);
    let mut sources = [of(lines.get_ref().as_fd()), of(daemon)];
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

/// What a line says: a secret is all of it, and only a yes is one.
fn meant(line: Secret, kind: PromptKind) -> Option<Secret> {
    match kind {
        PromptKind::Pin | PromptKind::Passphrase => Some(line),
        PromptKind::Confirm => match line.expose().trim_ascii() {
            b"y" | b"Y" | b"yes" => Some(Secret::new(Vec::new())),
            _ => None,
        },
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

/// Puts a prompt on the terminal: below a text of several lines, what to type has a line of its own.
fn on_terminal(text: &str, kind: PromptKind) -> Asked<'static> {
    let question = |what: &str| match text.contains('\n') {
        true => format!("{text}\n{what}: "),
        false => format!("{text}: "),
    };
    let put = match kind {
        PromptKind::Pin => Question::put(question("PIN"), Echo::Hidden),
        PromptKind::Passphrase => Question::put(question("Passphrase"), Echo::Hidden),
        PromptKind::Confirm => Question::put(format!("{text} [y/N] "), Echo::Shown),
    };
    match put {
        Ok(question) => Asked::Terminal(question, kind),
        Err(error) => nobody(&error, text),
    }
}

fn nobody(error: &io::Error, text: &str) -> Asked<'static> {
    print::error_lines(&format!(
        "claviger: no terminal to ask on ({error}): {text}"
    ));
    errln!("  Run 'claviger unlock' on one, or give the answer by --pin-fd");
    Asked::Nobody
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_prompt_that_the_daemon_takes_back_waits_for_no_line() {
        let (lines, mut typed) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(lines));
        let mut prompter = Prompter::Lines(BufReader::new(file));
        let (ours, mut daemon) = UnixStream::pair().unwrap();
        daemon.write_all(b"withdrawn").unwrap();
        let mut wait = |kind| {
            let text = String::new();
            prompter
                .put(&Prompt { kind, text })
                .wait(Some(ours.as_fd()))
        };
        assert!(matches!(wait(PromptKind::Pin), Waited::DaemonSpeaks));
        assert!(matches!(wait(PromptKind::Confirm), Waited::Nobody));
        typed.write_all(b"1234\n").unwrap();
        assert!(matches!(wait(PromptKind::Pin), Waited::Answer(Some(_))));
    }

    #[test]
    fn each_prompt_takes_one_line_and_the_end_declines() {
        let mut lines = BufReader::new(&b"123456\nlast"[..]);
        assert_eq!(read_line(&mut lines).unwrap().expose(), b"123456");
        assert_eq!(read_line(&mut lines).unwrap().expose(), b"last");
        assert!(read_line(&mut lines).is_none());
    }
}
