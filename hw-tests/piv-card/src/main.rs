//! A PIV smartcard without hardware: the applet of the Nitrokey 3, in the virtual reader of vsmartcard.
//!
//! ```text
//! piv-card ADDRESS        where the reader listens, such as 127.0.0.1:35963
//! ```
//!
//! Lines on standard input are what a hand does: `insert` and `remove`. The end of input is the end of
//! the card: what it holds is in memory only.

use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::{env, io, thread};

use crate::memory::Memory;
use crate::reader::Reader;

mod applet;
mod backends;
mod exchange;
mod memory;
mod reader;

fn main() -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: piv-card ADDRESS");
    let address = env::args().nth(1).ok_or_else(usage)?;
    let (insert, insertions) = channel();
    thread::spawn(move || card(&insertions));
    let mut inserted: Option<TcpStream> = None;
    for line in io::stdin().lines() {
        match line?.as_str() {
            "insert" => {
                let contacts = TcpStream::connect(&address)?;
                inserted = Some(contacts.try_clone()?);
                insert
                    .send(contacts)
                    .map_err(|_| io::Error::other("the card is broken"))?;
            }
            "remove" => {
                if let Some(contacts) = inserted.take() {
                    contacts.shutdown(Shutdown::Both)?;
                }
            }
            other => eprintln!("piv-card: neither insert nor remove: {other}"),
        }
    }
    Ok(())
}

/// The card, from one insertion to the next.
fn card(insertions: &Receiver<TcpStream>) {
    let mut memory = Memory::blank();
    for contacts in insertions {
        let mut reader = Reader::new(contacts);
        while applet::power_on(&mut memory, &mut reader).is_ok() {}
    }
}
