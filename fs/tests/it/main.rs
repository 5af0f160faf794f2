//! The filesystem, mounted for real: each test in mount, network and pid namespaces of its own.

mod content;
mod keys;
mod locking;
mod model;
mod mounted;
mod names;
mod namespaces;
mod owners;
mod served;
