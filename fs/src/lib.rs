//! The FUSE filesystem of Claviger: a lower folder's ciphertext below, its plaintext above.
//!
//! [`keys`] is the seam to whoever has the keys.

pub mod keys;
pub mod park;
