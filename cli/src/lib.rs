//! `claviger`: what people type. It asks, shows and starts; what it asks for is done elsewhere.

// `outln!` and `errln!` escape what others chose.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
mod asking;
mod calling_off;
mod command;
mod daemon;
mod ecryptfs;
mod failed;
pub mod fuzzing;
mod help;
mod key_ref;
mod migrate;
mod place;
mod print;
mod prompter;
mod secret_file;
mod shell_word;
mod sys;
mod terminal;
mod volume;

pub use command::run;
pub use failed::Failed;
