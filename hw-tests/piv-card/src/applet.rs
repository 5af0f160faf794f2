//! The PIV applet, from power on to power off.

use std::io;

use piv_authenticator::{Authenticator, Options};
use trussed::ClientImplementation;
use trussed::pipe::TrussedChannel;
use trussed::virt::Runner;

use crate::backends::{BACKENDS, Dispatch, Hardware};
use crate::exchange::Exchange;
use crate::memory::Memory;
use crate::reader::{Reader, Wanted};

/// T=1, and little said about itself, so that OpenSC asks for the applet and does not know the card by name.
const ATR: &[u8] = &[
    0x3b, 0x95, 0x13, 0x81, 0x01, 0x80, 0x73, 0xff, 0x01, 0x00, 0x0b,
];

/// Runs the applet until `reader` cycles the power: what is volatile, such as that a PIN was verified, is
/// then gone with it.
///
/// # Errors
/// When the card is taken out.
pub fn power_on(memory: &mut Memory, reader: &mut Reader) -> io::Result<()> {
    memory.power(|store| {
        let channel = TrussedChannel::new();
        let (requester, responder) = channel.split().expect("it is new");
        let mut runner = Runner::new();
        runner.add_endpoint(responder, "piv", BACKENDS);
        let client = ClientImplementation::<_, Dispatch>::new(requester, runner.syscall(), None);
        runner.run(Hardware::new(store), Dispatch::new(), || {
            let mut applet = Authenticator::new(client, Options::new());
            let mut exchange = Exchange::new(|command, reply| applet.respond(command, reply));
            loop {
                match reader.wanted()? {
                    Wanted::PowerCycle => return Ok(()),
                    Wanted::Atr => reader.answer(ATR)?,
                    Wanted::Answer(apdu) => reader.answer(&exchange.answer(&apdu))?,
                }
            }
        })
    })
}
