//! This user's daemon: found, or started.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::process::{self, Stdio};

use claviger_protocol::Failure;
use claviger_protocol::control::{
    Command, Conversation, ConversationError, FromDaemon, Reply, ToDaemon, VERSION,
};
use claviger_protocol::failure::ExitCode;
use claviger_protocol::paths;

use crate::calling_off::CallingOff;
use crate::prompter::{Asked, Prompter, Waited, prompt_place};
use crate::{Failed, print};

/// Whether a daemon that does not run is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDemand {
    /// Start it.
    Start,
    /// Fail.
    Refuse,
}

/// Sends `command`, answers the daemon's prompts, and returns its reply.
///
/// # Errors
/// [`Failed`]: the daemon's failure, or that it cannot be reached.
pub fn run(command: Command, prompter: &mut Prompter) -> Result<Reply, Failed> {
    ask(command, prompter)?.map_err(Failed::from)
}

/// The same, where a failure of the daemon's is not the end.
///
/// # Errors
/// [`Failed`] if it cannot be reached, or goes away: then it may have done what it was told.
pub fn ask(command: Command, prompter: &mut Prompter) -> Result<Result<Reply, Failure>, Failed> {
    let mut conversation = connect(OnDemand::Start)?;
    converse(&mut conversation, command, prompter, None)
}

/// The same; a signal that would end this process calls the command off.
///
/// # Errors
/// As [`ask`].
pub(crate) fn ask_to_the_end(
    command: Command,
    prompter: &mut Prompter,
    calling_off: &CallingOff,
) -> Result<Result<Reply, Failure>, Failed> {
    let mut conversation = connect(OnDemand::Start)?;
    converse(&mut conversation, command, prompter, Some(calling_off))
}

/// Has the daemon end, and waits until it has: the next command starts a new one.
///
/// # Errors
/// As [`run`].
pub fn stop() -> Result<(), Failed> {
    let mut conversation = connect(OnDemand::Refuse)?;
    conversation.send(&ToDaemon::Stop).map_err(broken)?;
    let mut outcome = Ok(());
    // It keeps its end open as long as it lives. A daemon of another version may say what is not
    // understood here: what counts is its end.
    loop {
        match conversation.receive() {
            Ok(FromDaemon::Notice(text)) => print::error_lines(&text),
            Ok(FromDaemon::Done(Err(failure))) => outcome = Err(Failed::from(failure)),
            Ok(_) | Err(ConversationError::Malformed) => {}
            Err(_its_end) => return outcome,
        }
    }
}

fn converse(
    conversation: &mut Conversation,
    command: Command,
    prompter: &mut Prompter,
    calling_off: Option<&CallingOff>,
) -> Result<Result<Reply, Failure>, Failed> {
    let prompt_place = prompt_place();
    let answers = prompter.answers(&prompt_place);
    conversation
        .send(&ToDaemon::Command {
            version: VERSION,
            prompt_place,
            answers,
            command,
        })
        .map_err(broken)?;
    match listen_unless(calling_off, conversation, prompter).map_err(broken)? {
        Said::Done(outcome) => Ok(outcome),
        Said::Attached => Err(broken(ConversationError::Malformed)),
    }
}

/// What the daemon says besides prompts and notices.
pub(crate) enum Said {
    /// The command has ended so.
    Done(Result<Reply, Failure>),
    /// Prompts come here from now on.
    Attached,
}

/// Answers prompts and shows notices until the daemon says something else. A prompt is off the screen as
/// soon as the daemon takes it back or goes away.
///
/// # Errors
/// [`ConversationError`].
pub(crate) fn listen(
    conversation: &mut Conversation,
    prompter: &mut Prompter,
) -> Result<Said, ConversationError> {
    listen_unless(None, conversation, prompter)
}

fn listen_unless(
    calling_off: Option<&CallingOff>,
    conversation: &mut Conversation,
    prompter: &mut Prompter,
) -> Result<Said, ConversationError> {
    loop {
        if let Some(calling_off) = calling_off {
            calling_off.wait(conversation)?;
        }
        match conversation.receive()? {
            FromDaemon::Notice(text) => print::error_lines(&text),
            FromDaemon::Prompt(prompt) => {
                let mut put = || answer(prompter.put(&prompt), conversation);
                let answer = match calling_off {
                    Some(calling_off) => calling_off.but_at(put)?,
                    None => put()?,
                };
                // A daemon that has gone said so before: that is what is read next.
                let _ = conversation.send(&answer);
            }
            // It was answered before that was known there.
            FromDaemon::Withdrawn => {}
            FromDaemon::Done(outcome) => return Ok(Said::Done(outcome)),
            FromDaemon::Attached => return Ok(Said::Attached),
        }
    }
}

