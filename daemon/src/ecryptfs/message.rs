//! What the kernel's eCryptfs asks for, and what it is told: Tags 64 to 67.
//!
//! ```text
//! Tag 64, unwrap  := 40 | length | key sig | length | wrapped FEK      Tag 65 := 41 | status 0 | length | coded FEK
//! Tag 66, wrap    := 42 | length | key sig | length | coded FEK        Tag 67 := 43 | status 0 | length | wrapped FEK
//! ```
//!
//! Key sigs are 16 hexadecimal digits. Lengths are those of RFC 2440 section 4.2.2: below 192 one byte, to
//! 8383 two. Source: `fs/ecryptfs/keystore.c`, Linux 6.1. Refusals are the carrier's: see
//! [`KernelCall`](claviger_callout::miscdev::KernelCall).

use std::fmt;

use claviger_vault::ecryptfs::KeySig;
use zeroize::Zeroizing;

const TAG_64: u8 = 0x40;
const TAG_65: u8 = 0x41;
const TAG_66: u8 = 0x42;
const TAG_67: u8 = 0x43;

/// Largest wrapped FEK that the kernel takes: that of RSA-4096.
pub const WRAPPED_MAX: usize = 512;

/// A FEK as RFC 2440 section 5.1 codes it: cipher code 1 B | FEK | sum of its bytes 2 B big-endian.
///
/// Wiped on drop; `Debug` prints the length only.
pub struct CodedFek(Zeroizing<Vec<u8>>);

impl CodedFek {
    /// Takes it as it is: code and sum are for the kernel to check. `None` if it has no room for a FEK, or
    /// for more than the kernel takes (64 bytes).
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        let around = 1 + 2;
        (around + 1..=around + 64)
            .contains(&bytes.len())
            .then_some(Self(bytes))
    }

    /// Its bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for CodedFek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CodedFek({} bytes)", self.0.len())
    }
}

/// What the kernel asks.
#[derive(Debug)]
pub enum Question {
    /// The FEK of a file that is being opened.
    Unwrap {
        /// To which key it was wrapped.
        sig: KeySig,
        /// As the lower file has it.
        wrapped: Vec<u8>,
    },
    /// A new file's FEK is to be wrapped.
    Wrap {
        /// To which key.
        sig: KeySig,
        /// The FEK.
        fek: CodedFek,
    },
}

/// Not a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It ends before its fields do, or goes on after them.
    #[error("message has the wrong length")]
    Length,
    /// Of another tag.
    #[error("message of tag {0}")]
    Tag(u8),
    /// Its key sig is not 16 hexadecimal digits.
    #[error("message without a key sig")]
    KeySig,
}

impl Question {
    /// Parses one.
    ///
    /// # Errors
    /// [`MessageError`]; no input panics.
    pub fn parse(message: &[u8]) -> Result<Self, MessageError> {
        let (&tag, rest) = message.split_first().ok_or(MessageError::Length)?;
        if tag != TAG_64 && tag != TAG_66 {
            return Err(MessageError::Tag(tag));
        }
        let (sig, rest) = field(rest)?;
        let digits = sig.try_into().map_err(|_| MessageError::KeySig)?;
        let sig = KeySig::from_hex(digits).ok_or(MessageError::KeySig)?;
        let (content, rest) = field(rest)?;
        if !rest.is_empty() {
            return Err(MessageError::Length);
        }
        if tag == TAG_64 {
            let wrapped = content.to_vec();
            return Ok(Self::Unwrap { sig, wrapped });
        }
        let fek = CodedFek::new(Zeroizing::new(content.to_vec()));
        let fek = fek.ok_or(MessageError::Length)?;
        Ok(Self::Wrap { sig, fek })
    }

    /// To which key.
    pub fn sig(&self) -> KeySig {
        let (Self::Unwrap { sig, .. } | Self::Wrap { sig, .. }) = self;
        *sig
    }
}

/// Tag 65: answers [`Question::Unwrap`].
pub fn unwrapped(fek: &CodedFek) -> Zeroizing<Vec<u8>> {
    answer(TAG_65, fek.expose())
}

/// Tag 67: answers [`Question::Wrap`]. `None` above [`WRAPPED_MAX`].
pub fn wrapped(fek: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    (fek.len() <= WRAPPED_MAX).then(|| answer(TAG_67, fek))
}

