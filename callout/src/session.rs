//! One encrypted connection: the handshake that makes it, and the two halves that seal and open.
//!
//! ```text
//! HELO, first two:  version 2 B LE | Noise handshake message
//! every later frame: nonce 8 B LE | Noise transport message of
//!                    ( index 4 B LE | sequence 4 B LE | kind 2 B LE | flags 2 B LE | body )
//! ```
//!
//! The frame's header travels in the clear, so its meaning is repeated inside and must agree.

use std::sync::Arc;

use snow::{Builder, HandshakeState, StatelessTransportState};
use zeroize::Zeroizing;

use crate::Instance;
use crate::frame::{Flags, Frame, HEADER_LEN, Header, Kind};
use crate::noise::{AwsLc, PROTOCOL, TAG_LEN};
use crate::window::Window;

/// Version of the protocol; both ends must speak the same.
pub const VERSION: u16 = 1;

/// Largest body of a request, response or event: one Noise message of 65,535 bytes, less the tag
/// and what a frame repeats inside.
pub const BODY_MAX: usize = 65_535 - TAG_LEN - INNER_LEN;

const INNER_LEN: usize = 12;
const NONCE_LEN: usize = 8;

/// Largest HELO message: an X25519 key and a tag.
const HELO_MAX: usize = 64;

/// Who is at the two ends: what the handshake binds. Uids as the kernel gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Uid of the responder.
    pub responder: u32,
    /// Uid of the requester.
    pub requester: u32,
    /// The requester.
    pub instance: Instance,
}

impl Ends {
    /// `"claviger callout" 16 B | version 2 B LE | responder 4 B LE | requester 4 B LE | instance 16 B`
    fn prologue(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(42);
        bytes.extend_from_slice(b"claviger callout");
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.responder.to_le_bytes());
        bytes.extend_from_slice(&self.requester.to_le_bytes());
        bytes.extend_from_slice(self.instance.bytes());
        bytes
    }

    fn noise<'a>(&self, prologue: &'a [u8]) -> Result<Builder<'a>, SessionError> {
        let protocol = PROTOCOL.parse().map_err(|_| SessionError::Handshake)?;
        Builder::with_resolver(protocol, Box::new(AwsLc))
            .prologue(prologue)
            .map_err(|_| SessionError::Handshake)
    }
}

/// A responder's handshake between its HELO and the requester's answer.
///
/// The responder is Noise's *initiator*: it speaks first.
pub struct Greeting(Box<HandshakeState>);

impl Greeting {
    /// Starts a handshake and gives the body of the HELO to send.
    ///
    /// # Errors
    /// [`SessionError::Handshake`] if the kernel gives no random bytes.
    pub fn start(ends: &Ends) -> Result<(Self, Vec<u8>), SessionError> {
        let prologue = ends.prologue();
        let mut noise = ends
            .noise(&prologue)?
            .build_initiator()
            .map_err(|_| SessionError::Handshake)?;
        let helo = write_helo(&mut noise)?;
        Ok((Self(Box::new(noise)), helo))
    }

    /// Takes the body of the requester's answer.
    ///
    /// # Errors
    /// [`SessionError`] if it is of another version, or not made for these ends and this HELO.
    pub fn finish(mut self, answer: &[u8]) -> Result<(Sealer, Opener), SessionError> {
        read_helo(&mut self.0, answer)?;
        split(*self.0)
    }
}

/// Answers a responder's HELO: gives the body of the answer and the session it opens.
///
/// # Errors
/// [`SessionError`] if `helo` is of another version or no handshake message.
pub fn answer(ends: &Ends, helo: &[u8]) -> Result<(Vec<u8>, Sealer, Opener), SessionError> {
    let prologue = ends.prologue();
    let mut noise = ends
        .noise(&prologue)?
        .build_responder()
        .map_err(|_| SessionError::Handshake)?;
    read_helo(&mut noise, helo)?;
    let answer = write_helo(&mut noise)?;
    let (sealer, opener) = split(noise)?;
    Ok((answer, sealer, opener))
}

