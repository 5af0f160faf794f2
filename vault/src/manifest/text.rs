//! The manifest's text: TOML, whose last line authenticates the bytes of all lines before it.
//!
//! The MAC covers bytes, not values, so that there is no second reading of the same file to argue
//! about: a manifest that was re-indented by hand is refused too.

use std::collections::HashSet;

use aws_lc_rs::hmac;
use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use toml::Spanned;

use super::{
    Argon2id, Enrolled, FORMAT, KeyId, Manifest, ManifestError, Recipient, RecipientKind, SUITE,
    Unverified, Wrap,
};
use crate::epoch::EpochKey;
use crate::ids::{Epoch, Scope, VolumeId};

const HEADING: &str = "\
# Manifest of a Claviger volume: who opens it. Changed by `claviger recipient`, not by hand: the last
# line authenticates everything above it.
";
const MAC_START: &str = "hmac-sha256 = \"";
const MAC_END: &str = "\"\n";

#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    format: u32,
    volume: VolumeId,
    suite: u64,
    scope: Scope,
    epoch: Spanned<Epoch>,
    minimum_epoch: Spanned<Epoch>,
    generation: Spanned<u64>,
    recipient: Vec<RecipientTable>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    older_epoch: Vec<OlderTable>,
    authentication: Authentication,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RecipientTable {
    key_id: Spanned<Hex<32>>,
    kind: Spanned<KindWord>,
    label: Spanned<String>,
    public_key: Base64,
    wrap_algorithm: u8,
    wrap: Base64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argon2id: Option<Argon2idTable>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindWord {
    Token,
    File,
    Passphrase,
    Recovery,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Argon2idTable {
    salt: Hex<16>,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct OlderTable {
    epoch: Spanned<Epoch>,
    sealed: Base64,
}

/// Empty when written: the MAC line is appended to the text it covers.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Authentication {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hmac_sha256: Option<Hex<32>>,
}

impl Unverified {
    /// Parses a manifest.
    ///
    /// # Errors
    /// [`ManifestError`]; no input panics.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text = str::from_utf8(bytes).map_err(|error| ManifestError::Malformed {
            line: line_of(bytes, error.valid_up_to()),
            what: "not UTF-8".into(),
        })?;
        let format: FormatOnly = toml::from_str(text).map_err(|error| malformed(text, &error))?;
        if format.format > u64::from(FORMAT) {
            return Err(ManifestError::NewerFormat(format.format));
        }
        let document: Document = toml::from_str(text).map_err(|error| malformed(text, &error))?;
        if document.suite != u64::from(SUITE) {
            return Err(ManifestError::UnknownSuite(document.suite));
        }
        let (covered, mac) = split_mac(text).ok_or(ManifestError::CutShort)?;
        let claims = document.into_manifest(text)?;
        Ok(Self {
            claims,
            covered: covered.into(),
            mac,
        })
    }
}

impl Manifest {
    /// The manifest's text, authenticated under `current`, the current epoch's key.
    pub fn write(&self, current: &EpochKey) -> Vec<u8> {
        let body = toml::to_string(&Document::from(self)).expect("plain values become TOML");
        let mut text = format!("{HEADING}{body}").into_bytes();
        let mac = hmac::sign(&current.manifest_mac_key(), &text);
        text.extend_from_slice(MAC_START.as_bytes());
        text.extend_from_slice(HEXLOWER.encode(mac.as_ref()).as_bytes());
        text.extend_from_slice(MAC_END.as_bytes());
        text
    }
}

/// The text before the last line, and the MAC that the last line is.
fn split_mac(text: &str) -> Option<(&str, [u8; 32])> {
    let line = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (covered, line) = text.split_at_checked(line)?;
    let mac = line.strip_prefix(MAC_START)?.strip_suffix(MAC_END)?;
    let mac = HEXLOWER.decode(mac.as_bytes()).ok()?;
    Some((covered, mac.try_into().ok()?))
}

fn line_of(text: &[u8], offset: usize) -> usize {
    1 + text
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
}

/// toml has no kinds of error, only words; the tests hold it to these. Words that it quotes are an
/// enemy's, who must not steer the terminal that shows them.
fn malformed(text: &str, error: &toml::de::Error) -> ManifestError {
    let line = line_of(text.as_bytes(), error.span().map_or(0, |span| span.start));
    let message = error.message().replace(char::is_control, "?");
    let unknown = message.strip_prefix("unknown field ");
    match unknown.and_then(|rest| rest.split(',').next()) {
        Some(key) => ManifestError::UnknownKey {
            line,
            key: key.into(),
        },
        None => ManifestError::Malformed {
            line,
            what: message,
        },
    }
}

