//! This user's daemon: found, or started.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::process::{self, Stdio};

use claviger_protocol::control::{
    Command, Conversation, ConversationError, FromDaemon, Reply, ToDaemon, VERSION,
};
use claviger_protocol::failure::ExitCode;
use claviger_protocol::paths;

use crate::prompter::{Prompter, prompt_place};
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
    let mut conversation = connect(OnDemand::Start)?;
    converse(&mut conversation, command, prompter)
}

/// Has the daemon end, and waits until it has: the next command starts a new one.
///
/// # Errors
/// As [`run`].
pub fn stop(prompter: &mut Prompter) -> Result<(), Failed> {
    let mut conversation = connect(OnDemand::Refuse)?;
    converse(&mut conversation, Command::Stop, prompter)?;
    // It keeps its end open as long as it lives, and says nothing more.
    match conversation.receive::<FromDaemon>() {
        Ok(_) => Err(broken(ConversationError::Malformed)),
        Err(_its_end) => Ok(()),
    }
}

fn converse(
    conversation: &mut Conversation,
    command: Command,
    prompter: &mut Prompter,
) -> Result<Reply, Failed> {
    let prompt_place = prompt_place();
    conversation
        .send(&ToDaemon::Command {
            version: VERSION,
            prompt_place,
            command,
        })
        .map_err(broken)?;
    loop {
        match conversation.receive().map_err(broken)? {
            FromDaemon::Notice(text) => eprintln!("{}", print::plain(&text)),
            FromDaemon::Prompt(prompt) => {
                // It may give up waiting, and then says so: that is what is read next.
                if prompter.answers_before(&prompt, conversation.stream()) {
                    let answer = prompter.ask(&prompt);
                    let _ = conversation.send(&ToDaemon::Answer(answer));
                }
            }
            FromDaemon::Done(outcome) => return outcome.map_err(Failed::from),
            FromDaemon::Attached => return Err(broken(ConversationError::Malformed)),
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
