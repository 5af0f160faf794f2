//! Asking by way of pinentry.
//!
//! Not through the `pinentry` crate: that leaves the PIN in a read buffer it does not wipe, cannot be
//! called off before the person answers, and panics on a description above 1000 bytes
//! (`docs/decisions/045-pinentry-without-a-crate.md`).

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use claviger_protocol::Failure;
use claviger_protocol::control::{PromptKind, PromptPlace};
use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use super::assuan::{Dialogue, DialogueError};
use super::{Question, nobody};
use crate::sys::unblock_signals;
use crate::turns::Turns;
use crate::wait::Wait;

/// A pinentry program, and where it may appear.
#[derive(Debug)]
pub struct Pinentry {
    program: PathBuf,
    place: PromptPlace,
    /// One question at a time for one pair of eyes.
    turn: Turns<()>,
}

impl Pinentry {
    /// Will run `program` on `place`.
    pub fn new(program: PathBuf, place: PromptPlace) -> Self {
        Self {
            program,
            place,
            turn: Turns::default(),
        }
    }

    /// Where it appears.
    pub fn place(&self) -> &PromptPlace {
        &self.place
    }

    /// Asks; a dialogue nobody wants any more is taken off the screen.
    ///
    /// # Errors
    /// [`Failure::NobodyToAsk`] if pinentry is not there or cannot use its terminal or display;
    /// [`Failure::Declined`], [`Failure::TimedOut`], [`Failure::Cancelled`].
    pub fn ask(&self, question: &Question, wait: &Wait) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let _turn = self.turn.take((), &question.subject, wait)?;
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

    /// Writes a few lines on its terminal, unless a dialogue is there. On a display alone it tells nothing.
    ///
    /// Not by a dialogue: what is told needs no answer, and is over as soon as the token is touched.
    pub fn tell(&self, text: &str) {
        let Ok(_turn) = self
            .turn
            .take((), "terminal", &Wait::at_most(Duration::ZERO))
        else {
            return;
        };
        let Some(tty) = &self.place.tty else {
            return;
        };
        if let Err(error) = write_on(Path::new(tty), text) {
            tracing::debug!(%error, tty, "nobody was told");
        }
    }

    fn dialogue(
        &self,
        question: &Question,
        wait: &Wait,
    ) -> Result<Zeroizing<Vec<u8>>, DialogueError> {
        let mut dialogue = Dialogue::start(self.command(), wait)?;
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

    /// The program, with the place in its environment.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_remove("NOTIFY_SOCKET");
        unblock_signals(&mut command);
        let variables = [
            ("DISPLAY", &self.place.display),
            ("XAUTHORITY", &self.place.xauthority),
            ("WAYLAND_DISPLAY", &self.place.wayland_display),
            ("TERM", &self.place.term),
        ];
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

/// Never waits: a terminal whose output is held up (Ctrl-S) is not told.
fn write_on(tty: &Path, text: &str) -> io::Result<()> {
    let mut options = File::options();
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let mut tty = options.write(true).custom_flags(flags.bits()).open(tty)?;
    // The path is what a CLI call said: it may name anything by now.
    if !tty.is_terminal() {
        return Err(io::ErrorKind::NotConnected.into());
    }
    let plain = |c: char| c.is_control() && c != '\n';
    let text = text.replace(plain, "?").replace('\n', "\r\n");
    tty.write_all(format!("\r\nclaviger: {text}\r\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

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
        assert!(log.lines().all(|line| line.len() < 1000), "{log}");
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
