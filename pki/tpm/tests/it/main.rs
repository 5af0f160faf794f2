//! The module against swtpm: the contract of all modules, and what only a TPM does.

#![allow(clippy::unwrap_used, missing_docs)]

mod contract;
mod tpm;
