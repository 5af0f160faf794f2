//! The control socket: one thread a connection, one command a connection.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use claviger_pki::cancel;
use claviger_protocol::Failure;
use claviger_protocol::control::{
    Answers, Command, Conversation, ConversationError, Reply, ToDaemon, VERSION,
};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::daemon::{Caller, Daemon};
use crate::errand::Program;
use crate::process;
use crate::prompt::{Asker, Terminal};
use crate::residue::wipe_stack;
use crate::volumes::{NewVolume, ending};
use crate::wait::Wait;

/// Connections at a time: many times what one person has terminals.
const CONNECTIONS_MAX: usize = 64;

/// How long a CLI may take to say what it wants.
const COMMAND_TIME: Duration = Duration::from_secs(5);

/// How long a command may take, people and RSA-4096 key generation in a card included.
const LONGEST: Duration = Duration::from_secs(600);

/// Serves `listener` until the process ends.
///
/// # Errors
/// If no thread can be started.
pub fn serve(daemon: &Arc<Daemon>, listener: UnixListener) -> io::Result<()> {
    let daemon = daemon.clone();
    let connections = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for stream in listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "control socket");
                    // Out of descriptors, most likely: not to be asked again in a tight loop.
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let place = Place::take(&connections);
            if place.number > CONNECTIONS_MAX {
                tracing::warn!("too many connections to the control socket: one refused");
                continue;
            }
            let daemon = daemon.clone();
            let serve = move || {
                let _place = place;
                match connection(&daemon, stream) {
                    // Somebody looked whether the daemon is there.
                    Ok(()) | Err(ConversationError::Closed) => {}
                    Err(error) => tracing::warn!(%error, "control connection dropped"),
                }
                wipe_stack();
            };
            if let Err(error) = thread::Builder::new().name("control".into()).spawn(serve) {
                tracing::error!(%error, "cannot start a thread");
            }
        }
    };
    thread::Builder::new().name("accept".into()).spawn(accept)?;
    Ok(())
}

