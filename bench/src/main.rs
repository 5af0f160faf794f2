//! `make bench`: how fast, as ratios within one run, against the peer and the bare operation.
//!
//! Usage: `claviger-bench [RESULTS.json]`. Needs root for namespaces and a fresh ext4; what is measured runs
//! as an ordinary user. `claviger-bench work …` is the program run as that user.

mod callout;
mod files;
mod table;
mod unwraps;
mod work;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use claviger_hw_tests::{Entered, World, enter};

fn main() -> Result<ExitCode> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["work", rest @ ..] => {
            work::run(rest)?;
            Ok(ExitCode::SUCCESS)
        }
        [] | [_] => match enter(&words) {
            Entered::Inside(world) => measure(world, words.first().map(PathBuf::from)),
            Entered::Outside(status) => Ok(if status.success() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }),
        },
        _ => anyhow::bail!("usage: claviger-bench [RESULTS.json]"),
    }
}

fn measure(mut world: World, results: Option<PathBuf>) -> Result<ExitCode> {
    let mut table = table::Table::default();
    callout::measure(&mut table)?;
    files::measure(&mut world, &mut table)?;
    unwraps::measure(&mut world, &mut table)?;
    print!("{table}");
    if let Some(path) = results {
        let json = serde_json::to_string_pretty(&table)?;
        std::fs::write(&path, json).with_context(|| path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
