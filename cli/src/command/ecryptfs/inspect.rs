//! `claviger ecryptfs inspect`: what a file of eCryptfs says of itself. Decrypts nothing.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use claviger_protocol::failure::ExitCode;
use claviger_vault::ecryptfs::name::EncryptedName;
use claviger_vault::ecryptfs::{
    AuthTok, EcryptfsError, Flags, Header, MetadataPlace, Packet, WrapVersion, WrappedPassphrase,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::args::Output;
use crate::ecryptfs::failed;
use crate::print::outln;
use crate::volume::open_regular;
use crate::{Failed, print};

/// What a key of the kernel's keyring can hold; nothing small of eCryptfs is larger.
const SMALL: usize = 32767;

/// What `keyctl pipe` prints of a key of the type `encrypted`, in the format for eCryptfs, begins so. What key it
/// is wrapped by, a length, and hexadecimal digits follow.
const ENCRYPTED_KEY: &[u8] = b"ecryptfs ";

pub(super) fn run(path: &Path, output: &Output) -> Result<ExitCode, Failed> {
    let file = open_regular(path)?;
    let facts = match Header::read(&file) {
        Ok(header) => lower_file(&header, &file, path)?,
        Err(EcryptfsError::NotEcryptfs) => small(file, path)?,
        Err(error) => return Err(failed(path, &error)),
    };
    if !output.json {
        outln!("Not verified, and not verifiable: the format authenticates nothing.");
    }
    print::facts(&facts, output)?;
    Ok(ExitCode::Ok)
}

fn lower_file(header: &Header, file: &File, path: &Path) -> Result<Value, Failed> {
    let length = file
        .metadata()
        .map_err(|error| Failed::file(path, &error))?
        .len();
    let known = [
        (Flags::ENCRYPTED, "encrypted"),
        (Flags::XATTR, "metadata in xattr"),
        (Flags::NAMES, "names encrypted"),
    ];
    let flags: Vec<&str> = known
        .into_iter()
        .filter(|(flag, _)| header.flags.contains(*flag))
        .map(|(_, word)| word)
        .collect();
    let mut facts = json!({
        "kind": "lower file",
        "size": header.size,
        "lower_length": length,
        "version": header.version,
        "flags": flags,
        "metadata": match header.place {
            MetadataPlace::Header => "header",
            MetadataPlace::Xattr => "xattr",
        },
        "content_offset": header.content_offset(),
        "packets": header.packets.iter().map(packet).collect::<Vec<_>>(),
    });
    let name = path
        .file_name()
        .and_then(|name| EncryptedName::parse(name.as_bytes()));
    if let (Some(Ok(name)), Some(facts)) = (name, facts.as_object_mut()) {
        let name = json!({
            "tag": 70,
            "key_sig": name.key_sig().to_string(),
            "cipher": name.cipher().to_string(),
        });
        facts.insert("name".into(), name);
    }
    Ok(facts)
}

fn packet(packet: &Packet) -> Value {
    match packet {
        Packet::Passphrase(packet) => json!({
            "tag": 3,
            "key_sig": packet.key_sig.to_string(),
            "cipher": packet.cipher.to_string(),
            "salt": packet.salt.to_string(),
            "wrapped_fek_length": packet.wrapped_fek.len(),
        }),
        Packet::PublicKey(packet) => json!({
            "tag": 1,
            "key_sig": packet.key_sig.to_string(),
            "wrapped_fek_length": packet.wrapped_fek.len(),
        }),
    }
}

/// One of the small files beside.
fn small(file: File, path: &Path) -> Result<Value, Failed> {
    // Read whole at once: an auth tok holds a key, of which no part should stay in a smaller buffer.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SMALL + 1));
    file.take(SMALL as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failed::file(path, &error))?;
    if bytes.starts_with(ENCRYPTED_KEY) {
        let what = format!(
            "{}: a key of the type 'encrypted', which the kernel alone decrypts",
            path.display()
        );
        return Err(Failed::new(ExitCode::Unsupported, what)
            .advise("Mount the folder with the kernel's eCryptfs, and 'claviger ecryptfs migrate' what is shown there"));
    }
    if let Ok(wrapped) = WrappedPassphrase::parse(&bytes) {
        return Ok(wrapped_passphrase(&wrapped));
    }
    match AuthTok::parse(&bytes) {
        Ok(tok) => Ok(auth_tok(&tok)),
        Err(_) => Err(failed(path, &EcryptfsError::NotEcryptfs)),
    }
}

fn wrapped_passphrase(wrapped: &WrappedPassphrase) -> Value {
    let sig = wrapped.sig().to_string();
    match wrapped.version() {
        WrapVersion::One => {
            json!({ "kind": "wrapped-passphrase file", "version": 1, "key_sig": sig })
        }
        WrapVersion::Two(salt) => json!({
            "kind": "wrapped-passphrase file",
            "version": 2,
            "key_sig": sig,
            "salt": salt.to_string(),
        }),
    }
}

fn auth_tok(tok: &AuthTok) -> Value {
    let sig = tok.key_sig().to_string();
    match tok {
        AuthTok::Passphrase(key) => json!({
            "kind": "auth tok of a passphrase",
            "key_sig": sig,
            "salt": key.salt().to_string(),
        }),
        AuthTok::PrivateKey(key) => json!({
            "kind": "auth tok of a private key",
            "key_sig": sig,
            "module": key.module,
            "blob_length": key.blob.len(),
        }),
    }
}