/// The answer to a prompt: that it is declined, also if it is withdrawn.
fn answer(
    mut asked: Asked<'_>,
    conversation: &mut Conversation,
) -> Result<ToDaemon, ConversationError> {
    loop {
        match asked.wait(Some(conversation.stream().as_fd())) {
            Waited::Answer(answer) => return Ok(ToDaemon::Answer(answer)),
            Waited::Nobody => return Ok(ToDaemon::Nobody),
            Waited::DaemonSpeaks => {}
        }
        match conversation.receive()? {
            FromDaemon::Notice(text) => asked.tell(&text),
            FromDaemon::Withdrawn => return Ok(ToDaemon::Answer(None)),
            FromDaemon::Prompt(_) | FromDaemon::Done(_) | FromDaemon::Attached => {
                return Err(ConversationError::Malformed);
            }
        }
    }
}

/// Connects to the daemon's control socket.
///
/// # Errors
/// [`Failed`] if it does not run and is not to be started, or does not come up.
pub fn connect(on_demand: OnDemand) -> Result<Conversation, Failed> {
    let socket = paths::control_socket();
    let stream = match (UnixStream::connect(&socket), on_demand) {
        (Ok(stream), _) => stream,
        (Err(error), OnDemand::Refuse) => return Err(Failed::file(&socket, &error)),
        (Err(error), OnDemand::Start) if is_absent(&error) => start()?,
        (Err(error), OnDemand::Start) => return Err(Failed::file(&socket, &error)),
    };
    Conversation::new(stream).map_err(broken)
}

/// Nobody listens: no socket, or one that a daemon left behind.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn start() -> Result<UnixStream, Failed> {
    let runtime = paths::runtime_dir();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&runtime)
        .map_err(|error| {
            Failed::file(&runtime, &error)
                .advise("Set XDG_RUNTIME_DIR to a folder that only you can enter")
        })?;
    let program = paths::program("clavigerd");
    // Returns once the daemon serves, or with what keeps it from serving: an error in the configuration, say.
    let output = process::Command::new(&program)
        .arg("--background")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failed::file(&program, &error))?;
    let socket = paths::control_socket();
    UnixStream::connect(&socket).map_err(|error| {
        if output.status.success() {
            return Failed::file(&socket, &error);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("clavigerd: ");
        let usage = output.status.code() == Some(ExitCode::Usage as i32);
        let code = if usage {
            ExitCode::Usage
        } else {
            ExitCode::Internal
        };
        Failed::new(code, format!("clavigerd does not start: {said}"))
    })
}

pub(crate) fn broken(error: ConversationError) -> Failed {
    let code = match error {
        ConversationError::WrongUid(_) => ExitCode::Permission,
        ConversationError::Closed
        | ConversationError::TooLarge(_)
        | ConversationError::Malformed
        | ConversationError::Io(_) => ExitCode::Internal,
    };
    Failed::new(code, error.to_string())
        .advise("The daemon's log says more; the next command starts a new one")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::BufReader;
    use std::os::fd::OwnedFd;
    use std::thread;

    use claviger_protocol::control::{Prompt, PromptKind};

    use super::*;

    fn pair() -> (Conversation, Conversation) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let conversation = |stream| Conversation::new(stream).unwrap();
        (conversation(ours), conversation(theirs))
    }

    fn prompt() -> FromDaemon {
        FromDaemon::Prompt(Prompt {
            kind: PromptKind::Pin,
            text: "PIN of card".into(),
        })
    }

    #[track_caller]
    fn answer_to(daemon: &mut Conversation) -> Option<Vec<u8>> {
        match daemon.receive().unwrap() {
            ToDaemon::Answer(answer) => answer.map(|secret| secret.expose().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_prompt_has_one_answer_whatever_is_said_meanwhile() {
        use std::io::Write;

        let (mut ours, mut daemon) = pair();
        let (lines, mut typed) = io::pipe().unwrap();
        let mut prompter = Prompter::Lines(BufReader::new(File::from(OwnedFd::from(lines))));
        thread::scope(|scope| {
            let listening = scope.spawn(|| listen(&mut ours, &mut prompter));
            daemon.send(&prompt()).unwrap();
            daemon.send(&FromDaemon::Notice("a touch".into())).unwrap();
            daemon.send(&FromDaemon::Withdrawn).unwrap();
            assert_eq!(answer_to(&mut daemon), None);

            daemon.send(&prompt()).unwrap();
            daemon.send(&FromDaemon::Notice("a touch".into())).unwrap();
            typed.write_all(b"1234\n").unwrap();
            assert_eq!(answer_to(&mut daemon).unwrap(), b"1234");
            // It was on its way when the daemon gave up.
            daemon.send(&FromDaemon::Withdrawn).unwrap();
            daemon.send(&FromDaemon::Done(Ok(Reply::Done))).unwrap();
            let said = listening.join().unwrap().unwrap();
            assert!(matches!(said, Said::Done(Ok(Reply::Done))));
        });
    }

    #[test]
    fn a_daemon_that_goes_away_takes_its_prompt_along() {
        let (mut ours, mut daemon) = pair();
        let (lines, _typed) = io::pipe().unwrap();
        let mut prompter = Prompter::Lines(BufReader::new(File::from(OwnedFd::from(lines))));
        daemon.send(&prompt()).unwrap();
        drop(daemon);
        let said = listen(&mut ours, &mut prompter);
        assert!(matches!(said, Err(ConversationError::Closed)));
    }
}
