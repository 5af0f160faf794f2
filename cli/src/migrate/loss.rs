//! What of an object can differ, and what is said of it.

use core::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Something about an object that a migration keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Aspect {
    /// That it is there.
    Presence,
    Kind,
    Content,
    /// Of a symlink.
    Target,
    /// Of a device.
    Number,
    /// Which names are of one file.
    Links,
    Owner,
    Mode,
    Times,
    /// An extended attribute, by its name.
    Attribute(String),
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Presence => "presence",
            Self::Kind => "kind",
            Self::Content => "content",
            Self::Target => "target",
            Self::Number => "device number",
            Self::Links => "hard links",
            Self::Owner => "owner",
            Self::Mode => "mode",
            Self::Times => "times",
            Self::Attribute(name) => return write!(f, "attribute {name}"),
        })
    }
}

/// Something about an object that could not be kept, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Loss {
    pub(super) of: Aspect,
    pub(super) why: String,
}

impl Loss {
    pub(super) fn new(of: Aspect, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { of, why }
    }
}

/// Something to be said of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    /// Below the root of OLD and NEW.
    pub(crate) path: PathBuf,
    /// Of what.
    pub(crate) of: Aspect,
    pub(crate) why: String,
}
