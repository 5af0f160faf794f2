//! The program that `clavigerd` starts for keys in PEM files.

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use claviger_pki::serve::run;
use claviger_pki_openssl::KeyFiles;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        .with_env_filter(EnvFilter::from_default_env())
        .init();
    run(KeyFiles::open)
}
