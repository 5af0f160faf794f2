//! One encrypted connection: the two halves that seal and open its frames.
//!
//! ```text
//! nonce 8 B LE | Noise transport message of
//!                ( index 4 B LE | sequence 4 B LE | kind 2 B LE | flags 2 B LE | body )
//! ```
//!
//! The frame's header travels in the clear, so its meaning is repeated inside and must agree.

use std::sync::Arc;

use snow::StatelessTransportState;
use zeroize::Zeroizing;

pub use crate::handshake::{Ends, Greeting, VERSION, answer};

use crate::frame::{Flags, Frame, HEADER_LEN, Header, Kind};
use crate::noise::TAG_LEN;
use crate::window::Window;
use crate::wipe::wipe;

/// Largest body of a request, response or event: one Noise message of 65,535 bytes, less the tag
/// and what a frame repeats inside.
pub const BODY_MAX: usize = 65_535 - TAG_LEN - INNER_LEN;

const INNER_LEN: usize = 12;
const NONCE_LEN: usize = 8;

/// Both halves of a session whose handshake is done.
pub(crate) fn halves(noise: StatelessTransportState) -> (Sealer, Opener) {
    let noise = Arc::new(noise);
    let opener = Opener {
        noise: Arc::clone(&noise),
        window: Window::default(),
    };
    let sealer = Sealer {
        noise,
        next: 0,
        inner: Zeroizing::new(Vec::new()),
    };
    (sealer, opener)
}

/// What one frame says, apart from its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What for.
    pub kind: Kind,
    /// How, apart from [`Flags::SEALED`].
    pub flags: Flags,
    /// Context index of the request meant; 0 if none is.
    pub index: u32,
    /// Sequence number of the request meant; 0 if none is.
    pub sequence: u32,
}

/// The sending half.
pub struct Sealer {
    noise: Arc<StatelessTransportState>,
    next: u64,
    /// What is being sealed; empty in between.
    inner: Zeroizing<Vec<u8>>,
}

impl Sealer {
    /// Makes the frame that carries `body`, sent from netlink port `port` (0 on a unix socket).
    ///
    /// # Errors
    /// [`SessionError::TooLarge`] above [`BODY_MAX`]; [`SessionError::Exhausted`] after 2⁶⁴ − 1
    /// frames.
    pub fn seal(
        &mut self,
        subject: Subject,
        port: u32,
        body: &[u8],
    ) -> Result<Vec<u8>, SessionError> {
        if body.len() > BODY_MAX {
            return Err(SessionError::TooLarge(body.len()));
        }
        let nonce = self.next;
        // Empty, so that growing it copies no plaintext to where nobody wipes it.
        self.inner.reserve_exact(INNER_LEN + body.len());
        self.inner.extend_from_slice(&subject.index.to_le_bytes());
        self.inner
            .extend_from_slice(&subject.sequence.to_le_bytes());
        self.inner
            .extend_from_slice(&subject.kind.wire().to_le_bytes());
        self.inner
            .extend_from_slice(&subject.flags.wire().to_le_bytes());
        self.inner.extend_from_slice(body);

        let sealed_len = self.inner.len() + TAG_LEN;
        let mut frame = Vec::with_capacity(HEADER_LEN + NONCE_LEN + sealed_len);
        Header {
            kind: subject.kind,
            flags: subject.flags.with(Flags::SEALED),
            sequence: subject.sequence,
            port,
        }
        .write(NONCE_LEN + sealed_len, &mut frame);
        frame.extend_from_slice(&nonce.to_le_bytes());
        let head_len = frame.len();
        frame.resize(head_len + sealed_len, 0);
        let (_, sealed) = frame.split_at_mut(head_len);
        let written = self.noise.write_message(nonce, &self.inner, sealed);
        wipe(&mut self.inner);
        written.map_err(|_| SessionError::Exhausted)?;
        self.next = nonce.checked_add(1).ok_or(SessionError::Exhausted)?;
        Ok(frame)
    }
}

/// The receiving half.
pub struct Opener {
    noise: Arc<StatelessTransportState>,
    window: Window,
}

impl Opener {
    /// Opens a sealed frame.
    ///
    /// # Errors
    /// [`SessionError::Replayed`] for a nonce seen before or too old to know,
    /// [`SessionError::NotAuthentic`] for anything else that was not sealed at the other end for
    /// this connection. The session stays as it was.
    pub fn open(
        &mut self,
        frame: &Frame<'_>,
    ) -> Result<(Subject, Zeroizing<Vec<u8>>), SessionError> {
        let (nonce, sealed) = frame
            .body
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(SessionError::NotAuthentic)?;
        let nonce = u64::from_le_bytes(*nonce);
        if !self.window.admits(nonce) {
            return Err(SessionError::Replayed);
        }
        let plain_len = sealed
            .len()
            .checked_sub(TAG_LEN)
            .ok_or(SessionError::NotAuthentic)?;
        let mut plain = Zeroizing::new(vec![0; plain_len]);
        self.noise
            .read_message(nonce, sealed, &mut plain)
            .map_err(|_| SessionError::NotAuthentic)?;

        let subject = inner_subject(&plain).ok_or(SessionError::NotAuthentic)?;
        let outer = frame.header;
        let agrees = outer.kind == subject.kind
            && outer.flags == subject.flags.with(Flags::SEALED)
            && outer.sequence == subject.sequence;
        if !agrees {
            return Err(SessionError::NotAuthentic);
        }
        self.window.accept(nonce);
        // The bytes this leaves behind the new end are wiped with the rest: `Zeroizing` clears a
        // vector's whole capacity.
        plain.drain(..INNER_LEN);
        Ok((subject, plain))
    }
}

