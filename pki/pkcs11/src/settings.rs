//! What the host tells the module to work with.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use claviger_pki::module::ModuleError;

/// Settings of the module, parsed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Path of the PKCS#11 library.
    pub(crate) library: PathBuf,
    /// How many calls at once; what the library is known to stand if absent.
    pub(crate) concurrency: Option<NonZeroUsize>,
}

impl Settings {
    pub(crate) fn parse(settings: &claviger_pki::wire::Settings) -> Result<Self, ModuleError> {
        let mut library = None;
        let mut concurrency = None;
        for (name, value) in settings {
            match name.as_str() {
                "library" => library = Some(PathBuf::from(value)),
                "concurrency" => {
                    let number = value.parse().map_err(|_| {
                        bad(format!(
                            "setting \"concurrency\" of module pkcs11 is not a count: {value}"
                        ))
                    })?;
                    concurrency = Some(number);
                }
                other => return Err(bad(format!("module pkcs11 has no setting \"{other}\""))),
            }
        }
        let library =
            library.ok_or_else(|| bad("module pkcs11 needs the setting \"library\"".into()))?;
        // A bare name would be searched by the dynamic linker, LD_LIBRARY_PATH included.
        if !library.is_absolute() {
            let shown = library.display();
            return Err(bad(format!(
                "setting \"library\" is not an absolute path: {shown}"
            )));
        }
        Ok(Self {
            library,
            concurrency,
        })
    }
}

fn bad(text: String) -> ModuleError {
    ModuleError::BadRequest(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(settings: &[(&str, &str)]) -> Result<Settings, String> {
        let settings = settings
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        Settings::parse(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn library_and_concurrency_are_all_there_is() {
        let settings = parse(&[("library", "/lib/x.so"), ("concurrency", "3")]).unwrap();
        assert_eq!(settings.library, PathBuf::from("/lib/x.so"));
        assert_eq!(settings.concurrency.map(NonZeroUsize::get), Some(3));
        assert_eq!(
            parse(&[("library", "/lib/x.so")]).unwrap().concurrency,
            None
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[], "module pkcs11 needs the setting \"library\""),
            (
                &[("library", "x.so")],
                "setting \"library\" is not an absolute path: x.so",
            ),
            (&[("pin", "1")], "module pkcs11 has no setting \"pin\""),
            (
                &[("concurrency", "0"), ("library", "/x.so")],
                "setting \"concurrency\" of module pkcs11 is not a count: 0",
            ),
        ];
        for (settings, expected) in cases {
            assert_eq!(parse(settings).unwrap_err(), *expected);
        }
    }
}
