//! The program itself: mounted as people mount it, with a daemon that has no tokens.
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but does not see that these functions are of them"
)]

mod creating;
mod daemon;
mod locking;
mod mounting;
mod parking;
mod sys;
mod users;
mod volume;
