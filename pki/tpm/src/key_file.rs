//! `TSS2 PRIVATE KEY` files: PEM of the ASN.1 `TPMKey`, as OpenSSL's TPM providers and ssh-tpm-agent
//! write them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use claviger_pki::module::ModuleError;
use tss_esapi::constants::tss::TPM2_RH_OWNER;
use tss_esapi::structures::{Private, Public};
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_keyfile::TPMKey;

use crate::template::Auth;

/// Longest file that is read, bytes: an RSA-4096 key is about 3,000.
const FILE_MAX: u64 = 64 * 1024;

/// A loadable key as its file has it.
#[derive(Clone, Debug)]
pub(crate) struct KeyFile {
    /// `TPM_RH_OWNER` for the standard SRK, or a persistent handle.
    pub(crate) parent: u32,
    pub(crate) public: Public,
    pub(crate) private: Private,
    pub(crate) auth: Auth,
}

impl KeyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ModuleError::Absent`] if there is none, [`ModuleError::BadRequest`] if it is no TPM key,
    /// [`ModuleError::Unsupported`] for importable keys and keys with a policy.
    pub(crate) fn read(path: &Path) -> Result<Self, ModuleError> {
        let at = path.display();
        let refuse = |error: &io::Error| match error.kind() {
            io::ErrorKind::NotFound => ModuleError::Absent(at.to_string()),
            _ => ModuleError::BadRequest(format!("{at}: {error}")),
        };
        let metadata = fs::metadata(path).map_err(|error| refuse(&error))?;
        if !metadata.is_file() || metadata.len() > FILE_MAX {
            return Err(ModuleError::BadRequest(format!("{at} is no key file")));
        }
        let pem = fs::read(path).map_err(|error| refuse(&error))?;
        Self::parse(&pem).map_err(|error| match error {
            ModuleError::BadRequest(what) => ModuleError::BadRequest(format!("{at}: {what}")),
            ModuleError::Unsupported(what) => ModuleError::Unsupported(format!("{at}: {what}")),
            other => other,
        })
    }

    /// Parses PEM.
    pub(crate) fn parse(pem: &[u8]) -> Result<Self, ModuleError> {
        let bad = |what: String| ModuleError::BadRequest(format!("no TPM key: {what}"));
        let key = TPMKey::try_from_pem(pem).map_err(|error| bad(error.to_string()))?;
        if !key.is_loadable() {
            return Err(ModuleError::Unsupported(format!(
                "TPM key of type {}",
                key.r#type
            )));
        }
        if key.policy.is_some() || key.auth_policy.is_some() {
            return Err(ModuleError::Unsupported("TPM key with a policy".into()));
        }
        if key.rsa_parent == Some(true) {
            return Err(ModuleError::Unsupported(
                "TPM key under an RSA primary".into(),
            ));
        }
        let public = sized(&key.pubkey).ok_or_else(|| bad("public area cut short".into()))?;
        let private = sized(&key.privkey).ok_or_else(|| bad("private area cut short".into()))?;
        Ok(Self {
            parent: key.parent,
            public: Public::unmarshall(public).map_err(|error| bad(error.to_string()))?,
            private: Private::try_from(private.to_vec()).map_err(|error| bad(error.to_string()))?,
            auth: if key.requires_auth() {
                Auth::Pin
            } else {
                Auth::Empty
            },
        })
    }

    /// The PEM text.
    ///
    /// # Errors
    /// [`ModuleError::Backend`] if the TSS cannot marshal what it gave us.
    pub(crate) fn to_pem(&self) -> Result<String, ModuleError> {
        let public = self
            .public
            .marshall()
            .map_err(|error| crate::error::backend("Tss2_MU_TPMT_PUBLIC_Marshal", error))?;
        let mut key = TPMKey::new_loadable(
            self.parent,
            &with_size(&public),
            &with_size(self.private.value()),
        );
        // The format's advice: say it where there is none, leave it out where there is one.
        key.empty_auth = (self.auth == Auth::Empty).then_some(true);
        key.try_to_pem().map_err(|error| ModuleError::Backend {
            call: "TPMKey".into(),
            detail: error.to_string(),
        })
    }

    /// Writes a new file, which only its owner reads, and syncs it.
    ///
    /// # Errors
    /// [`ModuleError::BadRequest`] if there is one already, or it cannot be written.
    pub(crate) fn create(&self, path: &Path) -> Result<(), ModuleError> {
        let pem = self.to_pem()?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(pem.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| ModuleError::BadRequest(format!("{}: {error}", path.display())))
    }
}

/// The parent that new keys name: the standard SRK.
pub(crate) const OWNER: u32 = TPM2_RH_OWNER;

/// What follows the 16-bit size of a TPM2B, if there is exactly that much.
fn sized(tpm2b: &[u8]) -> Option<&[u8]> {
    let (size, rest) = tpm2b.split_first_chunk::<2>()?;
    (usize::from(u16::from_be_bytes(*size)) == rest.len()).then_some(rest)
}

fn with_size(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).expect("TPM areas are shorter than 64 KiB");
    [size.to_be_bytes().as_slice(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tpm_key_is_refused_with_a_reason() {
        let error =
            KeyFile::parse(b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n");
        assert!(
            matches!(error, Err(ModuleError::BadRequest(_))),
            "{error:?}"
        );
        assert!(KeyFile::parse(b"").is_err());
    }

    #[test]
    fn a_size_must_fit_exactly() {
        assert_eq!(sized(&[0, 1, 9]), Some(&[9][..]));
        assert_eq!(sized(&[0, 2, 9]), None);
        assert_eq!(sized(&[0, 0, 9]), None);
        assert_eq!(sized(&[0]), None);
    }
}
