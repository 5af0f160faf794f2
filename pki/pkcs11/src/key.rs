//! Finding key pairs in a token and telling what they are.

use claviger_pki::key::{KeyType, PublicKey};
use claviger_pki::module::{Locator, Provenance};
use claviger_pki::p11_uri::{ObjectType, TokenFacts, Uri};
use cryptoki::error::Error;
use cryptoki::object::{
    Attribute, AttributeType, KeyType as P11KeyType, ObjectClass, ObjectHandle,
};
use cryptoki::session::Session;

use crate::certificate::subject_public_key_info;

/// DER of the curve's OID, as CKA_EC_PARAMS holds it.
pub(crate) const P256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
/// The same for P-384.
pub(crate) const P384: &[u8] = &[0x06, 5, 0x2b, 0x81, 0x04, 0, 0x22];

/// A private key that was found over one session, ready to be used over it.
#[derive(Clone, Copy)]
pub(crate) struct HeldKey {
    pub(crate) handle: ObjectHandle,
    pub(crate) login: EachUse,
}

/// CKA_ALWAYS_AUTHENTICATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EachUse {
    /// One login is for all uses.
    NoLogin,
    /// Each use wants the PIN again.
    Login,
}

/// A private key object and its attributes.
pub(crate) struct PrivateKey {
    pub(crate) held: HeldKey,
    pub(crate) id: Vec<u8>,
    pub(crate) label: String,
    /// CKA_DECRYPT of an RSA key, CKA_DERIVE of an EC key; permitted if the token does not say.
    pub(crate) may_open: bool,
    attributes: Vec<Attribute>,
}

const PRIVATE_ATTRIBUTES: &[AttributeType] = &[
    AttributeType::Id,
    AttributeType::Label,
    AttributeType::Decrypt,
    AttributeType::Derive,
    AttributeType::AlwaysAuthenticate,
    AttributeType::Sensitive,
    AttributeType::AlwaysSensitive,
    AttributeType::Extractable,
    AttributeType::NeverExtractable,
    AttributeType::Local,
    AttributeType::Modulus,
    AttributeType::PublicExponent,
    AttributeType::PublicKeyInfo,
];

