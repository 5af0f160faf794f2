//! PKCS#11 URIs (RFC 7512): how a token, a key or a library is named to people and in key files.
//!
//! Parsing and matching only; needs no library. A PIN in the URI (`pin-value`) is refused: it would
//! end in shell histories, process lists and key files.

use core::fmt;

/// A PKCS#11 URI. An attribute that is absent matches anything.
///
/// ```text
/// pkcs11:token=Card;serial=00a1;id=%03;type=private?pin-source=file:/run/pin
///        path, attributes separated by ";"         query, attributes separated by "&"
/// ```
///
/// Text is UTF-8 once percent-decoded. Source: RFC 7512 section 2.3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uri {
    /// Label of the token.
    pub token: Option<String>,
    /// Who made the token.
    pub manufacturer: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// Who made the library.
    pub library_manufacturer: Option<String>,
    /// What the library says it is.
    pub library_description: Option<String>,
    /// Version of the library.
    pub library_version: Option<LibraryVersion>,
    /// Who made the slot (the reader).
    pub slot_manufacturer: Option<String>,
    /// What the slot says it is.
    pub slot_description: Option<String>,
    /// Number of the slot. Matched if a person types it, never written: it changes at each insertion.
    pub slot_id: Option<u64>,
    /// Label of the object.
    pub object: Option<String>,
    /// CKA_ID of the object: bytes, not text.
    pub id: Option<Vec<u8>>,
    /// Class of the object.
    pub object_type: Option<ObjectType>,
    /// Where the PIN is to be read, as a URI or `|command`. This crate never opens it.
    pub pin_source: Option<String>,
    /// Name of the library's p11-kit module.
    pub module_name: Option<String>,
    /// Path of the library.
    pub module_path: Option<String>,
    /// Path attributes that RFC 7512 does not define. A URI with one names nothing that we know.
    pub vendor_path: Vec<(String, Vec<u8>)>,
    /// Query attributes that RFC 7512 does not define; a name may come more than once.
    pub vendor_query: Vec<(String, Vec<u8>)>,
}

/// Class of an object, as the `type` attribute names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectType {
    /// `public`
    Public,
    /// `private`
    Private,
    /// `cert`
    Certificate,
    /// `secret-key`
    SecretKey,
    /// `data`
    Data,
}

/// `library-version`: `3` or `1.23`; without a minor number it means `.0` (RFC 7512 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LibraryVersion {
    /// Before the point.
    pub major: u8,
    /// After it.
    pub minor: u8,
}

/// What a token, its slot and its library say of themselves, blanks at the end removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// Label of the token.
    pub label: String,
    /// Its manufacturer.
    pub manufacturer: String,
    /// Its serial number.
    pub serial: String,
    /// Its model.
    pub model: String,
    /// Manufacturer of the slot.
    pub slot_manufacturer: String,
    /// Description of the slot.
    pub slot_description: String,
    /// Number of the slot.
    pub slot_id: u64,
    /// Manufacturer of the library.
    pub library_manufacturer: String,
    /// Description of the library.
    pub library_description: String,
    /// Version of the library.
    pub library_version: LibraryVersion,
}

/// Not a PKCS#11 URI that we take. Never shows a value, which may be a PIN in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It does not begin with `pkcs11:`.
    #[error("a PKCS#11 URI begins with \"pkcs11:\"")]
    Scheme,
    /// An attribute without `=`, or with a character that must be percent-encoded.
    #[error("malformed PKCS#11 URI at attribute {0}, counted from 1")]
    Malformed(usize),
    /// An attribute given twice.
    #[error("attribute \"{0}\" is given twice in the PKCS#11 URI")]
    Duplicate(String),
    /// A value that its attribute cannot have.
    #[error("bad value for attribute \"{0}\" of the PKCS#11 URI")]
    Value(String),
    /// A PIN in the URI.
    #[error("\"pin-value\" is refused in a PKCS#11 URI: use pin-source")]
    PinValue,
}

/// What may stand for itself in a path value, beyond letters, digits and `-._~`.
const PATH_CHARS: &[u8] = b":[]@!$'()*+,=&";
/// The same for a query value.
const QUERY_CHARS: &[u8] = b":[]@!$'()*+,=/?|";

