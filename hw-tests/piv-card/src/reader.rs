//! The contacts: what vpcd, the reader of vsmartcard, says to a card, and hears.
//!
//! ```text
//! length 2 B, big-endian | body
//! ```
//!
//! A body of one byte is for the card itself: 0 power off, 1 power on, 2 reset, 4 give the ATR, which
//! alone is answered. A longer one is an APDU, answered by one. Source: vsmartcard,
//! `virtualsmartcard/src/vpcd/vpcd.c`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::linux::net::TcpStreamExt;

/// What the reader wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Power was switched on or off, or the card reset: what is volatile is gone.
    PowerCycle,
    /// The answer to reset.
    Atr,
    /// An answer to this APDU.
    Answer(Vec<u8>),
}

/// A reader with the card in it.
pub struct Reader(TcpStream);

impl Reader {
    /// By the connection to it.
    pub fn new(contacts: TcpStream) -> Self {
        Self(contacts)
    }

    /// What it wants next.
    ///
    /// # Errors
    /// When the card has been taken out.
    pub fn wanted(&mut self) -> io::Result<Wanted> {
        loop {
            let body = self.read()?;
            match body.as_slice() {
                [0..=2] => return Ok(Wanted::PowerCycle),
                [4] => return Ok(Wanted::Atr),
                // Nothing else is known, and nothing awaits an answer to it.
                [] | [_] => {}
                _ => return Ok(Wanted::Answer(body)),
            }
        }
    }

    /// Answers it.
    ///
    /// # Errors
    /// When the card has been taken out.
    pub fn answer(&mut self, body: &[u8]) -> io::Result<()> {
        let length = u16::try_from(body.len()).map_err(io::Error::other)?;
        let frame = [&length.to_be_bytes(), body].concat();
        self.0.write_all(&frame)
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 2];
        self.read_exact(&mut length)?;
        let mut body = vec![0; u16::from_be_bytes(length).into()];
        self.read_exact(&mut body)?;
        Ok(body)
    }

    /// vpcd writes length and body apart and keeps Nagle's algorithm: the body waits until the length is
    /// acknowledged, which the kernel puts off by 40 ms. The option does not stay (tcp(7)).
    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.0.set_quickack(true)?;
        self.0.read_exact(buffer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_the_reader_says_is_told_apart_and_answers_are_framed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let card = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut pcscd, _) = listener.accept().unwrap();
        let mut reader = Reader::new(card);
        pcscd
            .write_all(&[0, 1, 1, 0, 1, 4, 0, 1, 9, 0, 4, 0, 0xa4, 4, 0])
            .unwrap();
        assert_eq!(reader.wanted().unwrap(), Wanted::PowerCycle);
        assert_eq!(reader.wanted().unwrap(), Wanted::Atr);
        assert_eq!(
            reader.wanted().unwrap(),
            Wanted::Answer(vec![0, 0xa4, 4, 0])
        );
        reader.answer(&[0x90, 0]).unwrap();
        let mut answer = [0; 4];
        pcscd.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0, 2, 0x90, 0]);
        drop(pcscd);
        reader.wanted().unwrap_err();
    }
}
