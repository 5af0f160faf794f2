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

mod value;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use claviger_callout::miscdev::PATIENCE;
use serde::Deserialize;

pub use value::AbsolutePath;
use value::Program;

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

/// One file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    pkcs11: Pkcs11Section,
    tpm: TpmSection,
    modules: BTreeMap<String, ModuleSection>,
    prompts: PromptsSection,
    policy: PolicySection,
    ecryptfs: EcryptfsSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pkcs11Section {
    libraries: Option<Vec<AbsolutePath>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TpmSection {
    tcti: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct PromptsSection {
    pinentry: Option<Program>,
    timeout_s: Option<NonZeroU16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct PolicySection {
    final_try: Option<FinalTry>,
    token_timeout_s: Option<NonZeroU16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct EcryptfsSection {
    kernel: Option<bool>,
    timeout_s: Option<NonZeroU16>,
    uids: Option<Vec<u32>>,
    // As people know it: with a hyphen it would read as a minus.
    #[serde(rename = "pkcs1_v15")]
    pkcs1_v15: Option<bool>,
}

impl File {
    fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let file = path.into();
                return Err(ConfigError::Unreadable { file, source });
            }
        };
        Self::parse(&text, path).map(Some)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::Invalid {
            file: path.into(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(system: &str, user: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (etc, home) = (dir.path().join("etc"), dir.path().join("home"));
        for (folder, text) in [(&etc, system), (&home, user)] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("config.toml"), text).unwrap();
        }
        (dir, etc, home)
    }

    fn error_of(user: &str) -> String {
        let (dir, etc, home) = dirs("", user);
        let error = Config::load(&etc, Some(&home)).unwrap_err().to_string();
        error.replace(dir.path().to_str().unwrap(), "")
    }

    #[test]
    fn no_file_at_all_is_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(&dir.path().join("no"), None).unwrap();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn the_users_file_replaces_single_keys_of_the_systems() {
        let (_dir, etc, home) = dirs(
            "[pkcs11]\nlibraries = ['/a.so']\n[prompts]\ntimeout-s = 5\n",
            "[prompts]\npinentry = '/bin/pe'\n[policy]\nfinal-try = 'never'\n",
        );
        let config = Config::load(&etc, Some(&home)).unwrap();
        assert_eq!(
            config.pkcs11_libraries,
            Libraries::Named(vec!["/a.so".into()])
        );
        assert_eq!(config.prompt_timeout, Duration::from_secs(5));
        assert_eq!(config.pinentry, Path::new("/bin/pe"));
        assert_eq!(config.final_try, FinalTry::Never);
    }

    #[test]
    fn the_kernels_ecryptfs_is_served_only_where_somebody_says_so() {
        let (_dir, etc, home) = dirs(
            "[ecryptfs]\nkernel = true\ntimeout-s = 20\nuids = [1000]\npkcs1_v15 = true\n",
            "[ecryptfs]\nkernel = false\npkcs1_v15 = false\n",
        );
        let system = Config::load(&etc, None).unwrap();
        assert_eq!(system.kernel_ecryptfs, KernelEcryptfs::Served);
        assert_eq!(system.kernel_patience, Duration::from_secs(20));
        assert_eq!(system.kernel_uids, [1000]);
        let user = Config::load(&etc, Some(&home)).unwrap();
        assert_eq!(user.kernel_ecryptfs, KernelEcryptfs::NotServed);
        assert_eq!(Config::default().kernel_ecryptfs, KernelEcryptfs::NotServed);
        assert_eq!(
            (system.pkcs1_v15, user.pkcs1_v15),
            (Pkcs1V15::Accepted, Pkcs1V15::Refused)
        );
        assert_eq!(Config::default().pkcs1_v15, Pkcs1V15::Refused);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_its_line() {
        let error = error_of("[pkcs11]\n\nlibrary = '/a.so'\n");
        assert_eq!(
            error,
            "/home/config.toml:3: unknown field `library`, expected `libraries`"
        );
    }

    #[test]
    fn an_unknown_section_is_an_error_that_names_its_line() {
        let error = error_of("# mine\n[pkcs12]\n");
        assert!(
            error.starts_with("/home/config.toml:2: unknown field `pkcs12`"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_is_an_error_that_names_its_line() {
        let error = error_of("[policy]\nfinal-try = 'perhaps'\n");
        assert!(
            error.starts_with("/home/config.toml:2: unknown variant `perhaps`"),
            "{error}"
        );
    }

    #[test]
    fn a_value_that_cannot_be_is_an_error_that_names_its_line() {
        for (text, said) in [
            (
                "[prompts]\n\ntimeout-s = 0\n",
                "3: invalid value: integer `0`",
            ),
            (
                "[policy]\ntoken-timeout-s = 0\n",
                "2: invalid value: integer `0`",
            ),
            (
                "[prompts]\ntimeout-s = -1\n",
                "2: invalid value: integer `-1`",
            ),
            (
                "[ecryptfs]\ntimeout-s = 0\n",
                "2: invalid value: integer `0`",
            ),
            (
                "[pkcs11]\nlibraries = [\n'/a.so',\n'b.so',\n]\n",
                "2: \"b.so\" is not an absolute path",
            ),
            (
                "[modules.tpm]\nprogram = 'claviger-pki-tpm'\n",
                "2: \"claviger-pki-tpm\" is not an absolute path",
            ),
            (
                "[prompts]\npinentry = 'bin/x'\n",
                "2: \"bin/x\" is neither an absolute path nor a name",
            ),
            ("[prompts]\npinentry = ''\n", "2: \"\" is neither"),
        ] {
            let error = error_of(text);
            let said = format!("/home/config.toml:{said}");
            assert!(error.starts_with(&said), "{error}");
        }
    }

    /// The names that may stand where `text` has one that may not, as the parser tells them.
    fn expected(text: &str) -> Vec<String> {
        let error = Config::parse(text, Path::new("config.toml")).unwrap_err();
        let said = error.to_string();
        let (_, names) = said.split_once("expected").unwrap();
        names
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    fn document() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_document_has_a_row_for_each_key() {
        let document = document();
        let mut keys = 0;
        for section in expected("nonsense = 1") {
            let (name, rest) = match section.as_str() {
                "modules" => ("modules.NAME", "program = '/p'\n"),
                section => (section, ""),
            };
            for key in expected(&format!("[{name}]\n{rest}nonsense = 1\n")) {
                let row = format!("\n| `[{name}]` `{key}` | ");
                assert!(document.contains(&row), "no row of {row}");
                keys += 1;
            }
        }
        assert_eq!(document.matches("\n| `[").count(), keys, "rows of no key");
    }

    #[test]
    fn the_example_of_the_document_is_understood_and_says_something_of_each_section() {
        let document = document();
        let (_, rest) = document.split_once("```toml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let config = Config::parse(example, Path::new("configuration.md")).unwrap();
        assert_eq!(config.prompt_timeout, Duration::from_secs(120));
        assert_eq!(config.modules["pkcs11"].settings["concurrency"], "4");
        for section in expected("nonsense = 1") {
            assert!(example.contains(&format!("[{section}")), "no [{section}]");
        }
    }

    #[test]
    fn broken_toml_is_an_error_that_names_its_line() {
        let error = error_of("[policy]\n[tpm\n");
        assert!(error.starts_with("/home/config.toml:2: "), "{error}");
    }
}
