//! The Assuan protocol, as far as pinentry needs it.
//!
//! ```text
//! line     := at most 1000 bytes, ended by LF; "%", CR and LF percent-escaped
//! pinentry → "OK …" | "ERR <gpg-error number> …" | "D <data>" | "# …" | "S …"
//! ```
//!
//! Source: the manuals of Assuan ("Server responses") and pinentry ("Protocol"). What may be a PIN
//! is kept in buffers that never grow and are wiped.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use claviger_protocol::Failure;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use crate::wait::Wait;

/// Longest line, with its LF.
const LINE_MAX: usize = 1000;

/// Longest text that is shown, escaped, with room for the command before it.
const TEXT_MAX: usize = 900;

/// How long the program may take to leave once it has been told to.
const LEAVE_TIME: Duration = Duration::from_millis(500);

/// Why there is no answer.
pub(crate) enum DialogueError {
    /// The person said no.
    Declined,
    /// The dialogue timed out by itself.
    TimedOut,
    /// The request was called off, or its time is over.
    Ended(Failure),
    /// The program cannot do it: no terminal, no display, not there.
    Broken(String),
}

/// A running pinentry; dropped, it is made to leave.
pub(super) struct Dialogue {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// What was read and is not a whole line yet.
    unread: Zeroizing<Vec<u8>>,
}

