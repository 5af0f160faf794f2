//! claviger-fs
