//! claviger-cli
