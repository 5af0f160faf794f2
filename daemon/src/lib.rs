//! `clavigerd`: the daemon that holds a user's unlocked keys and asks his tokens for more.
//!
//! One a user. It finds out which module has the private key that a volume or file was wrapped to, has
//! that module do its step, does the rest itself, and answers filesystems over callout and the CLI over
//! its control socket. It prompts, it writes the audit log, it forgets everything on `lock`. It loads no
//! vendor code: modules are processes.

pub mod audit;
pub mod background;
mod begun;
pub mod config;
pub mod control;
pub mod daemon;
pub mod ecryptfs;
mod enrol;
mod errand;
mod failure;
pub mod fuzzing;
pub mod instance;
mod key_service;
mod login;
mod modules;
mod mounts;
pub mod notify;
mod opener;
mod own_keys;
pub mod pin_source;
pub mod process;
mod prompt;
mod residue;
mod single_flight;
mod sys;
mod tokens;
mod touch;
mod turns;
mod volumes;
mod wait;
mod workers;
