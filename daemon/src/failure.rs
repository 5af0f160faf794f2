//! Which failure each error of the crates below is: one table an enum, without a catch-all.

use claviger_pki::module::{ModuleError, PinState};
use claviger_protocol::Failure;

/// What a module's error is to whoever asked for the key.
pub fn of_module(module: &str, error: ModuleError) -> Failure {
    match error {
        ModuleError::Absent(token) => Failure::TokenAbsent { token },
        ModuleError::NoSuchKey(what) => Failure::NotARecipient(what),
        ModuleError::PinNeeded { token, .. } => Failure::NobodyToAsk {
            what: format!("PIN of {token}"),
        },
        ModuleError::PinWrong { token, state } => Failure::PinWrong {
            token,
            tries_left: tries_left(state),
        },
        ModuleError::PinBlocked { token } => Failure::PinBlocked { token },
        ModuleError::Lockout(what) => Failure::TpmLockout(what),
        // Wrapped to this key, says the header, and it does not open: somebody changed it.
        ModuleError::NotDecryptable => Failure::Integrity("a wrapped key does not open".into()),
        ModuleError::Unsupported(what) => Failure::Unsupported(what),
        ModuleError::BadRequest(what) => Failure::Usage(what),
        ModuleError::TimedOut => Failure::TimedOut {
            what: format!("module {module}"),
        },
        ModuleError::Cancelled => Failure::Cancelled,
        ModuleError::Backend { call, detail } => Failure::Module {
            module: module.into(),
            what: format!("{call} failed: {detail}"),
        },
        ModuleError::Process(what) => Failure::Module {
            module: module.into(),
            what,
        },
    }
}

/// How many tries a PIN has left, where the token tells.
pub fn tries_left(state: PinState) -> Option<u32> {
    match state {
        PinState::NotNeeded | PinState::Ok => None,
        PinState::TriesLeft(tries) => Some(tries),
        PinState::FinalTry => Some(1),
        PinState::Blocked => Some(0),
    }
}

/// A PIN's state, as `token list` shows it.
pub fn pin_state_text(state: PinState) -> String {
    match state {
        PinState::NotNeeded => "not needed".into(),
        PinState::Ok => "ok".into(),
        PinState::TriesLeft(1) | PinState::FinalTry => "final try".into(),
        PinState::TriesLeft(tries) => format!("{tries} tries left"),
        PinState::Blocked => "blocked".into(),
    }
}
