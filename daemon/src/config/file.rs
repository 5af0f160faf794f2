//! One `config.toml`, as it is written: what is not said is absent.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroU16;
use std::path::Path;

use serde::Deserialize;

use super::value::{AbsolutePath, Program};
use super::{ConfigError, FinalTry, ModuleSection};

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) pkcs11: Pkcs11Section,
    pub(super) tpm: TpmSection,
    pub(super) modules: BTreeMap<String, ModuleSection>,
    pub(super) prompts: PromptsSection,
    pub(super) policy: PolicySection,
    pub(super) ecryptfs: EcryptfsSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Pkcs11Section {
    pub(super) libraries: Option<Vec<AbsolutePath>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TpmSection {
    pub(super) tcti: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct PromptsSection {
    pub(super) pinentry: Option<Program>,
    pub(super) timeout_s: Option<NonZeroU16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct PolicySection {
    pub(super) final_try: Option<FinalTry>,
    pub(super) token_timeout_s: Option<NonZeroU16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct EcryptfsSection {
    pub(super) kernel: Option<bool>,
    pub(super) timeout_s: Option<NonZeroU16>,
    pub(super) uids: Option<Vec<u32>>,
    // As people know it: with a hyphen it would read as a minus.
    #[serde(rename = "pkcs1_v15")]
    pub(super) pkcs1_v15: Option<bool>,
}

impl File {
    /// `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let file = path.into();
                return Err(ConfigError::Unreadable { file, source });
            }
        };
        Self::parse(&text, path).map(Some)
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::Invalid {
            file: path.into(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&b| b == b'\n').count()
}
