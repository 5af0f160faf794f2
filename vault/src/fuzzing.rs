//! Entry points for fuzzing parsers that are private: each takes any bytes and gives whether they parse.
//! Those of native files are in [`crate::native::fuzzing`].

use std::path::Path;

use crate::dir::Record;
use crate::names::NamesKeys;
use crate::pin::text;

/// A directory record, wherever the directory is.
pub fn directory_record(bytes: &[u8], keys: &NamesKeys) -> bool {
    Record::parse(bytes, keys).is_ok()
}

/// What a file of known volumes holds.
pub fn known_volumes(bytes: &[u8]) -> bool {
    text::parse(Path::new("known_volumes"), bytes).is_ok()
}
