//! The module program against SoftHSM, run as `clavigerd` runs it.

mod keys;
mod library;
mod pins;
mod removal;
mod softhsm;
