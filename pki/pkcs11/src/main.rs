//! The module program: `clavigerd` starts it with a socketpair as file descriptor 3.

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use claviger_pki::serve;
use claviger_pki_pkcs11::Store;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        .init();
    serve::run(Store::open)
}
