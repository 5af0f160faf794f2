//! PKCS#11 URIs (RFC 7512): how a token, a key or a library is named to people and in key files.
//!
//! Parsing and matching only; needs no library. A PIN in the URI (`pin-value`) is refused: it would
//! end in shell histories, process lists and key files.

mod text;

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

impl Uri {
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
}

#[cfg(test)]
mod tests;
