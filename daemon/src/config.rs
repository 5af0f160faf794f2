//! The configuration: `~/.config/claviger/config.toml` over `/etc/claviger/config.toml`.
//!
//! ```toml
//! [pkcs11]
//! libraries = ["/usr/lib/softhsm/libsofthsm2.so"]  # default: those p11-kit names, else known places
//!
//! [tpm]
//! tcti = "device:/dev/tpmrm0"                      # default: the module's own
//!
//! [modules.pkcs11]                                 # another program for a module of ours
//! program = "/opt/vendor/claviger-pki-pkcs11"
//! settings = { concurrency = "4" }                 # given to it as they are
//!
//! [prompts]
//! pinentry = "/usr/bin/pinentry-gnome3"            # default: "pinentry" from PATH
//! timeout-s = 60                                   # how long a person may take to answer
//!
//! [policy]
//! final-try = "ask"                                # or "never": whether a PIN's last try may be spent
//! token-timeout-s = 30                             # how long one token operation may take
//!
//! [ecryptfs]
//! kernel = true                                    # serve the kernel's own eCryptfs; default: false
//! timeout-s = 3                                    # as the module ecryptfs was loaded; 3 is its default
//! pkcs1_v15 = true                                 # read what the old pkcs11-helper module wrapped; default: false
//! uids = [1000]                                    # root's daemon only: answer for these users too
//! ```
//!
//! A key of the user's file replaces the same key of the system's. An unknown key or a wrong value is an
//! error that names the file and the line: a setting that is not understood must not be ignored.

mod file;
mod value;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use claviger_callout::miscdev::PATIENCE;
use serde::Deserialize;

use file::File;
pub use value::AbsolutePath;

/// What the daemon goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// PKCS#11 libraries that the user or the administrator named.
    pub pkcs11_libraries: Libraries,
    /// Settings of the TPM module: `tcti`.
    pub tpm_tcti: Option<String>,
    /// Other programs for our modules, and further ones, by name.
    pub modules: BTreeMap<String, ModuleSection>,
    /// The pinentry program: a path, or a name to find in PATH.
    pub pinentry: PathBuf,
    /// How long a person may take to answer a prompt.
    pub prompt_timeout: Duration,
    /// Whether the last try of a PIN may be spent.
    pub final_try: FinalTry,
    /// How long one token operation may take.
    pub token_timeout: Duration,
    /// Whether the kernel's own eCryptfs is served.
    pub kernel_ecryptfs: KernelEcryptfs,
    /// For whom the kernel's eCryptfs is served besides this user; for root's daemon only.
    pub kernel_uids: Vec<u32>,
    /// How long the kernel's eCryptfs waits: `ecryptfs_message_wait_timeout` of its module, which is not
    /// to be seen anywhere once it is loaded.
    pub kernel_patience: Duration,
    /// Whether FEKs of eCryptfs may be wrapped by PKCS#1 v1.5.
    pub pkcs1_v15: Pkcs1V15,
}

/// Whether FEKs of eCryptfs may be wrapped to RSA keys by PKCS#1 v1.5, as its `pkcs11-helper` module did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pkcs1V15 {
    /// They are tried where OAEP does not open them. New files have OAEP all the same.
    Accepted,
    /// They do not open.
    Refused,
}

/// Whether the kernel's own eCryptfs is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEcryptfs {
    /// `/dev/ecryptfs` is opened: its files are answered for like those of our mounts.
    Served,
    /// It is left to others.
    NotServed,
}

/// Which PKCS#11 libraries are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Libraries {
    /// Whatever is installed: p11-kit's `*.module` files, else the places distributions use.
    Installed,
    /// These only.
    Named(Vec<PathBuf>),
}

/// What is done when one wrong PIN would block the token.
///
/// Nothing is ever tried unasked then: only a person at a terminal, who was told, may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinalTry {
    /// Ask the person whether to go on.
    Ask,
    /// Refuse.
    Never,
}

/// `[modules.NAME]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSection {
    /// The program.
    pub program: AbsolutePath,
    /// Given to it as they are.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There, and not readable.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a wrong value.
    #[error("{}:{line}: {message}", file.display())]
    Invalid {
        /// Which file.
        file: PathBuf,
        /// Line of the first thing wrong, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pkcs11_libraries: Libraries::Installed,
            tpm_tcti: None,
            modules: BTreeMap::new(),
            pinentry: "pinentry".into(),
            prompt_timeout: Duration::from_secs(60),
            final_try: FinalTry::Ask,
            token_timeout: Duration::from_secs(30),
            kernel_ecryptfs: KernelEcryptfs::NotServed,
            kernel_uids: Vec::new(),
            kernel_patience: PATIENCE,
            pkcs1_v15: Pkcs1V15::Refused,
        }
    }
}

impl Config {
    /// Reads the system's file, then the user's over it. A file that does not exist says nothing.
    ///
    /// # Errors
    /// [`ConfigError`], for the first thing wrong.
    pub fn load(system_dir: &Path, user_dir: Option<&Path>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for dir in [Some(system_dir), user_dir].into_iter().flatten() {
            if let Some(file) = File::read(&dir.join("config.toml"))? {
                config.overlay(file);
            }
        }
        Ok(config)
    }

    /// What the text of one file says, over the defaults.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], which names the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        config.overlay(File::parse(text, path)?);
        Ok(config)
    }

    fn overlay(&mut self, file: File) {
        if let Some(libraries) = file.pkcs11.libraries {
            let libraries = libraries.iter().map(|path| path.as_ref().to_owned());
            self.pkcs11_libraries = Libraries::Named(libraries.collect());
        }
        if let Some(tcti) = file.tpm.tcti {
            self.tpm_tcti = Some(tcti);
        }
        self.modules.extend(file.modules);
        if let Some(pinentry) = file.prompts.pinentry {
            self.pinentry = pinentry.into();
        }
        if let Some(seconds) = file.prompts.timeout_s {
            self.prompt_timeout = Duration::from_secs(seconds.get().into());
        }
        if let Some(final_try) = file.policy.final_try {
            self.final_try = final_try;
        }
        if let Some(seconds) = file.policy.token_timeout_s {
            self.token_timeout = Duration::from_secs(seconds.get().into());
        }
        match file.ecryptfs.kernel {
            Some(true) => self.kernel_ecryptfs = KernelEcryptfs::Served,
            Some(false) => self.kernel_ecryptfs = KernelEcryptfs::NotServed,
            None => {}
        }
        match file.ecryptfs.pkcs1_v15 {
            Some(true) => self.pkcs1_v15 = Pkcs1V15::Accepted,
            Some(false) => self.pkcs1_v15 = Pkcs1V15::Refused,
            None => {}
        }
        if let Some(uids) = file.ecryptfs.uids {
            self.kernel_uids = uids;
        }
        if let Some(seconds) = file.ecryptfs.timeout_s {
            self.kernel_patience = Duration::from_secs(seconds.get().into());
        }
    }
}

#[cfg(test)]
mod tests;
