//! The module programs of this daemon, by name; which of several PKCS#11 libraries has a key.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use claviger_pki::host::{GRACE, HostConfig, ModuleHost};
use claviger_pki::module::{Key, ModuleError, Token};
use claviger_pki::p11_modules;
use claviger_protocol::control::ModuleStatus;
use claviger_protocol::{Failure, paths};

use crate::config::{Config, Libraries};
use crate::failure;
use crate::wait::Wait;

/// Smartcards, YubiKeys and HSMs.
pub const PKCS11: &str = "pkcs11";
/// The TPM 2.0 of this machine.
pub const TPM: &str = "tpm";
/// Key files.
pub const OPENSSL: &str = "openssl";

/// All module programs; none runs until it is needed.
#[derive(Debug)]
pub struct Modules {
    hosts: BTreeMap<String, Vec<Arc<ModuleHost>>>,
    /// Whether the PKCS#11 libraries are those that somebody named, not whatever is installed.
    libraries_named: bool,
    /// Which host had what a locator names, the last time.
    had: Mutex<HashMap<String, Arc<ModuleHost>>>,
}

/// A module's error, and the host that it came from: a login must go to the same.
#[derive(Debug)]
pub struct HostError {
    /// Which, if one could be asked.
    pub host: Option<Arc<ModuleHost>>,
    /// What it said.
    pub error: ModuleError,
}

/// What one host has said to an operation already.
#[derive(Debug)]
pub struct Said<T> {
    /// Which.
    pub host: Arc<ModuleHost>,
    /// What.
    pub result: Result<T, ModuleError>,
}

impl Modules {
    /// Ours, and those that are configured.
    pub fn new(config: &Config) -> Self {
        let libraries = match &config.pkcs11_libraries {
            Libraries::Named(named) => named.clone(),
            Libraries::Installed => installed_libraries(),
        };
        let mut hosts: BTreeMap<String, Vec<Arc<ModuleHost>>> = BTreeMap::new();
        let mut add = |name: &str, settings: BTreeMap<String, String>| {
            let (program, more) = match config.modules.get(name) {
                Some(section) => (
                    section.program.as_ref().to_owned(),
                    section.settings.clone(),
                ),
                None => {
                    let program = paths::program(&format!("claviger-pki-{name}"));
                    if !program.is_file() {
                        // A package of its own, perhaps: not everybody has a TPM.
                        tracing::info!(program = %program.display(), "module not installed");
                        return;
                    }
                    (program, BTreeMap::new())
                }
            };
            let host = ModuleHost::new(HostConfig {
                name: name.into(),
                program,
                settings: settings.into_iter().chain(more).collect(),
                grace: GRACE,
            });
            hosts.entry(name.into()).or_default().push(Arc::new(host));
        };
        for library in libraries {
            let library = library.to_string_lossy().into_owned();
            add(PKCS11, BTreeMap::from([("library".into(), library)]));
        }
        let tcti = config.tpm_tcti.clone().map(|tcti| ("tcti".into(), tcti));
        add(TPM, tcti.into_iter().collect());
        add(OPENSSL, BTreeMap::new());
        for name in config.modules.keys() {
            if ![PKCS11, TPM, OPENSSL].contains(&name.as_str()) {
                add(name, BTreeMap::new());
            }
        }
        Self {
            hosts,
            libraries_named: matches!(config.pkcs11_libraries, Libraries::Named(_)),
            had: Mutex::default(),
        }
    }

    /// Has `operation` done by the host of `module` that has what `locator` names.
    ///
    /// Where there are several, those that do not know it are passed over. The one that has `said` what
    /// comes of it is not asked again.
    ///
    /// # Errors
    /// The error that tells most, of all hosts asked.
    pub fn call<T>(
        &self,
        module: &str,
        locator: &str,
        mut said: Option<Said<T>>,
        operation: impl Fn(&ModuleHost) -> Result<T, ModuleError>,
    ) -> Result<T, HostError> {
        let hosts = self.of(module)?;
        let last = self.lock().get(locator).cloned();
        let mut order: Vec<&Arc<ModuleHost>> = hosts.iter().collect();
        // Stable: the others stay as configured.
        order.sort_by_key(|host| !last.as_ref().is_some_and(|last| Arc::ptr_eq(last, host)));
        let mut worst: Option<HostError> = None;
        for host in order {
            let result = match said.take_if(|said| Arc::ptr_eq(&said.host, host)) {
                Some(said) => said.result,
                None => operation(host),
            };
            let error = match result {
                Ok(done) => {
                    self.lock().insert(locator.into(), host.clone());
                    return Ok(done);
                }
                Err(error) => error,
            };
            let error = HostError {
                host: Some(host.clone()),
                error,
            };
            let Some(rank) = passed_over(&error.error) else {
                self.lock().insert(locator.into(), host.clone());
                return Err(error);
            };
            let tells_more = |worst: &HostError| passed_over(&worst.error) < Some(rank);
            if worst.as_ref().is_none_or(tells_more) {
                worst = Some(error);
            }
        }
        Err(worst.unwrap_or_else(|| no_host(module)))
    }

    /// The host that had what `locator` names the last time, or the only one there is.
    pub fn last(&self, module: &str, locator: &str) -> Option<Arc<ModuleHost>> {
        match self.of(module).ok()? {
            [only] => Some(only.clone()),
            several => {
                let last = self.lock().get(locator).cloned()?;
                several
                    .iter()
                    .any(|host| Arc::ptr_eq(host, &last))
                    .then_some(last)
            }
        }
    }

