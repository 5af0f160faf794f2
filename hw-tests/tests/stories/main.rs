//! Stories: what a user does, end to end, with real parts.

mod carriers;
mod first_steps;
mod locking;
mod scene;
mod scopes;
