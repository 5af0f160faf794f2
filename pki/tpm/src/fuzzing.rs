//! Entry points for fuzzing parsers that are private: each takes any bytes and gives whether they parse.

use claviger_pki::module::Locator;

use crate::key_file::KeyFile;
use crate::locator::KeyPlace;

/// A `TSS2 PRIVATE KEY` file.
pub fn key_file(pem: &[u8]) -> bool {
    KeyFile::parse(pem).is_ok()
}

/// What an auth tok of this module says of where its key is.
pub fn locator(text: &str) -> bool {
    KeyPlace::parse(&Locator(text.into())).is_ok()
}
