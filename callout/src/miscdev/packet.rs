//! The packets of eCryptfs' daemon protocol.
//!
//! ```text
//! packet  := type 1 B | counter 4 B big-endian | length 1-2 B | message, length bytes
//! message := index 4 B host order | body length 4 B host order | body
//! ```
//!
//! Lengths are those of RFC 2440 section 4.2.2: below 192 one byte, to 8383 two bytes. A request's counter
//! and index name it, and its response has the same. Source: `fs/ecryptfs/miscdev.c`, Linux 6.1.

/// The kernel asks.
const REQUEST: u8 = 102;

/// Its daemon answers.
const RESPONSE: u8 = 103;

/// Index and body length.
const MESSAGE_HEADER: usize = 8;

/// Largest body of a response: the kernel refuses packets above 531 bytes.
pub const RESPONSE_MAX: usize = 4 + 512;

/// Which request: the kernel's running number and the place in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// One more than the request's before.
    pub counter: u32,
    /// Slot of the message context.
    pub index: u32,
}

/// Not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// It ends before its fields do.
    #[error("packet is cut short")]
    Truncated,
    /// Of another type.
    #[error("packet of type {0}")]
    Kind(u8),
    /// A request that the kernel gave up before it was read: its frame is still delivered, without a
    /// message (`ecryptfs_msg_ctx_alloc_to_free` frees that and leaves the frame queued).
    #[error("the kernel gave up request {0} before it was read")]
    GivenUp(u32),
    /// What it says of its length is not its length.
    #[error("packet's length is wrong")]
    Length,
}

/// Parses a request: which it is, and its body.
///
/// # Errors
/// [`PacketError`]; no input panics.
pub fn parse_request(packet: &[u8]) -> Result<(Place, &[u8]), PacketError> {
    let (&[kind, ref counter @ ..], rest) = packet
        .split_first_chunk::<5>()
        .ok_or(PacketError::Truncated)?;
    if kind != REQUEST {
        return Err(PacketError::Kind(kind));
    }
    if rest.is_empty() {
        return Err(PacketError::GivenUp(u32::from_be_bytes(*counter)));
    }
    let (length, message) = parse_length(rest)?;
    if message.len() != length {
        return Err(PacketError::Length);
    }
    let (index, rest) = message.split_first_chunk().ok_or(PacketError::Truncated)?;
    let (length, body) = rest.split_first_chunk().ok_or(PacketError::Truncated)?;
    if usize::try_from(u32::from_ne_bytes(*length)) != Ok(body.len()) {
        return Err(PacketError::Length);
    }
    let place = Place {
        counter: u32::from_be_bytes(*counter),
        index: u32::from_ne_bytes(*index),
    };
    Ok((place, body))
}

/// The response to the request at `place`; `None` for a body above [`RESPONSE_MAX`].
pub fn response(place: Place, body: &[u8]) -> Option<Vec<u8>> {
    let body_length = u32::try_from(body.len()).ok()?;
    if body.len() > RESPONSE_MAX {
        return None;
    }
    // Sized first: a buffer that grew would leave copies of keys behind.
    let mut packet = Vec::with_capacity(5 + 2 + MESSAGE_HEADER + body.len());
    packet.push(RESPONSE);
    packet.extend_from_slice(&place.counter.to_be_bytes());
    write_length(MESSAGE_HEADER + body.len(), &mut packet);
    packet.extend_from_slice(&place.index.to_ne_bytes());
    packet.extend_from_slice(&body_length.to_ne_bytes());
    packet.extend_from_slice(body);
    Some(packet)
}

fn parse_length(bytes: &[u8]) -> Result<(usize, &[u8]), PacketError> {
    match *bytes {
        [] => Err(PacketError::Truncated),
        [first @ ..192, ref rest @ ..] => Ok((first.into(), rest)),
        [first @ 192..224, second, ref rest @ ..] => Ok((
            (usize::from(first - 192) << 8) + usize::from(second) + 192,
            rest,
        )),
        [192..224] => Err(PacketError::Truncated),
        [224..=255, ..] => Err(PacketError::Length),
    }
}

