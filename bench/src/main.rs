//! `make bench`: how fast, as ratios within one run, against the peer and the bare operation.
//!
//! Usage: `claviger-bench [--only PART] [RESULTS.json]`, where PART is `callout`, `data`, `small`, `unwraps`
//! or `kernel`. Needs root for namespaces and a fresh ext4; what is measured runs as an ordinary user, or as root
//! of an emulated machine. `claviger-bench work …` is the program that is run there.

mod callout;
mod data;
mod folders;
mod kernel;
mod small;
mod table;
mod unwraps;
mod work;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use claviger_hw_tests::{Entered, World, enter};
use table::Table;

const USAGE: &str =
    "usage: claviger-bench [--only callout|data|small|unwraps|kernel] [RESULTS.json]";

/// Rows of the table that are measured together.
#[derive(Clone, Copy)]
enum Part {
    Callout,
    Data,
    SmallFiles,
    Unwraps,
    Kernel,
}

impl Part {
    const ALL: &[(Self, &str)] = &[
        (Self::Callout, "callout"),
        (Self::Data, "data"),
        (Self::SmallFiles, "small"),
        (Self::Unwraps, "unwraps"),
        (Self::Kernel, "kernel"),
    ];

    fn measure(self, world: &mut World, table: &mut Table) -> Result<()> {
        match self {
            Self::Callout => callout::measure(table),
            Self::Data => data::measure(world, table),
            Self::SmallFiles => small::measure(world, table),
            Self::Unwraps => unwraps::measure(world, table),
            Self::Kernel => kernel::measure(table),
        }
    }
}

fn main() -> Result<ExitCode> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["work", rest @ ..] = words.as_slice() {
        work::run(rest)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (only, results) = match words.as_slice() {
        ["--only", only, rest @ ..] => (Some(*only), rest),
        rest => (None, rest),
    };
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let parts: Vec<Part> = Part::ALL
        .iter()
        .filter_map(|(part, name)| wanted(name).then_some(*part))
        .collect();
    let results = match results {
        [] => None,
        [path] => Some(Path::new(path)),
        _ => bail!(USAGE),
    };
    if parts.is_empty() {
        bail!(USAGE);
    }
    match enter(&words) {
        Entered::Inside(world) => measure(world, &parts, results),
        Entered::Outside(status) if status.success() => Ok(ExitCode::SUCCESS),
        Entered::Outside(_) => Ok(ExitCode::FAILURE),
    }
}

fn measure(mut world: World, parts: &[Part], results: Option<&Path>) -> Result<ExitCode> {
    let mut table = Table::default();
    for part in parts {
        part.measure(&mut world, &mut table)?;
    }
    print!("{table}");
    if let Some(path) = results {
        let json = serde_json::to_string_pretty(&table)?;
        std::fs::write(path, json).with_context(|| path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