fn write_helo(noise: &mut HandshakeState) -> Result<Vec<u8>, SessionError> {
    let mut message = [0; HELO_MAX];
    let len = noise
        .write_message(&[], &mut message)
        .map_err(|_| SessionError::Handshake)?;
    let mut body = VERSION.to_le_bytes().to_vec();
    body.extend(message.iter().take(len));
    Ok(body)
}

fn read_helo(noise: &mut HandshakeState, body: &[u8]) -> Result<(), SessionError> {
    let (version, message) = body
        .split_first_chunk::<2>()
        .ok_or(SessionError::Handshake)?;
    match u16::from_le_bytes(*version) {
        VERSION => {}
        other => return Err(SessionError::Version(other)),
    }
    // HELO carries no payload; one that does is not ours.
    match noise.read_message(message, &mut [0; HELO_MAX]) {
        Ok(0) => Ok(()),
        Ok(_) | Err(_) => Err(SessionError::Handshake),
    }
}

fn split(noise: HandshakeState) -> Result<(Sealer, Opener), SessionError> {
    let noise = noise
        .into_stateless_transport_mode()
        .map_err(|_| SessionError::Handshake)?;
    let noise = Arc::new(noise);
    let opener = Opener {
        noise: Arc::clone(&noise),
        window: Window::default(),
    };
    Ok((Sealer { noise, next: 0 }, opener))
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
        let mut inner = Zeroizing::new(Vec::with_capacity(INNER_LEN + body.len()));
        inner.extend_from_slice(&subject.index.to_le_bytes());
        inner.extend_from_slice(&subject.sequence.to_le_bytes());
        inner.extend_from_slice(&subject.kind.wire().to_le_bytes());
        inner.extend_from_slice(&subject.flags.wire().to_le_bytes());
        inner.extend_from_slice(body);

        let sealed_len = inner.len() + TAG_LEN;
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
        self.noise
            .write_message(nonce, &inner, sealed)
            .map_err(|_| SessionError::Exhausted)?;
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
        let (greeting, helo) = Greeting::start(&ENDS).unwrap();
        let (reply, sealer, opener) = answer(&ENDS, &helo).unwrap();
        (greeting.finish(&reply).unwrap(), (sealer, opener))
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
    fn a_handshake_between_other_ends_fails() {
        let others = [
            Ends {
                responder: 1001,
                ..ENDS
            },
            Ends {
                requester: 1000,
                ..ENDS
            },
            Ends {
                instance: Instance::from_bytes([8; 16]),
                ..ENDS
            },
        ];
        for other in others {
            let (greeting, helo) = Greeting::start(&ENDS).unwrap();
            let (reply, ..) = answer(&other, &helo).unwrap();
            assert_eq!(
                greeting.finish(&reply).err(),
                Some(SessionError::Handshake),
                "{other:?}"
            );
        }
    }

    #[test]
    fn another_version_is_told_from_an_attack() {
        let (greeting, mut helo) = Greeting::start(&ENDS).unwrap();
        helo[0] = 2;
        assert_eq!(answer(&ENDS, &helo).err(), Some(SessionError::Version(2)));
        assert_eq!(greeting.finish(&helo).err(), Some(SessionError::Version(2)));
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
        fn no_helo_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = answer(&ENDS, &bytes);
            let (greeting, _) = Greeting::start(&ENDS).unwrap();
            let _ = greeting.finish(&bytes);
        }

        #[test]
        fn no_sealed_body_panics(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let ((_, mut opener), _) = pair();
            let header = Header { kind: Kind::Event, flags: Flags::SEALED, sequence: 0, port: 0 };
            let frame = Frame { header, body: &body };
            prop_assert!(opener.open(&frame).is_err());
        }
    }
}
