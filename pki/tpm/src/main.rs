//! `claviger-pki-tpm`: the module program that clavigerd starts.

use std::process::ExitCode;

use claviger_pki_tpm::TpmModule;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    claviger_pki::serve::run(TpmModule::open)
}
