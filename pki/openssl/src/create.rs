//! Making a key pair in a new file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use claviger_pki::key::KeyType;
use claviger_pki::module::ModuleError;
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use zeroize::Zeroizing;

use crate::pbes2;

/// Writes a new key to `path`, readable by its owner only, encrypted if there is a passphrase.
///
/// P-256 unless told otherwise. An existing file is never touched.
pub(crate) fn create(
    path: &Path,
    key_type: Option<KeyType>,
    pin: Option<&Zeroizing<Vec<u8>>>,
) -> Result<(), ModuleError> {
    let failed = |call: &str, error: &dyn std::error::Error| ModuleError::Backend {
        call: format!("{call} {}", path.display()),
        detail: error.to_string(),
    };
    if pin.is_some_and(|pin| pin.is_empty() || pin.len() > PASSPHRASE_MAX) {
        let what = format!("a passphrase has 1 to {PASSPHRASE_MAX} bytes");
        return Err(ModuleError::BadRequest(what));
    }
    // The file first: keys take long to make.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            ModuleError::BadRequest(format!("{} is there already", path.display()))
        }
        _ => failed("create", &error),
    })?;
    let written = generate(key_type.unwrap_or(KeyType::EcP256))
        .and_then(|key| encode(&key, pin))
        .map_err(|error| failed("make a key for", &error))
        .and_then(|pem| write(file, &pem, path).map_err(|error| failed("write", &error)));
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

/// As much as OpenSSL's callback takes (PEM_BUFSIZE).
const PASSPHRASE_MAX: usize = 1024;

fn generate(key_type: KeyType) -> Result<PKey<Private>, ErrorStack> {
    let ec = |curve| PKey::from_ec_key(EcKey::generate(EcGroup::from_curve_name(curve)?.as_ref())?);
    let rsa = |bits| PKey::from_rsa(Rsa::generate(bits)?);
    match key_type {
        KeyType::EcP256 => ec(Nid::X9_62_PRIME256V1),
        KeyType::EcP384 => ec(Nid::SECP384R1),
        KeyType::Rsa2048 => rsa(2048),
        KeyType::Rsa3072 => rsa(3072),
        KeyType::Rsa4096 => rsa(4096),
    }
}

fn encode(
    key: &PKey<Private>,
    pin: Option<&Zeroizing<Vec<u8>>>,
) -> Result<Zeroizing<Vec<u8>>, ErrorStack> {
    match pin {
        None => key.private_key_to_pem_pkcs8().map(Zeroizing::new),
        Some(pin) => {
            let plain = Zeroizing::new(key.private_key_to_pkcs8()?);
            pbes2::encrypt(&plain, pin).map(|text| Zeroizing::new(text.into_bytes()))
        }
    }
}

fn write(mut file: File, pem: &[u8], path: &Path) -> io::Result<()> {
    file.write_all(pem)?;
    file.sync_all()?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