    /// The tokens that are present, and which modules could not say.
    pub fn tokens(&self, wait: &Wait) -> (Vec<(String, Token)>, Vec<Failure>) {
        let hosts: Vec<_> = self.hosts.values().flatten().collect();
        let ask = |host: &Arc<ModuleHost>| host.tokens(wait.deadline(), wait.cancel());
        // Side by side: one library that hangs must not use up the time of the others.
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asked: Vec<_> = hosts.iter().map(|host| scope.spawn(|| ask(host))).collect();
            let lost = || Err(ModuleError::Process("lost".into()));
            asked
                .into_iter()
                .map(|answer| answer.join().unwrap_or_else(|_| lost()))
                .collect()
        });
        let mut tokens = Vec::new();
        let mut failures = Vec::new();
        for (host, answer) in hosts.into_iter().zip(answers) {
            match answer {
                Ok(found) => {
                    tokens.extend(found.into_iter().map(|token| (host.name().into(), token)))
                }
                Err(ModuleError::Absent(_)) => {}
                // Nobody asked for this one: SoftHSM, say, installed and without a single token.
                Err(error) if host.name() == PKCS11 && !self.libraries_named => {
                    tracing::info!(%error, "an installed PKCS#11 library does not work");
                }
                Err(error) => failures.push(failure::of_module(host.name(), error)),
            }
        }
        (tokens, failures)
    }

    /// The keys that `selector` names in `module`, as `list` has them of a host.
    ///
    /// # Errors
    /// As [`Modules::call`], if no host has any.
    pub fn keys(
        &self,
        module: &str,
        selector: &str,
        list: impl Fn(&ModuleHost) -> Result<Vec<Key>, ModuleError>,
    ) -> Result<Vec<Key>, HostError> {
        self.call(module, selector, None, |host| {
            let found = list(host)?;
            if found.is_empty() {
                return Err(ModuleError::NoSuchKey(selector.into()));
            }
            Ok(found)
        })
    }

    /// Checks that there is a module of that name.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn check(&self, module: &str) -> Result<(), Failure> {
        match self.hosts.contains_key(module) {
            true => Ok(()),
            false => Err(Failure::Usage(absence(module))),
        }
    }

    /// The module that a key reference names, and what that module takes for the key: `pkcs11:` URIs are
    /// whole, what comes before the first colon of others is the name of a module that was configured.
    pub fn reference<'a>(&self, text: &'a str) -> Option<(&'a str, &'a str)> {
        let (module, selector) = text.split_once(':')?;
        match module {
            PKCS11 => Some((module, text)),
            // Their keys are files.
            TPM | OPENSSL => None,
            other => self.hosts.contains_key(other).then_some((other, selector)),
        }
    }

    /// Has all running modules forget logins and secrets; one that does not is ended.
    pub fn log_out(&self, wait: &Wait) {
        for host in self.hosts.values().flatten() {
            if let Err(error) = host.logout(wait.deadline()) {
                tracing::warn!(module = host.name(), %error, "no logout: ending the module");
                host.stop();
            }
        }
    }

    /// Ends all module programs.
    pub fn stop(&self) {
        // Side by side: one that hangs takes all its grace.
        thread::scope(|scope| {
            for host in self.hosts.values().flatten() {
                let stop = thread::Builder::new().spawn_scoped(scope, || host.stop());
                if stop.is_err() {
                    host.stop();
                }
            }
        });
    }

    /// Those that run.
    pub fn status(&self) -> Vec<ModuleStatus> {
        let all = self.hosts.values().flatten();
        all.filter_map(|host| {
            let status = host.status();
            Some(ModuleStatus {
                module: host.name().into(),
                pid: status.pid?,
                restarts: status.restarts,
            })
        })
        .collect()
    }

    fn of(&self, module: &str) -> Result<&[Arc<ModuleHost>], HostError> {
        let hosts = self.hosts.get(module).map(Vec::as_slice);
        hosts
            .filter(|hosts| !hosts.is_empty())
            .ok_or_else(|| no_host(module))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<ModuleHost>>> {
        self.had.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another library may still have the key; if so, how much the error tells.
fn passed_over(error: &ModuleError) -> Option<u8> {
    match error {
        ModuleError::Absent(_) => Some(0),
        // A library that does not load is refused like a request that makes no sense.
        ModuleError::Process(_) | ModuleError::BadRequest(_) => Some(1),
        ModuleError::Backend { .. } => Some(2),
        ModuleError::NoSuchKey(_) => Some(3),
        ModuleError::PinNeeded { .. }
        | ModuleError::PinWrong { .. }
        | ModuleError::PinBlocked { .. }
        | ModuleError::Lockout(_)
        | ModuleError::NotDecryptable
        | ModuleError::Unsupported(_)
        | ModuleError::TimedOut
        | ModuleError::Cancelled => None,
    }
}

fn no_host(module: &str) -> HostError {
    HostError {
        host: None,
        error: ModuleError::Process(absence(module)),
    }
}

fn absence(module: &str) -> String {
    let program = paths::program(&format!("claviger-pki-{module}"));
    match module {
        PKCS11 if !program.is_file() => format!("{} is not installed", program.display()),
        PKCS11 => "no PKCS#11 library is installed or configured".into(),
        other => format!("module '{other}' is not installed"),
    }
}

/// The PKCS#11 libraries of this machine.
fn installed_libraries() -> Vec<PathBuf> {
    let (libraries, skipped) = p11_modules::installed();
    for skipped in skipped {
        tracing::info!(%skipped, "PKCS#11 library left out");
    }
    libraries
}
