//! `clavigerd`: the daemon that holds a user's unlocked keys and asks his tokens for more.
//!
//! One a user. It finds out which module has the private key that a volume or file was wrapped to, has
//! that module do its step, does the rest itself, and answers filesystems over callout and the CLI over
//! its control socket. It prompts, it writes the audit log, it forgets everything on `lock`. It loads no
//! vendor code: modules are processes.

pub mod audit;
pub mod background;
pub mod begun;
pub mod config;
pub mod control;
pub mod daemon;
pub mod ecryptfs;
pub mod enrol;
pub mod errand;
pub mod failure;
pub mod fuzzing;
pub mod instance;
pub mod key_service;
pub mod login;
pub mod modules;
pub mod mounts;
pub mod notify;
pub mod opener;
pub mod own_keys;
pub mod pin_source;
pub mod process;
pub mod prompt;
pub mod residue;
pub mod single_flight;
mod sys;
pub mod tokens;
pub mod touch;
mod turns;
pub mod volumes;
pub mod wait;
pub mod workers;
