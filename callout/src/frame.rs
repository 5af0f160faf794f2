//! The frame every carrier moves: netlink's own header, then a body.
//!
//! ```text
//! length 4 B | kind 2 B | flags 2 B | sequence 4 B | port id 4 B | body
//! ```
//!
//! Host byte order, as `struct nlmsghdr` is (both ends are on one machine). One frame a datagram:
//! the length counts header and body and equals the datagram's. The codec is our own rather than
//! neli's because this parser reads what an enemy wrote: see `docs/decisions/020`.

/// Bytes before the body.
pub const HEADER_LEN: usize = 16;

/// Largest body of a frame: nonce and one Noise message.
pub const FRAME_BODY_MAX: usize = 8 + 65_535;

/// Largest frame. Well below what a socket takes with the default `wmem_max` (212,992 bytes).
pub const FRAME_MAX: usize = HEADER_LEN + FRAME_BODY_MAX;

/// What a frame is for. Numbers start where netlink leaves off (`NLMSG_MIN_TYPE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Handshake: responder greets, requester answers, responder confirms.
    Helo,
    /// Either end leaves, or a requester dismisses a responder that was replaced.
    Quit,
    /// Requester asks.
    Request,
    /// Responder answers one request.
    Response,
    /// Requester no longer wants an answer.
    Cancel,
    /// Responder tells what a request waits for.
    Pending,
    /// Responder tells something nobody asked for.
    Event,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Helo,
        Self::Quit,
        Self::Request,
        Self::Response,
        Self::Cancel,
        Self::Pending,
        Self::Event,
    ];

    /// The number in the frame.
    pub fn wire(self) -> u16 {
        match self {
            Self::Helo => 0x10,
            Self::Quit => 0x11,
            Self::Request => 0x12,
            Self::Response => 0x13,
            Self::Cancel => 0x14,
            Self::Pending => 0x15,
            Self::Event => 0x16,
        }
    }

    fn parse(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.wire() == number)
    }
}

/// Bits that qualify a [`Kind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// The body is encrypted; set on every frame but the first two HELOs.
    pub const SEALED: Self = Self(1);
    /// HELO: the requester's answer.
    pub const ANSWER: Self = Self(2);
    /// RESPONSE: the responder took the request and gives no answer.
    pub const UNANSWERED: Self = Self(4);
    /// QUIT: another responder of this uid has taken over; do not come back.
    pub const REPLACED: Self = Self(8);

    const KNOWN: u16 = 0x000f;

    /// The bits in the frame.
    pub fn wire(self) -> u16 {
        self.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn parse(bits: u16) -> Option<Self> {
        (bits & !Self::KNOWN == 0).then_some(Self(bits))
    }
}

/// All of a frame but its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What for.
    pub kind: Kind,
    /// How.
    pub flags: Flags,
    /// Which request; 0 where no request is meant.
    pub sequence: u32,
    /// The sending socket's netlink port id; 0 on a unix socket.
    pub port: u32,
}

impl Header {
    /// Appends the header of a frame with `body_len` bytes of body.
    pub fn write(&self, body_len: usize, out: &mut Vec<u8>) {
        let length =
            u32::try_from(HEADER_LEN + body_len).expect("bodies are capped far below 4 GiB");
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.wire().to_ne_bytes());
        out.extend_from_slice(&self.flags.wire().to_ne_bytes());
        out.extend_from_slice(&self.sequence.to_ne_bytes());
        out.extend_from_slice(&self.port.to_ne_bytes());
    }

    /// The whole frame.
    pub fn datagram(&self, body: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(HEADER_LEN + body.len());
        self.write(body.len(), &mut datagram);
        datagram.extend_from_slice(body);
        datagram
    }
}

/// A frame as it came off a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its body, for the most part still encrypted.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Parses one datagram.
    ///
    /// # Errors
    /// [`FrameError`]; no input panics.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, FrameError> {
        let (header, body) = datagram
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(FrameError::Truncated)?;
        let &[
            l0,
            l1,
            l2,
            l3,
            k0,
            k1,
            f0,
            f1,
            s0,
            s1,
            s2,
            s3,
            p0,
            p1,
            p2,
            p3,
        ] = header;
        if u32::from_ne_bytes([l0, l1, l2, l3]) as usize != datagram.len() {
            return Err(FrameError::Length);
        }
        if body.len() > FRAME_BODY_MAX {
            return Err(FrameError::Oversize);
        }
        let kind = u16::from_ne_bytes([k0, k1]);
        let flags = u16::from_ne_bytes([f0, f1]);
        let header = Header {
            kind: Kind::parse(kind).ok_or(FrameError::Kind(kind))?,
            flags: Flags::parse(flags).ok_or(FrameError::Flags(flags))?,
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
        };
        Ok(Self { header, body })
    }
}

