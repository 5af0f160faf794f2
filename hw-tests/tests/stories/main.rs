//! Stories: what a user does, end to end, with real parts.

mod carriers;
mod configuration;
mod ecryptfs;
mod first_steps;
mod keyring;
mod locking;
mod lower_disk;
mod manifests;
mod mountpoints;
mod pins;
mod processes;
mod recipients;
mod scene;
mod scopes;
mod secrets;
mod tokens;
