//! Extended attributes, as both formats have them.

use crate::ids::Epoch;
use crate::names::EpochRefused;

/// The extended attributes in `user.` of one file or directory.
pub trait Attributes {
    /// All that `name` may be called below, what it is set as first.
    ///
    /// # Errors
    /// [`AttributeError::Name`].
    fn candidates(&self, name: &[u8]) -> Result<Vec<Attribute>, AttributeError>;

    /// The attribute whose lower name is `lower`; `None` if that is not to be shown.
    ///
    /// # Errors
    /// [`AttributeError::Foreign`] or [`AttributeError::Epoch`].
    fn parse(&self, lower: &[u8]) -> Result<Option<Attribute>, AttributeError>;

    /// The lower value of `attribute`.
    ///
    /// # Errors
    /// [`AttributeError::ValueTooLong`].
    fn seal(&self, attribute: &Attribute, value: &[u8]) -> Result<Vec<u8>, AttributeError>;

    /// The upper value of `attribute`, whose lower value is `sealed`.
    ///
    /// # Errors
    /// [`AttributeError::Foreign`].
    fn open(&self, attribute: &Attribute, sealed: &[u8]) -> Result<Vec<u8>, AttributeError>;
}

/// One attribute by both its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// The upper name, with its namespace.
    pub name: Vec<u8>,
    /// The lower name, without a NUL.
    pub lower: Vec<u8>,
    pub(crate) epoch: Epoch,
}

/// An attribute that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// No bytes, too many, or a NUL.
    #[error("not a name that an attribute can have")]
    Name,
    /// The format keeps it for itself.
    #[error("attribute is the format's own")]
    Reserved,
    /// More bytes than a value can have.
    #[error("attribute value too long")]
    ValueTooLong,
    /// Changed, or not made by this volume for this file or directory.
    #[error("attribute was not made by this volume for this file or directory")]
    Foreign,
    /// Made in an epoch that is not accepted.
    #[error(transparent)]
    Epoch(#[from] EpochRefused),
}
