//! Messages to octets.

use postcard::ser_flavors::Size;
use serde::Serialize;
use zeroize::Zeroizing;

/// Encodes a message that may hold secrets, into a buffer that wipes itself.
///
/// # Errors
/// postcard's, for what it cannot encode; no message of this crate is such.
pub fn encode(message: &impl Serialize) -> postcard::Result<Zeroizing<Vec<u8>>> {
    // Sized first: a buffer that grew would leave unwiped copies of a PIN or key behind.
    let length = postcard::serialize_with_flavor(message, Size::default())?;
    let mut octets = Zeroizing::new(vec![0; length]);
    postcard::to_slice(message, &mut octets)?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    #[test]
    fn the_buffer_never_grew() {
        for length in [0, 1, 127, 128, 5000] {
            let message = (Secret::new(vec![7; length]), "text");
            let octets = encode(&message).unwrap();
            assert_eq!(octets.as_slice(), postcard::to_stdvec(&message).unwrap());
            assert_eq!(octets.capacity(), octets.len());
        }
    }
}
