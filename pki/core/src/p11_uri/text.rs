//! The text form of a URI.

use core::fmt;

use super::{LibraryVersion, ObjectType, Uri, UriError};

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
