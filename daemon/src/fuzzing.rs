//! Entry points for fuzzing parsers that are private: each takes any bytes and gives whether they parse.

use crate::prompt::assuan::{Answer, take_line};

/// What a pinentry answers: whether it comes to an end that is no refusal.
pub fn pinentry_answer(lines: &[u8]) -> bool {
    let mut data = Vec::with_capacity(2000);
    let room = data.capacity();
    for line in lines.split(|byte| *byte == b'\n') {
        let taken = take_line(line, &mut data);
        assert_eq!(data.capacity(), room, "a PIN must not be copied");
        match taken {
            Ok(Answer::Whole) => return true,
            Ok(Answer::GoesOn) => {}
            Err(_) => return false,
        }
    }
    false
}