impl Uri {
    /// Parses a URI.
    ///
    /// # Errors
    /// [`UriError`]; no input panics.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("pkcs11") {
            return Err(UriError::Scheme);
        }
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut uri = Self::default();
        let mut position = 0;
        if !path.is_empty() {
            for attribute in path.split(';') {
                position += 1;
                let (name, value) = split(attribute, PATH_CHARS, position)?;
                uri.take_path(name, value)?;
            }
        }
        for attribute in query.unwrap_or("").split('&').filter(|a| !a.is_empty()) {
            position += 1;
            let (name, value) = split(attribute, QUERY_CHARS, position)?;
            uri.take_query(name, value)?;
        }
        Ok(uri)
    }

    /// Whether every attribute that speaks of token, slot or library agrees with `facts`.
    pub fn names_token(&self, facts: &TokenFacts) -> bool {
        let text = |wanted: &Option<String>, have: &str| wanted.as_ref().is_none_or(|w| w == have);
        self.vendor_path.is_empty()
            && text(&self.token, &facts.label)
            && text(&self.manufacturer, &facts.manufacturer)
            && text(&self.serial, &facts.serial)
            && text(&self.model, &facts.model)
            && text(&self.slot_manufacturer, &facts.slot_manufacturer)
            && text(&self.slot_description, &facts.slot_description)
            && self.slot_id.is_none_or(|id| id == facts.slot_id)
            && text(&self.library_manufacturer, &facts.library_manufacturer)
            && text(&self.library_description, &facts.library_description)
            && self
                .library_version
                .is_none_or(|version| version == facts.library_version)
    }

    /// Whether the URI can mean the key pair with this CKA_ID and label. `type` may name any of its
    /// objects: the private key, the public key or the certificate.
    pub fn names_key(&self, id: &[u8], label: &str) -> bool {
        self.vendor_path.is_empty()
            && self.id.as_ref().is_none_or(|wanted| wanted == id)
            && self.object.as_ref().is_none_or(|wanted| wanted == label)
            && !matches!(
                self.object_type,
                Some(ObjectType::SecretKey | ObjectType::Data)
            )
    }

    /// Whether it names one object, not a whole token.
    pub fn names_one_object(&self) -> bool {
        self.id.is_some() || self.object.is_some()
    }

    fn take_path(&mut self, name: &str, value: Vec<u8>) -> Result<(), UriError> {
        match name {
            "token" => put(&mut self.token, name, text(name, value)?),
            "manufacturer" => put(&mut self.manufacturer, name, text(name, value)?),
            "serial" => put(&mut self.serial, name, text(name, value)?),
            "model" => put(&mut self.model, name, text(name, value)?),
            "library-manufacturer" => put(&mut self.library_manufacturer, name, text(name, value)?),
            "library-description" => put(&mut self.library_description, name, text(name, value)?),
            "library-version" => put(&mut self.library_version, name, version(&value)?),
            "slot-manufacturer" => put(&mut self.slot_manufacturer, name, text(name, value)?),
            "slot-description" => put(&mut self.slot_description, name, text(name, value)?),
            "slot-id" => put(&mut self.slot_id, name, number(name, &value)?),
            "object" => put(&mut self.object, name, text(name, value)?),
            "id" => put(&mut self.id, name, value),
            "type" => put(&mut self.object_type, name, object_type(&value)?),
            "pin-value" => Err(UriError::PinValue),
            vendor if self.vendor_path.iter().any(|(known, _)| known == vendor) => {
                Err(UriError::Duplicate(vendor.to_owned()))
            }
            vendor => {
                self.vendor_path.push((vendor.to_owned(), value));
                Ok(())
            }
        }
    }

    fn take_query(&mut self, name: &str, value: Vec<u8>) -> Result<(), UriError> {
        match name {
            "pin-source" => put(&mut self.pin_source, name, text(name, value)?),
            "module-name" => put(&mut self.module_name, name, text(name, value)?),
            "module-path" => put(&mut self.module_path, name, text(name, value)?),
            "pin-value" => Err(UriError::PinValue),
            vendor => {
                self.vendor_query.push((vendor.to_owned(), value));
                Ok(())
            }
        }
    }
}

