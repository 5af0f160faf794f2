//! How a user names a key on the command line.

use std::path::Path;

use claviger_protocol::control::KeyRef;

use crate::Failed;

/// Reads `text` as a PKCS#11 URI, else as a file if there is one, else as a key of the module before the
/// colon, else as an id or label.
///
/// # Errors
/// [`Failed`] for an empty text, a file whose path cannot be made absolute, and for what looks like a
/// path but is no file.
pub fn parse(text: &str) -> Result<KeyRef, Failed> {
    if text.is_empty() {
        return Err(Failed::usage("an empty key reference"));
    }
    if text.starts_with("pkcs11:") {
        return Ok(KeyRef::Uri(text.into()));
    }
    let path = Path::new(text);
    match path.canonicalize() {
        // A label may well be the name of a folder here.
        Ok(path) if path.is_dir() => Ok(KeyRef::Id(text.into())),
        Ok(path) => Ok(KeyRef::File(path)),
        // Or a label: the daemon knows its modules.
        Err(_) if names_module(text) => Ok(KeyRef::Uri(text.into())),
        Err(error) if text.contains('/') => Err(Failed::file(path, &error)),
        Err(_) => Ok(KeyRef::Id(text.into())),
    }
}

fn names_module(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(module, key)| !module.contains('/') && !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_uri_a_file_or_an_id() {
        assert_eq!(
            parse("pkcs11:token=a").unwrap(),
            KeyRef::Uri("pkcs11:token=a".into())
        );
        assert_eq!(
            parse("/dev/null").unwrap(),
            KeyRef::File("/dev/null".into())
        );
        assert_eq!(parse("0123abcd").unwrap(), KeyRef::Id("0123abcd".into()));
        assert_eq!(
            parse("hsm:/slot/1").unwrap(),
            KeyRef::Uri("hsm:/slot/1".into())
        );
    }

    #[test]
    fn a_path_to_nothing_is_not_mistaken_for_an_id() {
        let failed = parse("/nowhere/key.pem").unwrap_err();
        assert_eq!(
            failed.to_string(),
            "claviger: /nowhere/key.pem: No such file or directory"
        );
    }
}
