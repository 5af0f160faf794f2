//! From the TSS's response codes to what a module reports.

use claviger_pki::module::ModuleError;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind;
use tss_esapi::{Error, WrapperErrorKind};

/// What a caller does about a failed TPM command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The key's auth value was refused (TPM_RC_AUTH_FAIL counts as a try, TPM_RC_BAD_AUTH does not).
    AuthRefused,
    /// Dictionary-attack lockout.
    Lockout,
    /// A saved context of before a TPM reset, or a handle that is gone: load the key anew.
    Stale,
    /// Out of memory for objects or sessions: flush what is loaded.
    Full,
    /// The TPM refused the ciphertext or point. Debian's libtpms answers a foreign OAEP ciphertext with
    /// TPM_RC_FAILURE, the code of a dead TPM, and goes on working.
    Input,
    /// Anything else; the connection is given up.
    Other,
}

/// Sorts `error`.
pub(crate) fn cause(error: Error) -> Cause {
    use Tss2ResponseCodeKind as Kind;
    let code = match error {
        Error::Tss2Error(code) => code,
        // A ciphertext or coordinate longer than any that a TPM takes.
        Error::WrapperError(WrapperErrorKind::WrongParamSize) => return Cause::Input,
        Error::WrapperError(_) => return Cause::Other,
    };
    match code.kind() {
        Some(Kind::AuthFail | Kind::BadAuth) => Cause::AuthRefused,
        Some(Kind::Lockout) => Cause::Lockout,
        Some(Kind::Integrity | Kind::Handle | Kind::ReferenceH0 | Kind::ReferenceS0) => {
            Cause::Stale
        }
        Some(
            Kind::ObjectMemory | Kind::SessionMemory | Kind::ObjectHandles | Kind::SessionHandles,
        ) => Cause::Full,
        Some(Kind::Failure | Kind::Value | Kind::Size | Kind::EccPoint | Kind::Insufficient) => {
            Cause::Input
        }
        _ => Cause::Other,
    }
}

/// For the log and the person.
pub(crate) fn backend(call: &str, error: Error) -> ModuleError {
    ModuleError::Backend {
        call: call.into(),
        detail: error.to_string(),
    }
}
