//! tests
mod daemon;
mod isolated;
mod locking;
mod mounting;
mod parking;
mod sys;
mod volume;