impl fmt::Display for Uri {
    /// Writes the attributes in a fixed order, so that one meaning has one spelling.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut path = List {
            out: f,
            between: "",
            next: ";",
            literal: PATH_CHARS,
        };
        path.out.write_str("pkcs11:")?;
        path.text("library-manufacturer", &self.library_manufacturer)?;
        path.text("library-description", &self.library_description)?;
        if let Some(LibraryVersion { major, minor }) = self.library_version {
            path.put("library-version", format!("{major}.{minor}").as_bytes())?;
        }
        path.text("slot-manufacturer", &self.slot_manufacturer)?;
        path.text("slot-description", &self.slot_description)?;
        if let Some(id) = self.slot_id {
            path.put("slot-id", id.to_string().as_bytes())?;
        }
        path.text("model", &self.model)?;
        path.text("manufacturer", &self.manufacturer)?;
        path.text("serial", &self.serial)?;
        path.text("token", &self.token)?;
        if let Some(id) = &self.id {
            // "the whole value of the id attribute is supposed to be handled as arbitrary binary data":
            // every octet percent-encoded (RFC 7512 section 2.3).
            path.literal = b"";
            path.put_encoded("id", id)?;
            path.literal = PATH_CHARS;
        }
        path.text("object", &self.object)?;
        if let Some(object_type) = self.object_type {
            path.put("type", object_type.name().as_bytes())?;
        }
        for (name, value) in &self.vendor_path {
            path.put(name, value)?;
        }

        let mut query = List {
            out: f,
            between: "?",
            next: "&",
            literal: QUERY_CHARS,
        };
        query.text("module-name", &self.module_name)?;
        query.text("module-path", &self.module_path)?;
        query.text("pin-source", &self.pin_source)?;
        for (name, value) in &self.vendor_query {
            query.put(name, value)?;
        }
        Ok(())
    }
}

impl ObjectType {
    fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Certificate => "cert",
            Self::SecretKey => "secret-key",
            Self::Data => "data",
        }
    }
}

/// Writes `name=value` pairs with what separates them.
struct List<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    between: &'static str,
    next: &'static str,
    literal: &'static [u8],
}

impl List<'_, '_> {
    fn text(&mut self, name: &str, value: &Option<String>) -> fmt::Result {
        match value {
            Some(value) => self.put(name, value.as_bytes()),
            None => Ok(()),
        }
    }

    fn put(&mut self, name: &str, value: &[u8]) -> fmt::Result {
        self.begin(name)?;
        for &byte in value {
            if stands_for_itself(byte, self.literal) {
                write!(self.out, "{}", char::from(byte))?;
            } else {
                write!(self.out, "%{byte:02X}")?;
            }
        }
        Ok(())
    }

    fn put_encoded(&mut self, name: &str, value: &[u8]) -> fmt::Result {
        self.begin(name)?;
        value
            .iter()
            .try_for_each(|byte| write!(self.out, "%{byte:02X}"))
    }

    fn begin(&mut self, name: &str) -> fmt::Result {
        write!(self.out, "{}{name}=", self.between)?;
        self.between = self.next;
        Ok(())
    }
}

/// Splits one attribute at its first `=` and decodes its value.
fn split<'a>(
    attribute: &'a str,
    literal: &[u8],
    position: usize,
) -> Result<(&'a str, Vec<u8>), UriError> {
    let malformed = || UriError::Malformed(position);
    let (name, value) = attribute.split_once('=').ok_or_else(malformed)?;
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || !name.bytes().all(in_name) {
        return Err(malformed());
    }
    Ok((name, decode(value, literal).ok_or_else(malformed)?))
}

fn decode(value: &str, literal: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = value.bytes();
    let mut out = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
            out.push(high << 4 | low);
        } else if stands_for_itself(byte, literal) {
            out.push(byte);
        } else {
            return None;
        }
    }
    Some(out)
}

fn stands_for_itself(byte: u8, literal: &[u8]) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~')
        || literal.contains(&byte)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

fn put<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Duplicate(name.to_owned())),
    }
}

fn text(name: &str, value: Vec<u8>) -> Result<String, UriError> {
    String::from_utf8(value).map_err(|_| UriError::Value(name.to_owned()))
}

fn number<T: core::str::FromStr>(name: &str, value: &[u8]) -> Result<T, UriError> {
    // `str::parse` alone would also take a sign.
    let digits = core::str::from_utf8(value)
        .ok()
        .filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    digits
        .and_then(|d| d.parse().ok())
        .ok_or_else(|| UriError::Value(name.to_owned()))
}

fn version(value: &[u8]) -> Result<LibraryVersion, UriError> {
    const NAME: &str = "library-version";
    let mut parts = value.splitn(2, |&byte| byte == b'.');
    let major = number(NAME, parts.next().unwrap_or(b""))?;
    let minor = parts.next().map_or(Ok(0), |minor| number(NAME, minor))?;
    Ok(LibraryVersion { major, minor })
}

fn object_type(value: &[u8]) -> Result<ObjectType, UriError> {
    match value {
        b"public" => Ok(ObjectType::Public),
        b"private" => Ok(ObjectType::Private),
        b"cert" => Ok(ObjectType::Certificate),
        b"secret-key" => Ok(ObjectType::SecretKey),
        b"data" => Ok(ObjectType::Data),
        _ => Err(UriError::Value("type".to_owned())),
    }
}

#[cfg(test)]
#[path = "p11_uri_tests.rs"]
mod tests;
