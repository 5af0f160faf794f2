//! `claviger`.

use std::process::ExitCode;

use clap::Parser;
use claviger_cli::args::Cli;
use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

fn main() -> ExitCode {
    if let Err(errno) = harden() {
        eprintln!("claviger: cannot keep secrets out of a core dump: {errno}");
        return ExitCode::FAILURE;
    }
    match claviger_cli::run(Cli::parse()) {
        Ok(code) => ExitCode::from(code as u8),
        Err(failed) => {
            failed.tell();
            ExitCode::from(failed.code() as u8)
        }
    }
}

/// PINs, recovery keys and FEKs pass through here: no core dump, and no debugger of the same user.
fn harden() -> Result<(), Errno> {
    set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}
