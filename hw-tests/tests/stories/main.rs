//! Stories: what a user does, end to end, with real parts.

mod carriers;
mod first_steps;
mod keyring;
mod locking;
mod pins;
mod processes;
mod scene;
mod scopes;
mod secrets;
mod tokens;
