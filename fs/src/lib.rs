//! The FUSE filesystem of Claviger: a lower folder's ciphertext below, its plaintext above.
//!
//! [`keys`] is the seam to whoever has the keys.

pub mod args;
pub mod background;
pub mod callout_keys;
pub mod kernel;
pub mod keys;
mod kin;
pub mod mountpoint;
pub mod options;
pub mod park;
pub mod pool;
pub mod watch;
pub mod writer;
