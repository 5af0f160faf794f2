//! Entry points for fuzzing parsers that are private: each takes any bytes and gives whether they parse.

use std::path::Path;

use crate::auth_tok::{AuthTok, enrolled};
use crate::key::KeyId;
use crate::p11_modules::Registration;

/// The payload of an auth tok in the keyring.
pub fn auth_tok(payload: &[u8]) -> bool {
    AuthTok::parse(KeyId([0; 32]), payload).is_ok()
}

/// The file of an enrolled key, which has this name.
pub fn key_file(name: &str, text: &str) -> bool {
    enrolled::parse(text, Path::new(name)).is_ok()
}

/// A `*.module` file of p11-kit.
pub fn p11_module_file(text: &str) -> bool {
    Registration::parse(text).is_ok()
}
