//! Stories: what a user does, end to end, with real parts.

#![allow(clippy::unwrap_used)] // In a helper of a story, as in the story itself, it is an assertion.

mod adversary;
mod carriers;
mod commands;
mod configuration;
mod daily_use;
mod ecryptfs;
mod ecryptfs_fstab;
mod ecryptfs_tokens;
mod ecryptfs_unlock;
mod first_steps;
mod identity;
mod init;
mod installing;
mod keyring;
mod locking;
mod lower_disk;
mod manifests;
mod migration;
mod modules;
mod mount_8;
mod mountpoints;
mod pinentry;
mod pins;
mod processes;
mod recipients;
mod scene;
mod scopes;
mod seal;
mod secrets;
mod service;
mod several_users;
mod sizes;
mod terminals;
mod tokens;
mod touches;