fn write_length(length: usize, out: &mut Vec<u8>) {
    if length < 192 {
        out.extend(u8::try_from(length));
        return;
    }
    // Two bytes reach to 8383; RESPONSE_MAX is far below.
    let [.., high, low] = (length - 192).to_be_bytes();
    out.extend_from_slice(&[high + 192, low]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request as Linux 6.1 sent it: a wrap request of 38 bytes.
    #[cfg(target_endian = "little")]
    const OBSERVED: &str = "66 00000001 2e 00000000 26000000 \
        4210 30303131323233333434353536366161 1307 ea99826984d9a985ef11cfda2c4265fa 096f";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
            .collect()
    }

    /// What the kernel would have sent.
    fn request(place: Place, body: &[u8]) -> Vec<u8> {
        let mut packet = response(place, body).unwrap();
        packet[0] = REQUEST;
        packet
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_request_of_linux_6_1_is_understood() {
        let packet = bytes(OBSERVED);
        let (place, body) = parse_request(&packet).unwrap();
        assert_eq!(
            place,
            Place {
                counter: 1,
                index: 0
            }
        );
        assert_eq!(body, &packet[14..]);
        assert_eq!(body.len(), 38);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn responses_are_laid_out_as_linux_6_1_takes_them() {
        let start = |counter, body: &[u8], len| {
            let packet = response(Place { counter, index: 0 }, body).unwrap();
            packet[..len].to_vec()
        };
        // A FEK; 256 bytes and 512 bytes wrapped, each with 4 bytes before it.
        assert_eq!(
            start(3, &[0; 22], 14),
            bytes("67 00000003 1e 00000000 16000000")
        );
        assert_eq!(
            start(1, &[0; 260], 15),
            bytes("67 00000001 c04c 00000000 04010000")
        );
        assert_eq!(
            start(1, &[0; 516], 15),
            bytes("67 00000001 c14c 00000000 04020000")
        );
    }

    #[test]
    fn the_largest_response_is_what_the_kernel_takes_and_no_byte_more() {
        let place = Place {
            counter: 1,
            index: 31,
        };
        assert_eq!(response(place, &[0; RESPONSE_MAX]).unwrap().len(), 531);
        assert_eq!(response(place, &[0; RESPONSE_MAX + 1]), None);
    }

    #[test]
    fn a_packet_cut_short_anywhere_is_refused() {
        for len in [0, 38, 260] {
            let packet = request(
                Place {
                    counter: 7,
                    index: 2,
                },
                &vec![1; len],
            );
            for end in 0..packet.len() {
                assert!(
                    parse_request(&packet[..end]).is_err(),
                    "{end} of {}",
                    packet.len()
                );
            }
        }
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        let mut packet = request(
            Place {
                counter: 7,
                index: 2,
            },
            b"body",
        );
        packet.push(0);
        assert_eq!(parse_request(&packet), Err(PacketError::Length));
    }

    #[test]
    fn a_request_that_was_given_up_is_told_from_a_damaged_one() {
        assert_eq!(
            parse_request(&bytes("66 00000007")),
            Err(PacketError::GivenUp(7))
        );
    }

    #[test]
    fn other_types_are_refused() {
        assert_eq!(
            parse_request(&bytes("64 00000000")),
            Err(PacketError::Kind(100))
        );
    }

    proptest! {
        #[test]
        fn a_request_reads_back(counter: u32, index: u32, body in prop::collection::vec(any::<u8>(), 0..=RESPONSE_MAX)) {
            let place = Place { counter, index };
            let packet = request(place, &body);
            prop_assert_eq!(parse_request(&packet), Ok((place, body.as_slice())));
        }

        #[test]
        fn no_bytes_panic(start in prop::collection::vec(any::<u8>(), 0..16), rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut packet = vec![REQUEST];
            packet.extend(start);
            packet.extend(rest);
            let _ = parse_request(&packet);
        }
    }
}