/// The subject repeated inside. Its kind is looked up by number among all kinds.
fn inner_subject(plain: &[u8]) -> Option<Subject> {
    let &[i0, i1, i2, i3, s0, s1, s2, s3, k0, k1, f0, f1] = plain.first_chunk::<INNER_LEN>()?;
    let number = u16::from_le_bytes([k0, k1]);
    Some(Subject {
        kind: Kind::ALL.into_iter().find(|kind| kind.wire() == number)?,
        flags: Flags::parse(u16::from_le_bytes([f0, f1]))?,
        index: u32::from_le_bytes([i0, i1, i2, i3]),
        sequence: u32::from_le_bytes([s0, s1, s2, s3]),
    })
}

/// Why a handshake or an encrypted frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer speaks another version of the protocol.
    #[error("peer speaks version {0} of the callout protocol, this end version {VERSION}")]
    Version(u16),
    /// Not a handshake between these two ends. One variant: an attacker learns nothing from it.
    #[error("handshake failed")]
    Handshake,
    /// Seen before, or too old to know.
    #[error("frame was seen before")]
    Replayed,
    /// Not sealed at the other end, for this connection, as this frame. One variant, as above.
    #[error("frame is not authentic")]
    NotAuthentic,
    /// Body above [`BODY_MAX`].
    #[error("body of {0} bytes is too large")]
    TooLarge(usize),
    /// No nonce is left.
    #[error("connection has no nonces left")]
    Exhausted,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Instance;

    const ENDS: Ends = Ends {
        responder: 1000,
        requester: 0,
        instance: Instance::from_bytes([7; 16]),
    };
    const SUBJECT: Subject = Subject {
        kind: Kind::Request,
        flags: Flags::NONE,
        index: 3,
        sequence: 9,
    };

    fn pair() -> ((Sealer, Opener), (Sealer, Opener)) {
        let (mut greeting, helo) = Greeting::start(&ENDS).unwrap();
        let (reply, sealer, opener) = answer(&ENDS, &helo).unwrap();
        greeting.hear(&reply).unwrap();
        (greeting.finish().unwrap(), (sealer, opener))
    }

    fn open(
        opener: &mut Opener,
        datagram: &[u8],
    ) -> Result<(Subject, Zeroizing<Vec<u8>>), SessionError> {
        opener.open(&Frame::parse(datagram).unwrap())
    }

    #[test]
    fn both_ends_read_each_other() {
        let ((mut from_responder, mut at_responder), (mut from_requester, mut at_requester)) =
            pair();
        let frame = from_requester.seal(SUBJECT, 0, b"question").unwrap();
        assert!(!frame.windows(8).any(|window| window == b"question"));
        let (subject, body) = open(&mut at_responder, &frame).unwrap();
        assert_eq!((subject, body.as_slice()), (SUBJECT, &b"question"[..]));
        let frame = from_responder.seal(SUBJECT, 0, b"").unwrap();
        assert_eq!(open(&mut at_requester, &frame).unwrap().1.len(), 0);
    }

    #[test]
    fn frames_open_once_and_in_any_order() {
        let ((_, mut opener), (mut sealer, _)) = pair();
        let frames: Vec<_> = (0..100u32)
            .map(|index| sealer.seal(Subject { index, ..SUBJECT }, 0, b"x").unwrap())
            .collect();
        for frame in frames.iter().rev() {
            assert!(open(&mut opener, frame).is_ok());
        }
        for frame in &frames {
            assert_eq!(open(&mut opener, frame).err(), Some(SessionError::Replayed));
        }
    }

    #[test]
    fn no_changed_octet_opens_and_a_refused_frame_changes_nothing() {
        let ((_, mut opener), (mut sealer, _)) = pair();
        let frame = sealer.seal(SUBJECT, 0, b"body").unwrap();
        // The port id (octets 12 to 15) is the kernel's to vouch for, and is checked by the carrier.
        for octet in (0..frame.len()).filter(|octet| !(12..16).contains(octet)) {
            let mut changed = frame.clone();
            changed[octet] ^= 1;
            if let Ok(changed) = Frame::parse(&changed) {
                assert!(opener.open(&changed).is_err(), "octet {octet}");
            }
        }
        assert!(open(&mut opener, &frame).is_ok());
    }

    #[test]
    fn the_largest_body_passes_and_one_more_byte_does_not() {
        let ((_, mut opener), (mut sealer, _)) = pair();
        let body = vec![1; BODY_MAX + 1];
        assert_eq!(
            sealer.seal(SUBJECT, 0, &body),
            Err(SessionError::TooLarge(BODY_MAX + 1))
        );
        let frame = sealer.seal(SUBJECT, 0, &body[1..]).unwrap();
        assert_eq!(frame.len(), crate::frame::FRAME_MAX);
        assert_eq!(open(&mut opener, &frame).unwrap().1.len(), BODY_MAX);
    }

    proptest! {
        #[test]
        fn no_sealed_body_panics(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let ((_, mut opener), _) = pair();
            let header = Header { kind: Kind::Event, flags: Flags::SEALED, sequence: 0, port: 0 };
            let frame = Frame { header, body: &body };
            prop_assert!(opener.open(&frame).is_err());
        }
    }
}
