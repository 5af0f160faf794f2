//! A secret on its way between two processes.

use core::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Secret bytes of any length in a message: a PIN, a FEK, a names key.
///
/// Wiped on drop. No `Clone`, no `PartialEq`; `Debug` says nothing, not even the length of a PIN.
/// It is `Serialize` because crossing a process boundary is its purpose; whoever encodes a message
/// that holds one wipes the encoded bytes.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes over `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as an array, `None` if there are not exactly `N`. The caller wipes its copy.
    pub fn to_array<const N: usize>(&self) -> Option<[u8; N]> {
        self.0.as_slice().try_into().ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
