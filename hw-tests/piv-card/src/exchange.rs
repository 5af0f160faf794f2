//! Between APDUs and an applet: commands that come in several, answers that leave in several.
//!
//! Source: ISO/IEC 7816-4, command chaining and GET RESPONSE; NIST SP 800-73-4 part 2, section 3.

use heapless::VecView;
use iso7816::Status;
use iso7816::command::{Command, CommandView, Instruction};

/// The longest command: a certificate of 2 kB, in a container, in tags.
const COMMAND: usize = 4096;
/// The longest answer, for the same reason.
const ANSWER: usize = 4096;
/// What an APDU without an extended length carries.
const SHORT: usize = 256;

/// The registered application provider id of NIST.
const RID: &[u8] = &[0xa0, 0x00, 0x00, 0x03, 0x08];
/// SELECT of the whole application id of PIV.
const SELECT: &[u8] = &[
    0x00, 0xa4, 0x04, 0x00, 0x0b, 0xa0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00,
    0x00,
];

/// An applet that is spoken to in APDUs.
pub struct Exchange<A> {
    applet: A,
    /// A command whose last part has not come.
    begun: Option<Command<COMMAND>>,
    /// The end of an answer that has not been fetched.
    rest: Vec<u8>,
}

impl<A> Exchange<A>
where
    A: FnMut(CommandView<'_>, &mut VecView<u8>) -> Result<(), Status>,
{
    /// With nothing in flight.
    pub fn new(applet: A) -> Self {
        Self {
            applet,
            begun: None,
            rest: Vec::new(),
        }
    }

    /// The answer to one APDU.
    pub fn answer(&mut self, apdu: &[u8]) -> Vec<u8> {
        let Ok(part) = CommandView::try_from(apdu) else {
            return status(Status::WrongLength);
        };
        if part.instruction() == Instruction::GetResponse {
            return self.next_of_rest(part);
        }
        self.rest.clear();
        let command = match self.begun.take() {
            None => part.to_owned().ok(),
            Some(mut begun) => {
                let added = begun.extend_from_command_view(part);
                added.ok().map(|()| begun)
            }
        };
        let Some(command) = command else {
            return status(Status::NotEnoughMemory);
        };
        if part.class().chain().not_the_last() {
            self.begun = Some(command);
            return status(Status::Success);
        }
        self.run(command.as_view())
    }

    fn run(&mut self, command: CommandView<'_>) -> Vec<u8> {
        // ykcs11 and yubico-piv-tool select by the RID alone, which YubiKeys take and this applet does not.
        let by_rid = command.instruction() == Instruction::Select && command.data() == RID;
        let whole = CommandView::try_from(SELECT).expect("a well-formed APDU");
        let mut reply = heapless::Vec::<u8, ANSWER>::new();
        match (self.applet)(if by_rid { whole } else { command }, &mut reply) {
            Ok(()) => {
                self.rest = reply.to_vec();
                self.next_of_rest(command)
            }
            Err(error) => status(error),
        }
    }

    /// As much of the answer as `command` takes, and whether there is more.
    fn next_of_rest(&mut self, command: CommandView<'_>) -> Vec<u8> {
        // Drivers leave the expected length out where they mean that of a short APDU.
        let expected = match command.expected() {
            0 => SHORT,
            expected => expected,
        };
        let later = self.rest.split_off(expected.min(self.rest.len()));
        let mut answer = std::mem::replace(&mut self.rest, later);
        answer.extend(status(match self.rest.len() {
            0 => Status::Success,
            left => Status::MoreAvailable(u8::try_from(left).unwrap_or(0)),
        }));
        answer
    }
}

fn status(status: Status) -> Vec<u8> {
    <[u8; 2]>::from(status).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An applet that says what it was told, 16 times.
    fn echo() -> Exchange<impl FnMut(CommandView<'_>, &mut VecView<u8>) -> Result<(), Status>> {
        Exchange::new(|command: CommandView<'_>, reply: &mut VecView<u8>| {
            for _ in 0..16 {
                let full = |_| Status::NotEnoughMemory;
                reply.extend_from_slice(command.data()).map_err(full)?;
            }
            Ok(())
        })
    }

    #[test]
    fn a_command_in_parts_is_one_and_its_answer_is_fetched_in_parts() {
        let mut card = echo();
        let head = [&[0x10, 0xcb, 0x3f, 0xff, 20], [b'a'; 20].as_slice()].concat();
        assert_eq!(card.answer(&head), [0x90, 0x00]);
        let tail = [0x00, 0xcb, 0x3f, 0xff, 1, b'b', 0x00];
        let first = card.answer(&tail);
        // 16 times 21 bytes are 256 and 80.
        assert_eq!(first.len(), 258);
        assert!(first.ends_with(&[0x61, 80]));
        assert_eq!(first.first_chunk::<21>(), Some(b"aaaaaaaaaaaaaaaaaaaab"));
        let rest = card.answer(&[0x00, 0xc0, 0x00, 0x00, 80]);
        assert_eq!(rest.len(), 82);
        assert!(rest.ends_with(&[b'b', 0x90, 0x00]));
    }

    #[test]
    fn an_extended_length_gets_the_answer_at_once() {
        let long = [
            &[0x00, 0xcb, 0x3f, 0xff, 0, 0, 100],
            [b'a'; 100].as_slice(),
            &[0, 0],
        ]
        .concat();
        assert_eq!(echo().answer(&long).len(), 1602);
    }

    #[test]
    fn the_provider_alone_selects_the_applet() {
        let mut aid = Vec::new();
        let mut card = Exchange::new(|command: CommandView<'_>, _: &mut VecView<u8>| {
            aid = command.data().to_vec();
            Ok(())
        });
        card.answer(&[&[0x00, 0xa4, 0x04, 0x00, 5], RID].concat());
        assert_eq!(aid.len(), 11);
    }

    #[test]
    fn what_is_no_command_or_too_long_is_refused() {
        let mut card = echo();
        assert_eq!(card.answer(&[0x00, 0xa4]), [0x67, 0x00]);
        let part = [&[0x10, 0xdb, 0x3f, 0xff, 255], [0; 255].as_slice()].concat();
        let refused = (0..20)
            .map(|_| card.answer(&part))
            .find(|it| it != &[0x90, 0x00]);
        assert_eq!(refused, Some(vec![0x6a, 0x84]));
    }
}
