//! The module program against SoftHSM, run as `clavigerd` runs it.

mod contract;
mod habits;
mod keys;
mod library;
mod pins;
mod removal;
mod softhsm;