/// Of a content that [`WRAPPED_MAX`] bounds.
fn answer(tag: u8, content: &[u8]) -> Zeroizing<Vec<u8>> {
    const OK: u8 = 0;
    // Sized first: a buffer that grew would leave copies of the FEK behind.
    let mut message = Zeroizing::new(Vec::with_capacity(4 + content.len()));
    message.extend_from_slice(&[tag, OK]);
    match content.len().checked_sub(192) {
        None => message.extend(u8::try_from(content.len())),
        Some(above) => {
            let [.., high, low] = above.to_be_bytes();
            message.extend_from_slice(&[high + 192, low]);
        }
    }
    message.extend_from_slice(content);
    message
}

fn field(bytes: &[u8]) -> Result<(&[u8], &[u8]), MessageError> {
    let (length, rest) = match *bytes {
        [first @ ..192, ref rest @ ..] => (first.into(), rest),
        [first @ 192..224, second, ref rest @ ..] => (
            (usize::from(first - 192) << 8) + usize::from(second) + 192,
            rest,
        ),
        _ => return Err(MessageError::Length),
    };
    rest.split_at_checked(length).ok_or(MessageError::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIG: &[u8] = b"00112233445566aa";

    fn question(tag: u8, content: &[u8]) -> Vec<u8> {
        // An answer has its status where a question has its key sig.
        let answer = answer(tag, content);
        [&[tag, 16], SIG, &answer[2..]].concat()
    }

    #[test]
    fn a_wrap_request_of_linux_6_1_is_understood() {
        let coded = data_encoding::HEXLOWER
            .decode(b"07ea99826984d9a985ef11cfda2c4265fa096f")
            .unwrap();
        let message = [&[0x42, 0x10], SIG, &[0x13], &coded].concat();
        let Ok(Question::Wrap { sig, fek }) = Question::parse(&message) else {
            panic!("not a wrap request");
        };
        assert_eq!(sig.to_string().as_bytes(), SIG);
        assert_eq!(fek.expose(), coded);
        assert_eq!(unwrapped(&fek)[..4], [0x41, 0, 0x13, 7]);
    }

    #[test]
    fn an_unwrap_request_of_linux_6_1_is_understood() {
        let message = [&[0x40, 0x10], SIG, &[0xc0, 0x40], &[7; 256]].concat();
        let Ok(Question::Unwrap { wrapped, .. }) = Question::parse(&message) else {
            panic!("not an unwrap request");
        };
        assert_eq!(wrapped, [7; 256]);
    }

    #[test]
    fn answers_are_laid_out_as_linux_6_1_takes_them() {
        assert_eq!(wrapped(&[7; 256]).unwrap()[..5], [0x43, 0, 0xc0, 0x40, 7]);
        assert_eq!(wrapped(&[7; 512]).unwrap()[..5], [0x43, 0, 0xc1, 0x40, 7]);
        assert!(wrapped(&[7; 513]).is_none());
    }

    #[test]
    fn a_message_cut_short_or_drawn_out_is_refused() {
        for (tag, len) in [(TAG_64, 256), (TAG_64, 512), (TAG_66, 19)] {
            let mut message = question(tag, &vec![1; len]);
            for end in 0..message.len() {
                assert!(
                    Question::parse(&message[..end]).is_err(),
                    "{end} of {}",
                    message.len()
                );
            }
            message.push(0);
            assert_eq!(Question::parse(&message).unwrap_err(), MessageError::Length);
        }
    }

    #[test]
    fn a_fek_of_no_possible_size_is_refused() {
        for len in [0, 3, 68] {
            let message = question(TAG_66, &vec![1; len]);
            assert_eq!(Question::parse(&message).unwrap_err(), MessageError::Length);
        }
    }

    #[test]
    fn other_tags_are_refused() {
        assert_eq!(
            Question::parse(&question(TAG_65, b"x")).unwrap_err(),
            MessageError::Tag(0x41)
        );
    }

    #[test]
    fn no_byte_changed_in_a_message_panics() {
        let message = question(TAG_64, &[1; 300]);
        for place in 0..24 {
            for byte in 0..=255 {
                let mut message = message.clone();
                message[place] = byte;
                let _ = Question::parse(&message);
            }
        }
    }
}
