//! claviger-hw-tests