impl Document {
    fn into_manifest(self, text: &str) -> Result<Manifest, ManifestError> {
        let wrong = |offset: usize, what: &str| ManifestError::Malformed {
            line: line_of(text.as_bytes(), offset),
            what: what.into(),
        };
        let (epoch, minimum) = (*self.epoch.get_ref(), *self.minimum_epoch.get_ref());
        if epoch < Epoch::FIRST {
            return Err(wrong(self.epoch.span().start, "epochs count from 1"));
        }
        if minimum < Epoch::FIRST || minimum > epoch {
            let what = "minimum epoch is not between 1 and the current epoch";
            return Err(wrong(self.minimum_epoch.span().start, what));
        }
        if *self.generation.get_ref() == 0 {
            return Err(wrong(
                self.generation.span().start,
                "generations count from 1",
            ));
        }
        let mut older = Vec::with_capacity(self.older_epoch.len());
        for (table, number) in self.older_epoch.into_iter().zip(1..) {
            if *table.epoch.get_ref() != Epoch(number) || Epoch(number) >= epoch {
                let what = "older epochs do not count from 1 up to the current epoch";
                return Err(wrong(table.epoch.span().start, what));
            }
            older.push(table.sealed.0);
        }
        if older.len() as u64 + 1 != u64::from(epoch.0) {
            return Err(wrong(
                self.epoch.span().start,
                "the key of an older epoch is missing",
            ));
        }
        let mut recipients = Vec::with_capacity(self.recipient.len());
        // A key id is a hash: comparing all with all would cost whoever parses an enemy's text dearly.
        let mut key_ids = HashSet::with_capacity(self.recipient.len());
        for table in self.recipient {
            let (key_id_at, claimed) = (table.key_id.span().start, KeyId(table.key_id.get_ref().0));
            let enrolled = table.into_enrolled(&wrong)?;
            if enrolled.recipient.key_id() != claimed {
                return Err(wrong(key_id_at, "key id is not that of the public key"));
            }
            if !key_ids.insert(claimed) {
                return Err(wrong(key_id_at, "recipient is listed twice"));
            }
            recipients.push(enrolled);
        }
        if recipients.is_empty() {
            return Err(wrong(0, "no recipient"));
        }
        Ok(Manifest {
            volume: self.volume,
            scope: self.scope,
            epoch,
            minimum,
            generation: self.generation.into_inner(),
            recipients,
            older,
        })
    }
}

impl RecipientTable {
    fn into_enrolled(
        self,
        wrong: &impl Fn(usize, &str) -> ManifestError,
    ) -> Result<Enrolled, ManifestError> {
        let label = self.label.get_ref();
        if label.chars().count() > Recipient::LABEL_MAX || label.chars().any(char::is_control) {
            let what = "label is too long or has control characters";
            return Err(wrong(self.label.span().start, what));
        }
        let kind = match (*self.kind.get_ref(), self.argon2id) {
            (KindWord::Token, None) => RecipientKind::Token,
            (KindWord::File, None) => RecipientKind::File,
            (KindWord::Recovery, None) => RecipientKind::Recovery,
            (KindWord::Passphrase, Some(table)) => RecipientKind::Passphrase(Argon2id {
                salt: table.salt.0,
                memory_kib: table.memory_kib,
                passes: table.passes,
                lanes: table.lanes,
            }),
            (KindWord::Passphrase, None)
            | (KindWord::Token | KindWord::File | KindWord::Recovery, Some(_)) => {
                let what = "argon2id parameters belong to passphrases, and only to them";
                return Err(wrong(self.kind.span().start, what));
            }
        };
        Ok(Enrolled {
            // Checked above: nothing is left out of the label.
            recipient: Recipient::new(kind, label, self.public_key.0),
            wrap: Wrap {
                algorithm: self.wrap_algorithm,
                body: self.wrap.0,
            },
        })
    }
}

impl From<&Manifest> for Document {
    fn from(manifest: &Manifest) -> Self {
        Self {
            format: FORMAT,
            volume: manifest.volume,
            suite: SUITE.into(),
            scope: manifest.scope,
            epoch: unplaced(manifest.epoch),
            minimum_epoch: unplaced(manifest.minimum),
            generation: unplaced(manifest.generation),
            recipient: manifest
                .recipients
                .iter()
                .map(RecipientTable::from)
                .collect(),
            older_epoch: manifest
                .older
                .iter()
                .zip(1..)
                .map(|(sealed, number)| OlderTable {
                    epoch: unplaced(Epoch(number)),
                    sealed: Base64(sealed.clone()),
                })
                .collect(),
            authentication: Authentication { hmac_sha256: None },
        }
    }
}

impl From<&Enrolled> for RecipientTable {
    fn from(Enrolled { recipient, wrap }: &Enrolled) -> Self {
        let (kind, argon2id) = match recipient.kind() {
            RecipientKind::Token => (KindWord::Token, None),
            RecipientKind::File => (KindWord::File, None),
            RecipientKind::Recovery => (KindWord::Recovery, None),
            RecipientKind::Passphrase(argon2id) => {
                let table = Argon2idTable {
                    salt: Hex(argon2id.salt),
                    memory_kib: argon2id.memory_kib,
                    passes: argon2id.passes,
                    lanes: argon2id.lanes,
                };
                (KindWord::Passphrase, Some(table))
            }
        };
        Self {
            key_id: unplaced(Hex(recipient.key_id().0)),
            kind: unplaced(kind),
            label: unplaced(recipient.label().into()),
            public_key: Base64(recipient.spki().into()),
            wrap_algorithm: wrap.algorithm,
            wrap: Base64(wrap.body.clone()),
            argon2id,
        }
    }
}

/// A value that did not come from a text.
fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

/// Bytes as base64, standard alphabet, padded.
struct Base64(Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = BASE64.decode(text.as_bytes());
        Ok(Self(bytes.map_err(|_| de::Error::custom("not base64"))?))
    }
}

/// Bytes as lower-case hexadecimal digits.
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        let expected = || de::Error::custom(format!("not {} hexadecimal digits", 2 * N));
        Ok(Self(bytes.ok_or_else(expected)?))
    }
}
