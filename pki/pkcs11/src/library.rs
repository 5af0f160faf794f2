//! One loaded PKCS#11 library.

use std::path::{Path, PathBuf};

use claviger_pki::module::ModuleError;
use claviger_pki::p11_uri::LibraryVersion;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use crate::sys::Functions;

/// A library, initialised.
///
/// There is one in the process, and the process never forks: libraries break on both (two contexts
/// crash SoftHSM, rust-cryptoki#260; no library seen refuses a session inherited by fork).
pub(crate) struct Library {
    path: PathBuf,
    pub(crate) context: Pkcs11,
    pub(crate) functions: Functions,
    pub(crate) manufacturer: String,
    pub(crate) description: String,
    pub(crate) version: LibraryVersion,
    threads: Threads,
}

/// What the library said when asked to lock for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// It locks: several threads may call.
    Several,
    /// It cannot: calls must not overlap.
    One,
}

impl Library {
    /// Loads and initialises the library at `path`.
    pub(crate) fn load(path: &Path) -> Result<Self, ModuleError> {
        let refused = |why: String| {
            ModuleError::BadRequest(format!("PKCS#11 library {}: {why}", path.display()))
        };
        let no_pkcs11 = |error: Error| match error {
            // The loader's text begins with the path already, or says what the file lacks.
            Error::LibraryLoading(error) => refused(error.to_string()),
            Error::MissingSymbol(symbol) => {
                refused(format!("not a PKCS#11 library, it exports no {symbol}"))
            }
            other => refused(describe(&other)),
        };
        let context = Pkcs11::new(path).map_err(no_pkcs11)?;
        let functions = Functions::load(path).map_err(no_pkcs11)?;
        let threads = initialize(&context).map_err(|error| no_tokens(path, &error))?;
        // A library whose C_GetInfo fails (or has flags, which cryptoki refuses) may work all the same.
        let (manufacturer, description, version) = match context.get_library_info() {
            Ok(info) => (
                info.manufacturer_id().to_owned(),
                info.library_description().to_owned(),
                LibraryVersion {
                    major: info.library_version().major(),
                    minor: info.library_version().minor(),
                },
            ),
            Err(error) => {
                tracing::warn!(library = %path.display(), error = describe(&error), "C_GetInfo");
                (
                    String::new(),
                    String::new(),
                    LibraryVersion { major: 0, minor: 0 },
                )
            }
        };
        tracing::debug!(library = %path.display(), manufacturer, description, "loaded");
        let path = path.to_owned();
        Ok(Self {
            path,
            context,
            functions,
            manufacturer,
            description,
            version,
            threads,
        })
    }

    /// C_Finalize, then C_Initialize: the library looks for its tokens anew.
    ///
    /// Every session and handle is void afterwards: nobody may hold one.
    ///
    /// # Errors
    /// [`ModuleError::Absent`] if it does not start, which may be tried again: SoftHSM does not while
    /// the folder of its tokens is away.
    pub(crate) fn start_anew(&self) -> Result<(), ModuleError> {
        tracing::info!(library = %self.path.display(), "starting the library anew");
        if let Err(error) = self.context.clone().finalize() {
            tracing::warn!(error = describe(&error), "C_Finalize");
        }
        initialize(&self.context)
            .map(drop)
            .map_err(|error| no_tokens(&self.path, &error))
    }

    /// Ends the process, since only a new one can use the library again.
    ///
    /// The host sees the end of the socket, answers every call that is open with an error that says so,
    /// and starts the program anew with the next call.
    pub(crate) fn give_up(&self, why: &str) -> ! {
        tracing::error!(library = %self.path.display(), why, "library is stuck, ending the module");
        std::process::exit(WEDGED)
    }

    /// How many calls the library is known to stand at once, on `processors` processors.
    ///
    /// 1 unless known better: OpenSC gains nothing from threads and ykcs11 2.2 fails ECDH under them
    /// (OBJECT_HANDLE_INVALID), while SoftHSM has no global lock and scales.
    pub(crate) fn known_concurrency(&self, processors: usize) -> usize {
        let soft_hsm = self.manufacturer == "SoftHSM" && self.threads == Threads::Several;
        if soft_hsm { processors } else { 1 }
    }

    /// Whether its keys can do more than it says of them.
    ///
    /// ykcs11 2.2.0 says CKA_DERIVE false of every EC key, and derives with it all the same (C_DeriveKey came
    /// later than the attribute, Yubico/yubico-piv-tool#262).
    pub(crate) fn understates_keys(&self) -> bool {
        self.manufacturer.starts_with("Yubico ")
    }

    /// Whether several threads may call it at all.
    pub(crate) fn threads(&self) -> Threads {
        self.threads
    }
}

impl Drop for Library {
    /// C_Finalize, which cryptoki leaves to its user: cards are logged out and readers let go.
    fn drop(&mut self) {
        if let Err(error) = self.context.clone().finalize() {
            tracing::debug!(error = describe(&error), "C_Finalize");
        }
    }
}

/// Exit code of a module whose library only a new process can use (EX_SOFTWARE of sysexits.h).
const WEDGED: i32 = 70;

fn initialize(context: &Pkcs11) -> Result<Threads, Error> {
    let locking = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
    match context.initialize(locking) {
        Ok(()) => Ok(Threads::Several),
        Err(Error::Pkcs11(RvError::CantLock | RvError::NeedToCreateThreads, _)) => {
            let plain = CInitializeArgs::new(CInitializeFlags::empty());
            context.initialize(plain).map(|()| Threads::One)
        }
        Err(error) => Err(error),
    }
}

/// What it means to a user that C_Initialize fails. It is a PKCS#11 library, and cannot reach its
/// tokens: SoftHSM's folder is gone, pcscd does not run.
fn no_tokens(path: &Path, error: &Error) -> ModuleError {
    let (path, why) = (path.display(), describe(error));
    ModuleError::Absent(format!("those of {path}, which does not start ({why})"))
}

/// `C_Decrypt: CKR_GENERAL_ERROR`.
pub(crate) fn describe(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("C_{function:?}: {}", code_name(*code)),
        other => other.to_string(),
    }
}

/// The error as a [`ModuleError`] that names function and code.
pub(crate) fn backend(error: &Error) -> ModuleError {
    let (call, detail) = match error {
        Error::Pkcs11(code, function) => (format!("C_{function:?}"), code_name(*code)),
        other => ("PKCS#11".into(), other.to_string()),
    };
    ModuleError::Backend { call, detail }
}

/// The code as PKCS#11 spells it; cryptoki's own texts are paragraphs of the standard.
fn code_name(code: RvError) -> String {
    match code {
        RvError::VendorDefined(value) | RvError::UnknownErrorCode(value) => {
            format!("CKR 0x{value:08x}")
        }
        known => {
            let mut name = String::from("CKR");
            for letter in format!("{known:?}").chars() {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn errors_are_named_as_the_standard_names_them() {
        let error = Error::Pkcs11(RvError::EncryptedDataLenRange, Function::Decrypt);
        assert_eq!(describe(&error), "C_Decrypt: CKR_ENCRYPTED_DATA_LEN_RANGE");
        let error = Error::Pkcs11(RvError::VendorDefined(0x8000_0042), Function::Login);
        assert_eq!(
            backend(&error),
            ModuleError::Backend {
                call: "C_Login".into(),
                detail: "CKR 0x80000042".into()
            }
        );
    }
}
