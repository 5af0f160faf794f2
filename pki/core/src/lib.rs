//! Keys that open things, and the modules that hold their private halves.

pub mod key;
pub mod module;
