//! `claviger doctor`: looks for what would keep Claviger from working here. Changes nothing.

mod configured;
mod swap;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use claviger_pki::p11_modules;
use claviger_protocol::failure::ExitCode;
use claviger_protocol::paths;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, Uid, access};
use serde::Serialize;

use crate::args::Output;
use crate::print::outln;
use crate::{Failed, print};
use configured::Configured;

/// What one check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// Works, with less.
    Weak,
    /// Keeps something from working.
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    says: String,
}

pub(super) fn run(output: &Output) -> Result<ExitCode, Failed> {
    let configured = Configured::read();
    let tokens = configured.as_ref().ok();
    let findings = [
        configuration(&configured),
        fuse(),
        fusermount(),
        runtime(),
        state(),
        memlock(),
        programs(),
        swap::swap(),
        tpm(tokens.and_then(|it| it.tpm.tcti.as_deref())),
        pkcs11_libraries(tokens.and_then(|it| it.pkcs11.libraries.as_deref())),
    ];
    if output.json {
        print::json(&findings)?;
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Good => "ok  ",
                Verdict::Weak => "weak",
                Verdict::Bad => "BAD ",
            };
            outln!("{mark}  {:<16} {}", finding.check, finding.says);
        }
    }
    let bad = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { ExitCode::Unfit } else { ExitCode::Ok })
}

fn finding(check: &'static str, verdict: Verdict, says: impl Into<String>) -> Finding {
    Finding {
        check,
        verdict,
        says: says.into(),
    }
}

fn fuse() -> Finding {
    match fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    {
        Ok(_) => finding("fuse", Verdict::Good, "/dev/fuse opens"),
        Err(error) => finding(
            "fuse",
            Verdict::Bad,
            format!("/dev/fuse: {error}; load the module 'fuse'"),
        ),
    }
}

fn fusermount() -> Finding {
    if Uid::effective().is_root() {
        return finding("fusermount3", Verdict::Good, "not needed by root");
    }
    let there = Command::new("fusermount3")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if there {
        finding("fusermount3", Verdict::Good, "found")
    } else {
        finding(
            "fusermount3",
            Verdict::Bad,
            "not found; install the package 'fuse3'",
        )
    }
}

fn runtime() -> Finding {
    let dir = paths::runtime_dir();
    let parent = dir.parent().unwrap_or(Path::new("/"));
    match fs::metadata(parent) {
        Ok(found) if found.uid() == Uid::effective().as_raw() && found.mode() & 0o077 == 0 => {
            finding("runtime folder", Verdict::Good, dir.display().to_string())
        }
        Ok(_) => finding(
            "runtime folder",
            Verdict::Bad,
            format!("{} must be yours and closed to others", parent.display()),
        ),
        Err(error) => finding(
            "runtime folder",
            Verdict::Bad,
            format!("{}: {error}; set XDG_RUNTIME_DIR", parent.display()),
        ),
    }
}

fn memlock() -> Finding {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft >= 1 << 20 => finding(
            "locked memory",
            Verdict::Good,
            format!("{} KiB may be locked", soft >> 10),
        ),
        Ok((soft, _)) => finding(
            "locked memory",
            Verdict::Weak,
            format!("only {} KiB may be locked", soft >> 10),
        ),
        Err(errno) => finding("locked memory", Verdict::Weak, errno.desc()),
    }
}

fn programs() -> Finding {
    let missing: Vec<&str> = [
        "clavigerd",
        "claviger-fs",
        "claviger-pki-pkcs11",
        "claviger-pki-tpm",
        "claviger-pki-openssl",
    ]
    .into_iter()
    .filter(|name| !paths::program(name).is_file())
    .collect();
    if missing.is_empty() {
        finding("programs", Verdict::Good, "all found")
    } else {
        finding(
            "programs",
            Verdict::Bad,
            format!("missing: {}", missing.join(", ")),
        )
    }
}

/// With a file that cannot be used no daemon starts: it says itself what it does not understand.
fn configuration(configured: &Result<Configured, String>) -> Finding {
    if let Err(why) = configured {
        return finding("configuration", Verdict::Bad, why);
    }
    // That the program is missing is another finding.
    let checked = Command::new(paths::program("clavigerd"))
        .arg("--check")
        .output();
    match checked {
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches("clavigerd: ");
            finding("configuration", Verdict::Bad, said)
        }
        _ => finding("configuration", Verdict::Good, "can be read"),
    }
}

/// Without a place for its log and what it has seen of volumes no daemon starts.
fn state() -> Finding {
    let check = "state folder";
    let Some(dir) = paths::state_dir() else {
        let says = "neither HOME nor XDG_STATE_HOME is set";
        return finding(check, Verdict::Bad, says);
    };
    let there = dir.ancestors().find(|above| above.exists());
    match access(there.unwrap_or(&dir), AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => finding(check, Verdict::Good, dir.display().to_string()),
        Err(errno) => {
            let says = format!(
                "{}: {}; set HOME or XDG_STATE_HOME to a folder of yours",
                dir.display(),
                errno.desc()
            );
            finding(check, Verdict::Bad, says)
        }
    }
}

/// The TPM that `tcti` names, else the one that its module takes.
fn tpm(tcti: Option<&str>) -> Finding {
    let device = match tcti {
        None | Some("device") => DEFAULT_TPM,
        Some(tcti) => match tcti.strip_prefix("device:") {
            Some(device) => device,
            None => {
                let says = format!("config.toml names '{tcti}': 'claviger token list' asks it");
                return finding("TPM", Verdict::Good, says);
            }
        },
    };
    match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => finding("TPM", Verdict::Good, format!("{device} opens")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => finding(
            "TPM",
            Verdict::Weak,
            format!("no {device}: no TPM, or its driver is not loaded"),
        ),
        Err(error) => finding(
            "TPM",
            Verdict::Weak,
            format!("{device}: {error}; join the group 'tss'"),
        ),
    }
}

const DEFAULT_TPM: &str = "/dev/tpmrm0";

/// Those that config.toml names, else those that the daemon takes by itself.
fn pkcs11_libraries(named: Option<&[PathBuf]>) -> Finding {
    match named {
        Some(named) => named_libraries(named),
        None => installed_libraries(),
    }
}

fn named_libraries(named: &[PathBuf]) -> Finding {
    let listed = |libraries: &[&PathBuf]| {
        let names: Vec<_> = libraries
            .iter()
            .map(|it| it.display().to_string())
            .collect();
        names.join("; ")
    };
    let missing: Vec<&PathBuf> = named.iter().filter(|library| !library.is_file()).collect();
    if missing.is_empty() {
        let all: Vec<&PathBuf> = named.iter().collect();
        return finding("PKCS#11", Verdict::Good, listed(&all));
    }
    let says = format!("named in config.toml and missing: {}", listed(&missing));
    finding("PKCS#11", Verdict::Bad, says)
}

fn installed_libraries() -> Finding {
    let (libraries, skipped) = p11_modules::installed();
    let named = libraries
        .iter()
        .map(|library| library.display().to_string());
    let left_out = skipped.iter().map(|skipped| format!("left out {skipped}"));
    let says = named.chain(left_out).collect::<Vec<_>>().join("; ");
    if libraries.is_empty() {
        let what = "no library found; install 'opensc', or name one in config.toml";
        return finding(
            "PKCS#11",
            Verdict::Weak,
            format!("{what}; {says}").trim_end_matches("; "),
        );
    }
    finding("PKCS#11", Verdict::Good, says)
}
