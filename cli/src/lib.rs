//! `claviger`: what people type. It asks, shows and starts; what it asks for is done elsewhere.

pub mod args;
mod asking;
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
mod sys;
mod terminal;
mod volume;

pub use command::run;
pub use failed::Failed;