/// RSA and EC private keys that `uri` can mean and that are visible now.
pub(crate) fn private_keys(session: &Session, uri: &Uri) -> Result<Vec<PrivateKey>, Error> {
    let mut keys = Vec::new();
    // By type in the template: cryptoki fails on types it does not know, and so would all of a token's
    // keys for the sake of one.
    for key_type in [P11KeyType::EC, P11KeyType::RSA] {
        let mut template = vec![
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(key_type),
        ];
        template.extend(uri.id.clone().map(Attribute::Id));
        template.extend(
            uri.object
                .clone()
                .map(|label| Attribute::Label(label.into())),
        );
        for handle in session.find_objects(&template)? {
            let key = PrivateKey::read(session, handle, key_type)?;
            if uri.names_key(&key.id, &key.label) {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

impl PrivateKey {
    fn read(session: &Session, handle: ObjectHandle, key_type: P11KeyType) -> Result<Self, Error> {
        let mut key = Self {
            held: HeldKey {
                handle,
                login: EachUse::NoLogin,
            },
            id: Vec::new(),
            label: String::new(),
            may_open: true,
            attributes: Vec::new(),
        };
        for attribute in session.get_attributes(handle, PRIVATE_ATTRIBUTES)? {
            match attribute {
                Attribute::Id(id) => key.id = id,
                Attribute::Label(label) => key.label = String::from_utf8_lossy(&label).into_owned(),
                Attribute::AlwaysAuthenticate(true) => key.held.login = EachUse::Login,
                Attribute::Decrypt(may) if key_type == P11KeyType::RSA => key.may_open = may,
                Attribute::Derive(may) if key_type == P11KeyType::EC => key.may_open = may,
                other => key.attributes.push(other),
            }
        }
        Ok(key)
    }

    /// What the token says of where the key came from. What it does not say counts against it.
    pub(crate) fn provenance(&self) -> Provenance {
        let says = |wanted: &Attribute| self.attributes.contains(wanted);
        if !says(&Attribute::Sensitive(true)) || !says(&Attribute::Extractable(false)) {
            return Provenance::Extractable;
        }
        let never_left = [
            Attribute::Local(true),
            Attribute::AlwaysSensitive(true),
            Attribute::NeverExtractable(true),
        ];
        if never_left.iter().all(says) {
            Provenance::InToken
        } else {
            Provenance::Imported
        }
    }

    /// Its public half: of the public key object, of the private key itself, or of a certificate.
    /// `None` if the token has none of them, or it is of a kind that Claviger cannot use.
    pub(crate) fn public_key(&self, session: &Session) -> Result<Option<PublicKey>, Error> {
        for handle in self.siblings(session, ObjectClass::PUBLIC_KEY)? {
            let wanted = [
                AttributeType::Modulus,
                AttributeType::PublicExponent,
                AttributeType::EcParams,
                AttributeType::EcPoint,
            ];
            let attributes = session.get_attributes(handle, &wanted)?;
            if let Some(key) = from_attributes(&attributes) {
                return Ok(Some(key));
            }
        }
        if let Some(key) = from_attributes(&self.attributes) {
            return Ok(Some(key));
        }
        for handle in self.siblings(session, ObjectClass::CERTIFICATE)? {
            for attribute in session.get_attributes(handle, &[AttributeType::Value])? {
                if let Attribute::Value(certificate) = attribute
                    && let Some(spki) = subject_public_key_info(&certificate)
                    && let Ok(key) = PublicKey::from_spki(spki)
                {
                    return Ok(Some(key));
                }
            }
        }
        Ok(None)
    }

    /// The shortest URI that finds it again, whatever reader the token is in.
    pub(crate) fn locator(&self, token: &TokenFacts) -> Locator {
        let mut uri = token_uri(token);
        uri.object_type = Some(ObjectType::Private);
        if self.id.is_empty() {
            uri.object = Some(self.label.clone());
        } else {
            uri.id = Some(self.id.clone());
        }
        Locator(uri.to_string())
    }

    /// Objects of another class that belong to the same key pair.
    fn siblings(&self, session: &Session, class: ObjectClass) -> Result<Vec<ObjectHandle>, Error> {
        let same = match (&self.id[..], &self.label[..]) {
            ([], "") => return Ok(Vec::new()),
            ([], label) => Attribute::Label(label.into()),
            (id, _) => Attribute::Id(id.to_vec()),
        };
        session.find_objects(&[Attribute::Class(class), same])
    }
}

/// The shortest URI that means this token: its serial number, or what it has instead.
pub(crate) fn token_uri(token: &TokenFacts) -> Uri {
    let mut uri = Uri {
        serial: Some(token.serial.clone()),
        ..Uri::default()
    };
    if token.serial.is_empty() {
        uri.token = Some(token.label.clone());
        uri.model = Some(token.model.clone());
    }
    uri
}

fn from_attributes(attributes: &[Attribute]) -> Option<PublicKey> {
    let mut modulus = None;
    let mut exponent = None;
    let mut curve = None;
    let mut point = None;
    for attribute in attributes {
        match attribute {
            Attribute::PublicKeyInfo(spki) if !spki.is_empty() => {
                return PublicKey::from_spki(spki).ok();
            }
            Attribute::Modulus(bytes) => modulus = Some(bytes),
            Attribute::PublicExponent(bytes) => exponent = Some(bytes),
            Attribute::EcParams(bytes) => curve = Some(bytes.as_slice()),
            Attribute::EcPoint(bytes) => point = Some(bytes),
            _ => {}
        }
    }
    if let (Some(modulus), Some(exponent)) = (modulus, exponent) {
        return PublicKey::from_rsa(modulus, exponent).ok();
    }
    let key_type = match curve? {
        P256 => KeyType::EcP256,
        P384 => KeyType::EcP384,
        _ => return None,
    };
    PublicKey::from_ec_point(key_type, bare_point(key_type, point?)).ok()
}

/// CKA_EC_POINT is a DER OCTET STRING (PKCS #11 v2.40 Current Mechanisms, section 2.3.3); older tokens
/// give the point bare.
fn bare_point(key_type: KeyType, value: &[u8]) -> &[u8] {
    match value {
        [0x04, length, point @ ..]
            if usize::from(*length) == point.len()
                && point.len() == key_type.encapsulation_len() =>
        {
            point
        }
        bare => bare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_wrapped_and_bare() {
        let bare = [&[0x04][..], &[7; 64]].concat();
        let wrapped = [&[0x04, 65][..], &bare].concat();
        assert_eq!(bare_point(KeyType::EcP256, &bare), bare);
        assert_eq!(bare_point(KeyType::EcP256, &wrapped), bare);
        // A bare point whose x begins with what would be the length of the rest.
        let tricky = [&[0x04, 63][..], &[7; 63]].concat();
        assert_eq!(bare_point(KeyType::EcP256, &tricky), tricky);
    }

    #[test]
    fn what_a_token_does_not_say_of_a_key_counts_against_it() {
        let provenance = |attributes: &[Attribute]| {
            let handle = HeldKey {
                handle: zero_handle(),
                login: EachUse::NoLogin,
            };
            let attributes = attributes.to_vec();
            PrivateKey {
                held: handle,
                id: vec![],
                label: String::new(),
                may_open: true,
                attributes,
            }
            .provenance()
        };
        use Attribute as A;
        let stays = [A::Sensitive(true), A::Extractable(false)];
        let made = [
            A::Local(true),
            A::AlwaysSensitive(true),
            A::NeverExtractable(true),
        ];
        assert_eq!(
            provenance(&[&stays[..], &made].concat()),
            Provenance::InToken
        );
        assert_eq!(provenance(&stays), Provenance::Imported);
        assert_eq!(
            provenance(&[&stays[..], &made[..2]].concat()),
            Provenance::Imported
        );
        assert_eq!(provenance(&made), Provenance::Extractable);
        assert_eq!(provenance(&[]), Provenance::Extractable);
        assert_eq!(
            provenance(&[A::Sensitive(true), A::Extractable(true)]),
            Provenance::Extractable
        );
    }

    /// A handle is made by a library only; for a key that is not used any will do.
    #[allow(unsafe_code)] // `new_from_raw` is unsafe for what one might do with it; nothing is done.
    fn zero_handle() -> ObjectHandle {
        // SAFETY: never passed to a library.
        unsafe { ObjectHandle::new_from_raw(0) }
    }
}
