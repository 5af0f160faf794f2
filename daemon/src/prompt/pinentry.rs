//! pinentry, spoken to directly (the Assuan protocol, as far as pinentry needs it).
//!
//! Not through the `pinentry` crate: that leaves the PIN in a read buffer it does not wipe, cannot be
//! called off before the person answers, and panics on a description above 1000 bytes
//! (`docs/decisions/045-pinentry-without-a-crate.md`).
//!
//! ```text
//! line     := at most 1000 bytes, ended by LF; "%", CR and LF percent-escaped
//! pinentry → "OK …" | "ERR <gpg-error number> …" | "D <data>" | "# …" | "S …"
//! ```
//!
//! Source: the manuals of Assuan ("Server responses") and pinentry ("Protocol").

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use claviger_protocol::Failure;
use claviger_protocol::control::{PromptKind, PromptPlace};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use super::turn::Turn;
use super::{Question, nobody};
use crate::wait::Wait;

/// Longest line of Assuan, with its LF.
const LINE_MAX: usize = 1000;

/// Longest text that is shown, escaped, with room for the command before it.
const TEXT_MAX: usize = 900;

/// How long pinentry may take to leave once it has been told to.
const LEAVE_TIME: Duration = Duration::from_millis(500);

/// A pinentry program, and where it may appear.
#[derive(Debug)]
pub struct Pinentry {
    program: PathBuf,
    place: PromptPlace,
    turn: Turn,
}

impl Pinentry {
    /// Will run `program` on `place`.
    pub fn new(program: PathBuf, place: PromptPlace) -> Self {
        Self {
            program,
            place,
            turn: Turn::default(),
        }
    }

    /// Asks; a dialogue nobody wants any more is taken off the screen.
    ///
    /// # Errors
    /// [`Failure::NobodyToAsk`] if pinentry is not there or cannot use its terminal or display;
    /// [`Failure::Declined`], [`Failure::TimedOut`], [`Failure::Cancelled`].
    pub fn ask(&self, question: &Question, wait: &Wait) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let _turn = self.turn.take(&question.subject, wait)?;
        let answer = self.dialogue(question, wait);
        answer.map_err(|error| match error {
            DialogueError::Declined => Failure::Declined,
            DialogueError::TimedOut => Failure::TimedOut {
                what: question.subject.clone(),
            },
            DialogueError::Ended(failure) => failure,
            DialogueError::Broken(why) => {
                tracing::warn!(program = %self.program.display(), why, "pinentry failed");
                nobody(question)
            }
        })
    }

    fn dialogue(
        &self,
        question: &Question,
        wait: &Wait,
    ) -> Result<Zeroizing<Vec<u8>>, DialogueError> {
        let mut dialogue = Dialogue::start(self)?;
        dialogue.answer(wait)?;
        let seconds = wait
            .deadline()
            .saturating_duration_since(Instant::now())
            .as_secs()
            + 1;
        let options = [
            ("ttyname", &self.place.tty),
            ("ttytype", &self.place.term),
            ("display", &self.place.display),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                // Not every pinentry knows every option; what it cannot do without, it says later.
                dialogue.try_command("OPTION", &format!("{name}={value}"), wait)?;
            }
        }
        dialogue.command("SETTITLE", "Claviger", wait)?;
        dialogue.command("SETDESC", &question.text, wait)?;
        dialogue.try_command("SETTIMEOUT", &seconds.to_string(), wait)?;
        match question.kind {
            PromptKind::Pin => dialogue.command("SETPROMPT", "PIN:", wait)?,
            PromptKind::Passphrase => dialogue.command("SETPROMPT", "Passphrase:", wait)?,
            PromptKind::Confirm => return dialogue.command("CONFIRM", "", wait),
        };
        dialogue.command("GETPIN", "", wait)
    }
}

/// Why there is no answer.
enum DialogueError {
    Declined,
    TimedOut,
    Ended(Failure),
    Broken(String),
}

/// A running pinentry; dropped, it is made to leave.
struct Dialogue {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// What was read and is not a whole line yet.
    unread: Zeroizing<Vec<u8>>,
}

impl Dialogue {
    fn start(pinentry: &Pinentry) -> Result<Self, DialogueError> {
        let mut command = Command::new(&pinentry.program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_remove("NOTIFY_SOCKET");
        let variables = [
            ("DISPLAY", &pinentry.place.display),
            ("WAYLAND_DISPLAY", &pinentry.place.wayland_display),
            ("TERM", &pinentry.place.term),
        ];
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command.spawn().map_err(|error| broken(&error))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(DialogueError::Broken("no pipes".into()));
        };
        Ok(Self {
            child,
            to,
            from,
            // Never grows: a buffer that grows leaves copies behind.
            unread: Zeroizing::new(Vec::with_capacity(2 * LINE_MAX)),
        })
    }

    fn command(
        &mut self,
        name: &str,
        argument: &str,
        wait: &Wait,
    ) -> Result<Zeroizing<Vec<u8>>, DialogueError> {
        let line = format!("{name} {}\n", escape(argument));
        self.to
            .write_all(line.as_bytes())
            .map_err(|error| broken(&error))?;
        self.answer(wait)
    }

