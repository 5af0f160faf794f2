//! Writes man pages and shell completions, from the definitions that the program parses with, where they
//! belong in a `share` folder.
//!
//! Usage: `claviger-gen FOLDER`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use claviger_cli::args::Cli;

/// Where each shell looks for the completions of a command, and by which name.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/claviger"),
    (Shell::Zsh, "zsh/site-functions/_claviger"),
    (Shell::Fish, "fish/vendor_completions.d/claviger.fish"),
];

fn main() -> Result<()> {
    let share = PathBuf::from(
        std::env::args_os()
            .nth(1)
            .context("usage: claviger-gen FOLDER")?,
    );
    let man = share.join("man/man1");
    fs::create_dir_all(&man)?;
    clap_mangen::generate_to(Cli::command(), &man).context("man pages")?;
    for (shell, file) in COMPLETIONS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "claviger", &mut text);
        let file = share.join(file);
        fs::create_dir_all(file.parent().context("it lies in a folder")?)?;
        fs::write(&file, text)?;
    }
    Ok(())
}
