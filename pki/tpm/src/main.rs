//! `claviger-pki-tpm`: the module program that clavigerd starts.

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use claviger_pki_tpm::TpmModule;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        .init();
    claviger_pki::serve::run(TpmModule::open)
}
