//! The program itself: mounted as people mount it, with a daemon that has no tokens.
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but does not see that these functions are of them"
)]

mod creating;
mod crowd;
mod crowded;
mod daemon;
mod limits;
mod locking;
mod mounting;
mod parking;
mod secrets;
mod users;
mod volume;

use std::path::{Path, PathBuf};

/// A program of `examples`, which cargo builds along with tests.
fn example(name: &str) -> PathBuf {
    let programs = Path::new(env!("CARGO_BIN_EXE_claviger-fs"));
    let example = programs.with_file_name("examples").join(name);
    assert!(example.exists(), "not built: {}", example.display());
    example
}
