//! clavigerd
