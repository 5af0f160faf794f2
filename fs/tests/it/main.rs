//! The filesystem, mounted for real: each test in mount, network and pid namespaces of its own.

mod served;
