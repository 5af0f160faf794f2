//! Starting on demand: a daemon of its own session, with nothing of its starter but a stated part of
//! the environment.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use claviger_protocol::{log_file, paths};

use crate::instance::{InstanceError, private_folder};

/// What the daemon keeps of the environment of whoever started it, `LC_*` besides; all else is cleared,
/// so that it does not matter which terminal, with which agent sockets and preloads, was the first.
///
/// Where files are, where the modules' libraries find tokens, and how it logs. Displays and terminals
/// are not among them: each CLI call names its own.
pub const ENVIRONMENT: &[&str] = &[
    "CLAVIGER_LOG",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "HOME",
    "LANG",
    "LOGNAME",
    "OPENSC_CONF",
    "PATH",
    "PCSCLITE_CSOCK_NAME",
    "RUST_LOG",
    "SOFTHSM2_CONF",
    "TPM2_PKCS11_STORE",
    "TPM2_PKCS11_TCTI",
    "TSS2_FAPICONF",
    "TSS2_LOG",
    "USER",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

/// Exit status of a daemon that found another one running: whoever wanted one has one.
pub const ALREADY_RUNNING: u8 = 75;

/// How long the new daemon may take until it serves.
const START_TIME: Duration = Duration::from_secs(10);

/// Why no daemon was started.
#[derive(Debug, thiserror::Error)]
pub enum BackgroundError {
    /// There is no home to keep its log in.
    #[error("neither HOME nor XDG_STATE_HOME is set")]
    NoHome,
    /// A folder cannot be used.
    #[error(transparent)]
    Folder(#[from] InstanceError),
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ended at once.
    #[error("{said}")]
    Ended {
        /// What it said last.
        said: String,
        /// Its exit status.
        code: Option<u8>,
    },
    /// It runs, and does not serve.
    #[error("it does not serve after {} s: see {log}", START_TIME.as_secs())]
    Silent {
        /// Its log.
        log: String,
    },
}

/// Starts a daemon in the background and waits until it serves. One that runs already is as good.
///
/// # Errors
/// [`BackgroundError`], with what the daemon said.
pub fn start() -> Result<(), BackgroundError> {
    let state = paths::state_dir().ok_or(BackgroundError::NoHome)?;
    let runtime = paths::runtime_dir();
    private_folder(&state)?;
    private_folder(&runtime)?;
    let log_path = state.join("daemon.log");
    let log = log_file::begin(&log_path)?;
    let said_before = log.metadata()?.len();

    // The same handshake that systemd uses. The name is ours alone: the folder is.
    let ready_path = runtime.join(format!("ready-{}", std::process::id()));
    let _ = fs::remove_file(&ready_path);
    let ready = UnixDatagram::bind(&ready_path)?;
    let started = spawn(&log, &ready_path);
    let ended = started.and_then(|mut child| {
        ready.set_read_timeout(Some(Duration::from_millis(20)))?;
        let deadline = Instant::now() + START_TIME;
        loop {
            let mut message = [0; 64];
            if ready.recv(&mut message).is_ok() {
                return Ok(Start::Serves);
            }
            if let Some(status) = child.try_wait()? {
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                return Ok(Start::Ended(code));
            }
            if Instant::now() >= deadline {
                return Ok(Start::Silent);
            }
        }
    });
    let _ = fs::remove_file(&ready_path);
    match ended? {
        Start::Serves => Ok(()),
        Start::Ended(Some(ALREADY_RUNNING)) => Ok(wait_for_socket()?),
        Start::Ended(code) => {
            let said = said_since(&log_path, said_before)?;
            Err(BackgroundError::Ended { said, code })
        }
        Start::Silent => Err(BackgroundError::Silent {
            log: log_path.display().to_string(),
        }),
    }
}

enum Start {
    Serves,
    Ended(Option<u8>),
    Silent,
}

fn spawn(log: &File, ready: &Path) -> io::Result<Child> {
    let kept = ENVIRONMENT
        .iter()
        .filter_map(|name| Some((name, env::var_os(name)?)));
    let locale = env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LC_"));
    Command::new(env::current_exe()?)
        .env_clear()
        .envs(kept)
        .envs(locale)
        .env("NOTIFY_SOCKET", ready)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone()?)
        // Ctrl-C and the end of the terminal that started it are not for it.
        .arg("--own-session")
        .spawn()
}

/// The other daemon may still be starting.
fn wait_for_socket() -> io::Result<()> {
    let socket = paths::control_socket();
    let deadline = Instant::now() + START_TIME;
    loop {
        match UnixStream::connect(&socket) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn said_since(path: &Path, offset: u64) -> io::Result<String> {
    let mut log = File::open(path)?;
    log.seek(SeekFrom::Start(offset))?;
    let mut said = String::new();
    log.take(64 << 10).read_to_string(&mut said)?;
    let last = said
        .lines()
        .filter_map(|line| line.strip_prefix("clavigerd: "))
        .next_back();
    Ok(last.unwrap_or(said.trim_end()).to_owned())
}
