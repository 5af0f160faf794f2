//! Extended attributes: in clear, as eCryptfs hands them through.

use crate::format::{Attribute, AttributeError, Attributes};
use crate::ids::Epoch;

/// Attributes that are below what they are above, but for the one that holds a header.
pub(super) struct PlainAttributes;

/// The header's. Linux 6.1 shows it, and lets it be set: whoever copies attributes from one file to
/// another so loses the latter.
const HEADER: &[u8] = b"user.ecryptfs";

impl Attributes for PlainAttributes {
    fn candidates(&self, name: &[u8]) -> Result<Vec<Attribute>, AttributeError> {
        if name.is_empty() || name.contains(&0) {
            return Err(AttributeError::Name);
        }
        if name == HEADER {
            return Err(AttributeError::Reserved);
        }
        Ok(vec![plain(name)])
    }

    fn parse(&self, lower: &[u8]) -> Result<Option<Attribute>, AttributeError> {
        Ok((lower != HEADER).then(|| plain(lower)))
    }

    fn seal(&self, _attribute: &Attribute, value: &[u8]) -> Result<Vec<u8>, AttributeError> {
        Ok(value.to_vec())
    }

    fn open(&self, _attribute: &Attribute, sealed: &[u8]) -> Result<Vec<u8>, AttributeError> {
        Ok(sealed.to_vec())
    }
}

fn plain(name: &[u8]) -> Attribute {
    Attribute {
        name: name.to_vec(),
        lower: name.to_vec(),
        epoch: Epoch::FIRST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_of_the_header_is_neither_shown_nor_touched() {
        assert_eq!(PlainAttributes.parse(HEADER), Ok(None));
        assert_eq!(
            PlainAttributes.candidates(HEADER),
            Err(AttributeError::Reserved)
        );
    }

    #[test]
    fn other_attributes_are_handed_through() {
        let tag = PlainAttributes.candidates(b"user.tag").unwrap().remove(0);
        assert_eq!(tag.lower, b"user.tag");
        assert_eq!(PlainAttributes.parse(b"user.tag"), Ok(Some(tag.clone())));
        assert_eq!(PlainAttributes.seal(&tag, b"red"), Ok(b"red".to_vec()));
        assert_eq!(PlainAttributes.open(&tag, b"red"), Ok(b"red".to_vec()));
    }
}
