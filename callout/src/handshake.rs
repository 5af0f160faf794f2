//! The handshake that opens an encrypted connection.
//!
//! ```text
//! HELO, first two: version 2 B LE | Noise handshake message
//! ```

use snow::{Builder, HandshakeState};

use crate::Instance;
use crate::noise::{AwsLc, PROTOCOL};
use crate::session::{self, Opener, Sealer, SessionError};

/// Version of the protocol; both ends must speak the same.
pub const VERSION: u16 = 1;

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
    pub(crate) fn prologue(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(42);
        bytes.extend_from_slice(b"claviger callout");
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.responder.to_le_bytes());
        bytes.extend_from_slice(&self.requester.to_le_bytes());
        bytes.extend_from_slice(self.instance.bytes());
        bytes
    }

    pub(crate) fn noise<'a>(&self, prologue: &'a [u8]) -> Result<Builder<'a>, SessionError> {
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

    /// Takes the body of an answer. One that is refused changes nothing: the true one may still come.
    ///
    /// # Errors
    /// [`SessionError`] if it is of another version, or not made for these ends and this HELO.
    pub fn hear(&mut self, answer: &[u8]) -> Result<(), SessionError> {
        read_helo(&mut self.0, answer)
    }

    /// Opens the session that an answer completed.
    ///
    /// # Errors
    /// [`SessionError::Handshake`] if none was heard.
    pub fn finish(self) -> Result<(Sealer, Opener), SessionError> {
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
    Ok(session::halves(noise))
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
            let (mut greeting, helo) = Greeting::start(&ENDS).unwrap();
            let (reply, ..) = answer(&other, &helo).unwrap();
            assert_eq!(
                greeting.hear(&reply),
                Err(SessionError::Handshake),
                "{other:?}"
            );
            assert_eq!(greeting.finish().err(), Some(SessionError::Handshake));
        }
    }

    #[test]
    fn another_version_is_told_from_an_attack() {
        let (mut greeting, mut helo) = Greeting::start(&ENDS).unwrap();
        helo[0] = 2;
        assert_eq!(answer(&ENDS, &helo).err(), Some(SessionError::Version(2)));
        assert_eq!(greeting.hear(&helo), Err(SessionError::Version(2)));
    }

    proptest! {
        #[test]
        fn no_helo_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = answer(&ENDS, &bytes);
            let (mut greeting, _) = Greeting::start(&ENDS).unwrap();
            let _ = greeting.hear(&bytes);
        }
    }
}
