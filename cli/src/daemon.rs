//! This user's daemon: found, or started.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{self, Stdio};
use std::time::{Duration, Instant};

use claviger_protocol::control::{
    Command, Conversation, ConversationError, FromDaemon, Reply, ToDaemon, VERSION,
};
use claviger_protocol::failure::ExitCode;
use claviger_protocol::paths;

use crate::Failed;
use crate::prompter::{Prompter, prompt_place};

/// How long a daemon that was just started may take to open its socket.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What of the CLI's environment a daemon started on demand inherits. It serves later callers too, so
/// nothing that belongs to one terminal or one shell: those come with each command.
const ENVIRONMENT: &[&str] = &[
    "CLAVIGER_LOG",
    "HOME",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "PATH",
    "SOFTHSM2_CONF",
    "TPM2_PKCS11_STORE",
    "USER",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

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
            FromDaemon::Notice(text) => eprintln!("{text}"),
            FromDaemon::Prompt(prompt) => {
                let answer = prompter.ask(&prompt);
                conversation
                    .send(&ToDaemon::Answer(answer))
                    .map_err(broken)?;
            }
            FromDaemon::Done(outcome) => return outcome.map_err(Failed::from),
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
    let mut daemon = process::Command::new(&program);
    daemon
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    daemon.arg("--detached").env_clear();
    daemon.envs(
        ENVIRONMENT
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    let mut child = daemon
        .spawn()
        .map_err(|error| Failed::file(&program, &error))?;
    let begun = Instant::now();
    while begun.elapsed() < START_TIMEOUT {
        if let Ok(stream) = UnixStream::connect(paths::control_socket()) {
            return Ok(stream);
        }
        if let Ok(Some(status)) = child.try_wait()
            && !status.success()
        {
            return Err(died(&mut child, status));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Failed::new(
        ExitCode::Internal,
        "clavigerd did not open its control socket within 10 s",
    ))
}

/// What the daemon said before it died is what the user must see: an error in the configuration, say.
fn died(child: &mut process::Child, status: process::ExitStatus) -> Failed {
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // Nothing more can be told if even this fails.
        let _ = io::Read::read_to_string(&mut stderr, &mut said);
    }
    let code = if status.code() == Some(ExitCode::Usage as i32) {
        ExitCode::Usage
    } else {
        ExitCode::Internal
    };
    Failed::new(
        code,
        format!("clavigerd ended at its start: {}", said.trim()),
    )
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
