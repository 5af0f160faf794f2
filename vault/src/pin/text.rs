//! The text of known_volumes: one line a volume, six fields with spaces between.
//!
//! ```text
//! volume-id  epoch  generation  commitment  recipients  folder
//! ```
//!
//! Volume id and commitment are hexadecimal; recipients are the first 16 digits of their key ids, with
//! commas between, or `-`; the folder is absolute, with every byte but printable ASCII, and space and
//! percent sign, as `%` and two hexadecimal digits, or `-`. Lines that are empty or start with `#` are
//! comments; the user's own are replaced when the file is next written.

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use super::{Pin, PinError, ShortKeyId};
use crate::ids::Epoch;

const HEADING: &str = "\
# Volumes that were unlocked here: id, highest epoch and generation seen, commitment to the epoch's
# key, recipients, folder. Delete a line to accept that volume anew; see claviger(1).
";

/// Parses the file `path`, whose content is `bytes`.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Pin>, PinError> {
    let mut pins: Vec<Pin> = Vec::new();
    for (line, number) in bytes.split(|byte| *byte == b'\n').zip(1..) {
        let wrong = |what| PinError::Malformed {
            path: path.into(),
            line: number,
            what,
        };
        let text = str::from_utf8(line).map_err(|_| wrong("not ASCII"))?.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let pin = parse_line(text).map_err(wrong)?;
        if pins.iter().any(|other| other.volume == pin.volume) {
            return Err(wrong("this volume has a line already"));
        }
        pins.push(pin);
    }
    Ok(pins)
}

/// The file's text.
pub(super) fn write(pins: &[Pin]) -> String {
    let mut text = HEADING.to_owned();
    for pin in pins {
        let recipients: Vec<_> = pin.recipients.iter().map(ShortKeyId::to_string).collect();
        let recipients = if recipients.is_empty() {
            "-".into()
        } else {
            recipients.join(",")
        };
        let folder = pin.folder.as_deref().map_or_else(|| "-".into(), escape);
        let Pin {
            volume,
            epoch,
            generation,
            commitment,
            ..
        } = pin;
        writeln!(
            text,
            "{volume} {epoch} {generation} {commitment} {recipients} {folder}"
        )
        .expect("a String takes whatever is written");
    }
    text
}

fn parse_line(text: &str) -> Result<Pin, &'static str> {
    let mut fields = text.split_ascii_whitespace();
    let mut next = || fields.next().ok_or("fewer than six fields");
    let pin = Pin {
        volume: next()?
            .parse()
            .map_err(|_| "volume id is not 32 hexadecimal digits")?,
        epoch: Epoch(next()?.parse().map_err(|_| "epoch is not a number")?),
        generation: next()?.parse().map_err(|_| "generation is not a number")?,
        commitment: next()?
            .parse()
            .map_err(|_| "commitment is not 64 hexadecimal digits")?,
        recipients: parse_recipients(next()?)?,
        folder: parse_folder(next()?)?,
    };
    match fields.next() {
        Some(_) => Err("more than six fields"),
        None => Ok(pin),
    }
}

fn parse_recipients(field: &str) -> Result<Vec<ShortKeyId>, &'static str> {
    if field == "-" {
        return Ok(Vec::new());
    }
    let parse = |text: &str| {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        Some(ShortKeyId(bytes.try_into().ok()?))
    };
    let recipients = field.split(',').map(parse).collect::<Option<_>>();
    recipients.ok_or("a recipient is not 16 hexadecimal digits")
}

fn parse_folder(field: &str) -> Result<Option<PathBuf>, &'static str> {
    if field == "-" {
        return Ok(None);
    }
    let folder = unescape(field).ok_or("folder has a percent sign without two digits")?;
    if !folder.is_absolute() {
        return Err("folder is not an absolute path");
    }
    Ok(Some(folder))
}

fn escape(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(byte.into());
        } else {
            text.push('%');
            text += &HEXLOWER.encode(&[byte]);
        }
    }
    text
}

fn unescape(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            bytes.extend(HEXLOWER_PERMISSIVE.decode(digits).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    Some(OsString::from_vec(bytes).into())
}
