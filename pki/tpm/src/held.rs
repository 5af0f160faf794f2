//! What the module holds between calls: its connection, and the PINs the TPM has accepted.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use claviger_pki::module::ModuleError;
use zeroize::Zeroizing;

use crate::connection::Connection;

/// A TPM without a resource manager serves one connection, so one that nobody uses is given back.
const IDLE: Duration = Duration::from_millis(300);

/// PINs that the TPM has accepted, by key file; a refused one is never kept.
pub(crate) type Pins = HashMap<PathBuf, Zeroizing<Vec<u8>>>;

/// Connection and PINs, behind one lock.
pub(crate) struct Held {
    tcti: String,
    state: Mutex<State>,
    used: Condvar,
}

struct State {
    connection: Option<(Connection, Instant)>,
    pins: Pins,
    /// The module is gone; the thread that gives connections back ends.
    closed: bool,
}

impl Held {
    /// Nothing yet, and the thread that gives an idle connection back.
    pub(crate) fn start(tcti: String) -> Result<Arc<Self>, ModuleError> {
        let held = Arc::new(Self {
            tcti,
            state: Mutex::new(State {
                connection: None,
                pins: HashMap::new(),
                closed: false,
            }),
            used: Condvar::new(),
        });
        let for_idle = Arc::clone(&held);
        thread::Builder::new()
            .name("idle".into())
            .spawn(move || for_idle.give_back_idle())
            .map_err(|error| ModuleError::Backend {
                call: "spawn".into(),
                detail: error.to_string(),
            })?;
        Ok(held)
    }

    /// How the TPM is reached.
    pub(crate) fn tcti(&self) -> &str {
        &self.tcti
    }

    /// Runs `work` on the connection, made first if there is none. One that failed in a way that does not
    /// leave it usable is given up.
    ///
    /// # Errors
    /// What `work` failed with; [`ModuleError::Absent`] if the TPM is gone.
    pub(crate) fn with_connection<T>(
        &self,
        work: impl FnOnce(&mut Connection, &mut Pins) -> Result<T, ModuleError>,
    ) -> Result<T, ModuleError> {
        let mut state = self.lock();
        let mut connection = match state.connection.take() {
            Some((connection, _)) => connection,
            None => Connection::open(&self.tcti)?,
        };
        let outcome = work(&mut connection, &mut state.pins);
        let connection = match outcome {
            // Of the wrong TPM, too: the right one may be behind the same TCTI the next time.
            Err(ModuleError::Absent(_)) => return outcome,
            // The TSS has no words for a TPM that went away under a connection: a new one tells.
            Err(ref error @ ModuleError::Backend { .. }) => {
                tracing::warn!(%error, "the connection to the TPM is given up");
                drop(connection);
                match Connection::open(&self.tcti) {
                    Err(gone @ ModuleError::Absent(_)) => return Err(gone),
                    Err(_) => return outcome,
                    Ok(connection) => connection,
                }
            }
            _ => connection,
        };
        state.connection = Some((connection, Instant::now()));
        self.used.notify_one();
        outcome
    }

    /// Forgets the PINs and gives the connection back.
    pub(crate) fn let_go(&self) {
        let mut state = self.lock();
        state.pins.clear();
        state.connection = None;
    }

    /// Gives the connection back for good.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.connection = None;
        self.used.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A call that panicked leaves no half-made state behind: the connection was taken out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the connection back once it has been idle.
    fn give_back_idle(&self) {
        let mut state = self.lock();
        while !state.closed {
            let wait = state
                .connection
                .as_ref()
                .map(|(_, used)| IDLE.saturating_sub(used.elapsed()));
            state = match wait {
                None => self
                    .used
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    state.connection = None;
                    state
                }
                Some(rest) => {
                    self.used
                        .wait_timeout(state, rest)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}
