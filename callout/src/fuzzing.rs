//! Entry points for fuzzing parsers that are private: each takes any bytes and gives whether they parse.

use crate::rendezvous::Entry;

/// What a requester publishes of itself in a rendezvous folder.
pub fn rendezvous_entry(text: &str) -> bool {
    Entry::parse(text).is_ok()
}
