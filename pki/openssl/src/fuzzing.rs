//! Entry points for fuzzing parsers that are private: each takes any bytes and gives whether they parse.

use crate::file::parse_pem;

/// A PEM file with a private key that is not encrypted.
pub fn key_file(pem: &[u8]) -> bool {
    parse_pem(pem, |_| 0).is_ok()
}