impl Dialogue {
    /// Starts `program` and waits for its greeting.
    pub(super) fn start(mut program: Command, wait: &Wait) -> Result<Self, DialogueError> {
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(DialogueError::Broken("no pipes".into()));
        };
        let mut dialogue = Self {
            child,
            to,
            from,
            unread: Zeroizing::new(Vec::with_capacity(2 * LINE_MAX)),
        };
        dialogue.answer(wait)?;
        Ok(dialogue)
    }

    /// Sends one command and waits for its answer: the data that came before OK.
    pub(super) fn command(
        &mut self,
        name: &str,
        argument: &str,
        wait: &Wait,
    ) -> Result<Zeroizing<Vec<u8>>, DialogueError> {
        let line = format!("{name} {}\n", escape(argument));
        self.to.write_all(line.as_bytes())?;
        self.answer(wait)
    }

    /// The same, for what not every pinentry can do.
    pub(super) fn try_command(
        &mut self,
        name: &str,
        arg: &str,
        wait: &Wait,
    ) -> Result<(), DialogueError> {
        match self.command(name, arg, wait) {
            Ok(_) | Err(DialogueError::Broken(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads until OK or ERR; the data that came before OK.
    fn answer(&mut self, wait: &Wait) -> Result<Zeroizing<Vec<u8>>, DialogueError> {
        let mut data = Zeroizing::new(Vec::with_capacity(2 * LINE_MAX));
        loop {
            let line = self.line(wait)?;
            match take_line(&line, &mut data)? {
                Answer::Whole => return Ok(data),
                Answer::GoesOn => {}
            }
        }
    }

    fn line(&mut self, wait: &Wait) -> Result<Zeroizing<Vec<u8>>, DialogueError> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line = Zeroizing::new(self.unread.get(..end).unwrap_or_default().to_vec());
                self.unread.drain(..=end);
                return Ok(line);
            }
            self.wait_readable(wait)?;
            let mut some = Zeroizing::new([0; LINE_MAX]);
            let count = self.from.read(some.as_mut_slice())?;
            let some = some.get(..count).unwrap_or_default();
            if some.is_empty() {
                return Err(DialogueError::Broken("it ended".into()));
            }
            if self.unread.len() + some.len() > self.unread.capacity() {
                return Err(DialogueError::Broken("line too long".into()));
            }
            self.unread.extend_from_slice(some);
        }
    }

    fn wait_readable(&self, wait: &Wait) -> Result<(), DialogueError> {
        loop {
            wait.check("an answer").map_err(|failure| match failure {
                Failure::TimedOut { .. } => DialogueError::TimedOut,
                other => DialogueError::Ended(other),
            })?;
            let stretch = PollTimeout::try_from(wait.stretch()).unwrap_or(PollTimeout::ZERO);
            let mut polled = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, stretch) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }

    fn has_left(&mut self) -> bool {
        let end = Instant::now() + LEAVE_TIME;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
                Ok(None) => return false,
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        // Asked first: the curses one puts its terminal back in order when it may.
        if self.to.write_all(b"BYE\n").is_ok() && self.has_left() {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // A child not waited for keeps its pid: this is nobody else.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if !self.has_left() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl From<io::Error> for DialogueError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Whether an answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With this line.
    Whole,
    /// With a line that follows.
    GoesOn,
}

/// Takes in one line of an answer, without its LF; the data in it goes to `data`, as far as that has
/// room: it never grows.
pub(crate) fn take_line(line: &[u8], data: &mut Vec<u8>) -> Result<Answer, DialogueError> {
    let (word, rest) = match line.iter().position(|&byte| byte == b' ') {
        Some(at) => line.split_at(at),
        None => (line, &[][..]),
    };
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    match word {
        b"OK" => return Ok(Answer::Whole),
        b"D" if data.len() + rest.len() <= data.capacity() => unescape(rest, data),
        b"D" => return Err(DialogueError::Broken("answer too long".into())),
        b"ERR" => return Err(refusal(rest)),
        _ => {}
    }
    Ok(Answer::GoesOn)
}

/// Tells apart what a number of libgpg-error means to us; the upper bits name its source.
fn refusal(text: &[u8]) -> DialogueError {
    const TIMEOUT: u32 = 62;
    const CANCELED: u32 = 99;
    const NOT_CONFIRMED: u32 = 114;
    const FULLY_CANCELED: u32 = 198;

    let text = String::from_utf8_lossy(text);
    let number = text
        .split(' ')
        .next()
        .and_then(|number| number.parse::<u32>().ok());
    match number.map(|number| number & 0xffff) {
        Some(CANCELED | NOT_CONFIRMED | FULLY_CANCELED) => DialogueError::Declined,
        Some(TIMEOUT) => DialogueError::TimedOut,
        Some(_) | None => DialogueError::Broken(text.into_owned()),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if escaped.len() >= TEXT_MAX {
            escaped.push('…');
            break;
        }
        match c {
            '%' => escaped.push_str("%25"),
            '\r' => escaped.push_str("%0D"),
            '\n' => escaped.push_str("%0A"),
            // Of a token's label, say: the curses pinentry draws on a terminal.
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn unescape(text: &[u8], into: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = match byte {
            b'%' => after.split_first_chunk::<2>(),
            _ => None,
        };
        let decoded = hex.and_then(|(digits, after)| Some((hex_byte(*digits)?, after)));
        let (byte, after) = decoded.unwrap_or((byte, after));
        into.push(byte);
        rest = after;
    }
}

fn hex_byte([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |c: u8| char::from(c).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_any_length_fits_a_line() {
        for text in ["%".repeat(5000), "ä\n".repeat(5000), String::new()] {
            let escaped = escape(&text);
            assert!(
                escaped.len() < LINE_MAX - "SETDESC \n".len(),
                "{}",
                escaped.len()
            );
            assert!(!escaped.contains('\n'));
        }
    }

    #[test]
    fn a_text_brings_no_control_characters() {
        assert_eq!(escape("a\u{1b}[2J\u{9b}b\n"), "a?[2J?b%0A");
    }

    #[test]
    fn an_escape_that_is_cut_short_is_taken_as_it_stands() {
        for (escaped, plain) in [("1%252", "1%2"), ("%", "%"), ("%4", "%4"), ("%zz", "%zz")] {
            let mut into = Vec::new();
            unescape(escaped.as_bytes(), &mut into);
            assert_eq!(into, plain.as_bytes());
        }
    }
}
