//! eCryptfs, against what a kernel wrote.

mod hostile;
mod keys;
mod round_trips;
mod vector;
mod vectors;
