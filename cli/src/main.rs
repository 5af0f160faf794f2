//! `claviger`.

use std::process::ExitCode;

use clap::Parser;
use claviger_cli::args::Cli;

fn main() -> ExitCode {
    match claviger_cli::run(Cli::parse()) {
        Ok(code) => ExitCode::from(code as u8),
        Err(failed) => {
            eprintln!("{failed}");
            ExitCode::from(failed.code() as u8)
        }
    }
}
