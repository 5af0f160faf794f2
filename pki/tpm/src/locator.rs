//! Where a TPM key is found: its file, and the SRK that it was enrolled under.

use std::path::{Path, PathBuf};

use claviger_pki::module::{Locator, ModuleError};
use data_encoding::HEXLOWER;

/// Begins every locator of this module.
const SCHEME: &str = "tpm:";
/// Separates the SRK's name from the file, which comes last since it may hold anything.
const SRK: &str = "srk=";
const FILE: &str = ";file=";

/// A key file and the pinned name of its parent.
///
/// ```text
/// tpm:srk=HEX;file=PATH      HEX: name of the SRK (TPM 2.0 part 1, 16 Names): nameAlg ‖ digest
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyPlace {
    /// Name of the SRK that was there when the key was enrolled.
    pub(crate) srk_name: Vec<u8>,
    /// The `TSS2 PRIVATE KEY` file.
    pub(crate) file: PathBuf,
}

impl KeyPlace {
    /// Parses a locator.
    ///
    /// # Errors
    /// [`ModuleError::BadRequest`].
    pub(crate) fn parse(locator: &Locator) -> Result<Self, ModuleError> {
        let bad = || ModuleError::BadRequest(format!("not a TPM key: {}", locator.0));
        let rest = locator
            .0
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.strip_prefix(SRK));
        let (name, file) = rest
            .and_then(|rest| rest.split_once(FILE))
            .ok_or_else(bad)?;
        let srk_name = HEXLOWER.decode(name.as_bytes()).map_err(|_| bad())?;
        let file = PathBuf::from(file);
        if srk_name.is_empty() || !file.is_absolute() {
            return Err(bad());
        }
        Ok(Self { srk_name, file })
    }

    /// The locator that names it.
    ///
    /// # Errors
    /// [`ModuleError::BadRequest`] if the path is not UTF-8.
    pub(crate) fn locator(&self) -> Result<Locator, ModuleError> {
        let file = self.file.to_str().ok_or_else(|| {
            ModuleError::BadRequest(format!("the path {} is not UTF-8", self.file.display()))
        })?;
        Ok(Locator(format!(
            "{SCHEME}{SRK}{}{FILE}{file}",
            HEXLOWER.encode(&self.srk_name)
        )))
    }

    /// The file's name without its ending, for people.
    pub(crate) fn label(file: &Path) -> String {
        file.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locator_reads_back_as_it_was_written() {
        let place = KeyPlace {
            srk_name: vec![0, 0x0b, 7],
            file: "/home/a/;file=odd.tss".into(),
        };
        let locator = place.locator().unwrap();
        assert_eq!(locator.0, "tpm:srk=000b07;file=/home/a/;file=odd.tss");
        assert_eq!(KeyPlace::parse(&locator).unwrap(), place);
    }

    #[test]
    fn other_locators_are_refused() {
        for text in [
            "",
            "tpm:",
            "tpm:srk=zz;file=/a",
            "tpm:srk=;file=/a",
            "tpm:srk=00;file=a",
            "/a",
        ] {
            assert!(KeyPlace::parse(&Locator(text.into())).is_err(), "{text}");
        }
    }
}