    fn try_command(&mut self, name: &str, arg: &str, wait: &Wait) -> Result<(), DialogueError> {
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
            let (word, rest) = match line.iter().position(|&byte| byte == b' ') {
                Some(at) => line.split_at(at),
                None => (line.as_slice(), &[][..]),
            };
            let rest = rest.strip_prefix(b" ").unwrap_or(rest);
            match word {
                b"OK" => return Ok(data),
                b"D" if data.len() + rest.len() <= data.capacity() => unescape(rest, &mut data),
                b"D" => return Err(DialogueError::Broken("answer too long".into())),
                b"ERR" => return Err(refusal(rest)),
                _ => {}
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
            let count = self
                .from
                .read(some.as_mut_slice())
                .map_err(|error| broken(&error))?;
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
                Err(errno) => return Err(broken(&errno.into())),
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

fn broken(error: &std::io::Error) -> DialogueError {
    DialogueError::Broken(error.to_string())
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
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    /// A pinentry of a few lines of shell: it does what the real one does, without a screen.
    fn scripted(dir: &Path, script: &str) -> Pinentry {
        let program = dir.join("pinentry");
        fs::write(&program, format!("#!/bin/sh\necho OK\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let place = PromptPlace {
            tty: Some("/dev/pts/9".into()),
            ..PromptPlace::default()
        };
        Pinentry::new(program, place)
    }

    fn question() -> Question {
        Question {
            kind: PromptKind::Pin,
            subject: "PIN of card".into(),
            text: format!("50% sure\n{}", "long ".repeat(400)),
        }
    }

    fn soon() -> Wait {
        Wait::at_most(Duration::from_secs(20))
    }

    #[test]
    fn a_pin_is_what_pinentry_sends_unescaped() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let pinentry = scripted(
            dir.path(),
            &format!(
                "while read -r word rest; do echo \"$word $rest\" >> {}
                 case $word in GETPIN) echo 'D 12%2534'; esac; echo OK; \
                 case $word in BYE) exit; esac; done",
                log.display()
            ),
        );
        let pin = pinentry.ask(&question(), &soon()).unwrap();
        assert_eq!(pin.as_slice(), b"12%34");
        let log = fs::read_to_string(log).unwrap();
        assert!(log.contains("OPTION ttyname=/dev/pts/9\n"), "{log}");
        assert!(log.contains("SETDESC 50%25 sure%0Along"), "{log}");
        assert!(log.lines().all(|line| line.len() < LINE_MAX), "{log}");
    }

    #[test]
    fn cancelling_the_dialogue_declines() {
        let dir = tempfile::tempdir().unwrap();
        let script = "while read -r word rest; do case $word in GETPIN) \
             echo 'ERR 83886179 Operation cancelled <Pinentry>';; BYE) exit;; *) echo OK; esac; done";
        let pinentry = scripted(dir.path(), script);
        assert_eq!(
            pinentry.ask(&question(), &soon()).unwrap_err(),
            Failure::Declined
        );
    }

    #[test]
    fn a_terminal_that_cannot_be_used_is_nobody_to_ask() {
        let dir = tempfile::tempdir().unwrap();
        let script = "while read -r word rest; do case $word in GETPIN) \
             echo 'ERR 83918950 Inappropriate ioctl for device <Pinentry>';; *) echo OK; esac; done";
        let pinentry = scripted(dir.path(), script);
        let refused = pinentry.ask(&question(), &soon()).unwrap_err();
        assert!(
            matches!(refused, Failure::NobodyToAsk { .. }),
            "{refused:?}"
        );
    }

    #[test]
    fn a_dialogue_that_is_called_off_leaves_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let asked = dir.path().join("asked");
        let script = format!(
            "echo $$ > {}; while read -r word rest; do case $word in \
             GETPIN) touch {}; exec sleep 60;; *) echo OK; esac; done",
            pid_file.display(),
            asked.display()
        );
        let pinentry = scripted(dir.path(), &script);
        let (canceller, cancel) = claviger_pki::cancel::pair();
        let wait = Wait::new(Instant::now() + Duration::from_secs(60), cancel);
        thread::scope(|scope| {
            let answer = scope.spawn(|| pinentry.ask(&question(), &wait));
            while !asked.exists() {
                thread::yield_now();
            }
            canceller.cancel();
            assert_eq!(answer.join().unwrap().unwrap_err(), Failure::Cancelled);
        });
        let pid = fs::read_to_string(pid_file).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }

    #[test]
    fn no_pinentry_at_all_is_nobody_to_ask() {
        let pinentry = Pinentry::new("/nonexistent/pinentry".into(), PromptPlace::default());
        let refused = pinentry.ask(&question(), &soon()).unwrap_err();
        assert!(
            matches!(refused, Failure::NobodyToAsk { .. }),
            "{refused:?}"
        );
    }
}