/// One of [`CONNECTIONS_MAX`].
struct Place {
    taken: Arc<AtomicUsize>,
    number: usize,
}

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Self {
        Self {
            taken: taken.clone(),
            number: taken.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

fn connection(daemon: &Arc<Daemon>, stream: UnixStream) -> Result<(), ConversationError> {
    // Whose process it is, as the kernel says: checked before a byte is read.
    let mut conversation = Conversation::new(stream)?;
    conversation.stream().set_read_timeout(Some(COMMAND_TIME))?;
    let peer = getsockopt(conversation.stream(), PeerCredentials).map_err(io::Error::from)?;
    let socket = conversation.stream().try_clone()?;
    let message = conversation.receive()?;
    let (version, place, answers, command) = match message {
        ToDaemon::Command {
            version,
            prompt_place,
            answers,
            command,
        } => (version, prompt_place, answers, command),
        ToDaemon::Answer(_) | ToDaemon::Nobody => return Err(ConversationError::Malformed),
        ToDaemon::Stop => return stop(daemon, conversation),
    };
    let terminal = Arc::new(Terminal::new(conversation, answers)?);
    if daemon.volumes.are_closed() {
        terminal.done(Err(ending()));
        return Ok(());
    }
    if version != VERSION {
        let text =
            "claviger and clavigerd are of different versions: 'claviger stop' ends this one";
        terminal.done(Err(Failure::Usage(text.into())));
        return Ok(());
    }
    daemon.prompts.remember(place);
    let program = Program::of_pid(u32::try_from(peer.pid()).unwrap_or(0));
    match command {
        Command::Attach => {
            daemon.prompts.attach(&terminal);
            terminal.attached();
            terminal.wait_closed()?;
        }
        command => {
            let asker = match answers {
                Answers::Terminal | Answers::Descriptor => Asker::Terminal(terminal.clone()),
                Answers::Pinentry => daemon.prompts.pinentry(),
            };
            let result = run_while_wanted(daemon, &terminal, (program, asker), command);
            terminal.done(result);
        }
    }
    // Wakes the thread that watches for the other side to go.
    let _ = socket.shutdown(Shutdown::Both);
    Ok(())
}

/// Ends this process.
fn stop(daemon: &Daemon, conversation: Conversation) -> Result<(), ConversationError> {
    // Nothing is asked.
    let terminal = Terminal::new(conversation, Answers::Terminal)?;
    // Before the answer: whoever has it may start the next daemon.
    let faults = daemon.shut_down().faults();
    faults.iter().for_each(|fault| terminal.tell(fault));
    terminal.done(match faults.is_empty() {
        true => Ok(Reply::Done),
        false => Err(Failure::Internal(
            "not everything is locked as it should be".into(),
        )),
    });
    process::end()?;
    // The CLI takes the end of the connection for the end of this process.
    Ok(terminal.wait_closed()?)
}

/// Runs a command; a CLI that goes away calls it off.
fn run_while_wanted(
    daemon: &Arc<Daemon>,
    terminal: &Arc<Terminal>,
    (program, asker): (Program, Asker),
    command: Command,
) -> Result<Reply, Failure> {
    let (canceller, cancel) = cancel::pair();
    let watched = terminal.clone();
    let watch = move || {
        if let Err(error) = watched.wait_closed() {
            tracing::warn!(%error, "cannot watch a control connection");
        }
        canceller.cancel();
    };
    let watching = thread::Builder::new().name("hang-up".into()).spawn(watch);
    watching.map_err(|error| Failure::Internal(error.to_string()))?;
    let caller = Caller {
        asker,
        program,
        wait: Wait::new(Instant::now() + LONGEST, cancel),
    };
    run(daemon, command, &caller)
}

fn run(daemon: &Arc<Daemon>, command: Command, caller: &Caller) -> Result<Reply, Failure> {
    match command {
        Command::Init {
            dir,
            scope,
            recipients,
            passphrase,
            recovery,
        } => {
            let new = NewVolume {
                dir: &dir,
                scope,
                recipients: &recipients,
                passphrase: passphrase.as_ref(),
                recovery,
            };
            daemon.init(&new, caller)
        }
        Command::Unlock { dir, with } => {
            let unlocked = daemon.unlock(&dir, &with, caller)?;
            Ok(Reply::Unlocked {
                volume: unlocked.volume,
                by: unlocked.by,
                changes: unlocked.changes,
            })
        }
        Command::Lock(target) => daemon.lock(&target, caller).map(Reply::Locked),
        Command::Status => Ok(Reply::Status(daemon.status())),
        Command::TokenList => Ok(Reply::Tokens(daemon.token_list(caller))),
        Command::KeyGenerate(order) => daemon.key_generate(&order, caller).map(Reply::Key),
        Command::KeyAdd { key, label } => daemon.key_add(&key, label, caller).map(Reply::Key),
        Command::KeyList => Ok(Reply::Keys(daemon.key_list())),
        Command::KeyRemove { key } => daemon.key_remove(&key).map(Reply::Key),
        Command::EcryptfsAddKey { key } => {
            let (key, sig) = daemon.ecryptfs_add_key(&key, caller)?;
            let sig = sig.to_string();
            Ok(Reply::EcryptfsKey { key, sig })
        }
        Command::EcryptfsUnlock(order) => daemon.ecryptfs_unlock(order, caller),
        Command::RecipientList { dir } => daemon.recipient_list(&dir, caller),
        Command::RecipientAdd { dir, recipient } => daemon.recipient_add(&dir, &recipient, caller),
        Command::RecipientRemove { dir, recipient } => {
            daemon.recipient_remove(&dir, &recipient, caller)
        }
        Command::Attach => Err(Failure::Internal("an attached CLI runs no command".into())),
    }
}