/// Why a datagram is not a frame. The receiver drops it and stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than a header.
    #[error("datagram is shorter than a header")]
    Truncated,
    /// The header's length is not the datagram's.
    #[error("length in the header is not the datagram's")]
    Length,
    /// Body above [`FRAME_BODY_MAX`].
    #[error("body is too large")]
    Oversize,
    /// Unknown kind.
    #[error("unknown kind {0:#06x}")]
    Kind(u16),
    /// Unknown flag.
    #[error("unknown flags {0:#06x}")]
    Flags(u16),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: Kind, flags: u16, sequence: u32, port: u32, body: &[u8]) -> Vec<u8> {
        let flags = Flags::parse(flags).unwrap();
        Header {
            kind,
            flags,
            sequence,
            port,
        }
        .datagram(body)
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_parsed(
            kind in 0usize..7, flags in 0u16..16, sequence: u32, port: u32,
            body in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let datagram = frame(Kind::ALL[kind], flags, sequence, port, &body);
            let parsed = Frame::parse(&datagram).unwrap();
            prop_assert_eq!(parsed.header.kind, Kind::ALL[kind]);
            prop_assert_eq!(parsed.header.flags.wire(), flags);
            prop_assert_eq!(parsed.header.sequence, sequence);
            prop_assert_eq!(parsed.header.port, port);
            prop_assert_eq!(parsed.body, body.as_slice());
        }

        #[test]
        fn no_datagram_panics_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Frame::parse(&bytes);
        }

        #[test]
        fn no_frame_survives_a_cut_or_an_added_byte(
            body in proptest::collection::vec(any::<u8>(), 0..32), cut in 0usize..48,
        ) {
            let mut datagram = frame(Kind::Request, 1, 7, 0, &body);
            prop_assume!(cut < datagram.len());
            prop_assert!(Frame::parse(&datagram[..cut]).is_err());
            datagram.push(0);
            prop_assert_eq!(Frame::parse(&datagram), Err(FrameError::Length));
        }
    }

    #[test]
    fn unknown_kinds_and_flags_are_refused() {
        let mut datagram = frame(Kind::Event, 1, 0, 0, b"");
        datagram[4..6].copy_from_slice(&0x17u16.to_ne_bytes());
        assert_eq!(Frame::parse(&datagram), Err(FrameError::Kind(0x17)));
        datagram[4..6].copy_from_slice(&0x16u16.to_ne_bytes());
        datagram[6..8].copy_from_slice(&0x10u16.to_ne_bytes());
        assert_eq!(Frame::parse(&datagram), Err(FrameError::Flags(0x10)));
    }

    #[test]
    fn a_body_above_the_cap_is_refused() {
        let body = vec![0; FRAME_BODY_MAX + 1];
        let datagram = frame(Kind::Request, 1, 1, 0, &body);
        assert_eq!(Frame::parse(&datagram), Err(FrameError::Oversize));
        let datagram = frame(Kind::Request, 1, 1, 0, &body[..FRAME_BODY_MAX]);
        assert_eq!(datagram.len(), FRAME_MAX);
        assert!(Frame::parse(&datagram).is_ok());
    }

    /// The header is netlink's: a netlink library reads and writes the same octets.
    #[test]
    fn neli_reads_and_writes_the_same_octets() {
        use std::io::Cursor;

        use neli::consts::nl::NlmF;
        use neli::nl::{NlPayload, NlmsghdrBuilder};
        use neli::types::Buffer;
        use neli::{FromBytes, ToBytes};

        let ours = frame(Kind::Request, 1, 0x0102_0304, 77, b"four");
        let read = neli::nl::Nlmsghdr::<u16, Buffer>::from_bytes(&mut Cursor::new(&ours)).unwrap();
        assert_eq!(*read.nl_type(), Kind::Request.wire());
        assert_eq!((*read.nl_seq(), *read.nl_pid()), (0x0102_0304, 77));

        let theirs = NlmsghdrBuilder::default()
            .nl_type(Kind::Request.wire())
            .nl_flags(NlmF::from_bits_truncate(1))
            .nl_seq(0x0102_0304)
            .nl_pid(77)
            .nl_payload(NlPayload::Payload(Buffer::from(&b"four"[..])))
            .build()
            .unwrap();
        let mut written = Cursor::new(Vec::new());
        theirs.to_bytes(&mut written).unwrap();
        assert_eq!(written.into_inner(), ours);
    }
}
