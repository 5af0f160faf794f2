//! A CLI at the other end of a control connection, which asks its person for us, or reads a descriptor.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_protocol::control::{
    Answers, Conversation, ConversationError, FromDaemon, Prompt, Reply, ToDaemon,
};
use claviger_protocol::{Failure, Secret};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use zeroize::Zeroizing;

use super::{Question, nobody};
use crate::turns::Turns;
use crate::wait::Wait;

/// How long a message that has begun may take to arrive, or one of ours to be taken.
const MESSAGE_TIME: Duration = Duration::from_secs(5);

/// The CLI.
#[derive(Debug)]
pub struct Terminal {
    /// One question at a time for one pair of eyes.
    turn: Turns<()>,
    from: Answers,
    incoming: Mutex<Incoming>,
    // A second handle on the same socket: a notice must not wait for an answer.
    outgoing: Mutex<Conversation>,
}

#[derive(Debug)]
struct Incoming {
    conversation: Conversation,
    /// Prompts that were given up on, and whose answers are not here yet: they come first.
    abandoned: usize,
}

impl Terminal {
    /// Takes over a conversation whose command was read, and says where answers come `from`.
    ///
    /// # Errors
    /// If the socket cannot be had twice.
    pub fn new(conversation: Conversation, from: Answers) -> Result<Self, ConversationError> {
        let stream = conversation.stream();
        stream.set_read_timeout(Some(MESSAGE_TIME))?;
        stream.set_write_timeout(Some(MESSAGE_TIME))?;
        let outgoing = Conversation::new(stream.try_clone()?)?;
        Ok(Self {
            turn: Turns::default(),
            from,
            incoming: Mutex::new(Incoming {
                conversation,
                abandoned: 0,
            }),
            outgoing: Mutex::new(outgoing),
        })
    }

    /// Where answers come from.
    pub fn answers(&self) -> Answers {
        self.from
    }

    /// Asks the person there.
    ///
    /// # Errors
    /// [`Failure`]: nobody there, declined, too late; cancelled, also by a CLI that goes away.
    pub fn ask(&self, question: &Question, wait: &Wait) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let _turn = self.turn.take((), &question.subject, wait)?;
        let mut incoming = lock(&self.incoming);
        let prompt = FromDaemon::Prompt(Prompt {
            kind: question.kind,
            text: question.text.clone(),
        });
        self.send(&prompt).map_err(|error| broken(&error))?;
        let before = incoming.abandoned;
        // This one counts as given up on, until its answer is here.
        incoming.abandoned += 1;
        let answer = incoming.after(before, question, wait);
        // Given up on: off the screen with it.
        if incoming.abandoned > 0 {
            self.withdraw();
        }
        answer
    }

    /// Takes the question off the person's screen.
    fn withdraw(&self) {
        if let Err(error) = self.send(&FromDaemon::Withdrawn) {
            tracing::debug!(%error, "CLI is gone");
        }
    }

    /// Tells the person something.
    pub fn tell(&self, text: &str) {
        if let Err(error) = self.send(&FromDaemon::Notice(text.into())) {
            tracing::debug!(%error, "notice not delivered");
        }
    }

    /// Says that questions come here from now on.
    pub fn attached(&self) {
        if let Err(error) = self.send(&FromDaemon::Attached) {
            tracing::debug!(%error, "attached CLI is gone");
        }
    }

    /// Ends the conversation with its result.
    pub fn done(&self, result: Result<Reply, Failure>) {
        if let Err(error) = self.send(&FromDaemon::Done(result)) {
            tracing::debug!(%error, "reply not delivered");
        }
    }

    /// Waits until the CLI has gone.
    ///
    /// # Errors
    /// If waiting fails.
    pub fn wait_closed(&self) -> io::Result<()> {
        let stream = lock(&self.outgoing).stream().try_clone()?;
        let hang_up = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Only the hang-up: what arrives is for whoever asked.
        hang_up.add(&stream, EpollEvent::new(EpollFlags::EPOLLRDHUP, 0))?;
        let mut events = [EpollEvent::empty()];
        loop {
            match hang_up.wait(&mut events, EpollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn send(&self, message: &FromDaemon) -> Result<(), ConversationError> {
        lock(&self.outgoing).send(message)
    }
}

impl Incoming {
    /// The answer that comes after those to `before` earlier questions.
    fn after(
        &mut self,
        before: usize,
        question: &Question,
        wait: &Wait,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        for _ in 0..before {
            self.next(question, wait)?;
        }
        match self.next(question, wait)? {
            Answer::Given(answer) => Ok(Zeroizing::new(answer.expose().to_vec())),
            Answer::Declined => Err(Failure::Declined),
            Answer::Nobody => Err(nobody(question)),
        }
    }

    /// The next answer.
    fn next(&mut self, question: &Question, wait: &Wait) -> Result<Answer, Failure> {
        self.wait_readable(question, wait)?;
        let answer = match self
            .conversation
            .receive()
            .map_err(|error| broken(&error))?
        {
            ToDaemon::Answer(Some(answer)) => Answer::Given(answer),
            ToDaemon::Answer(None) => Answer::Declined,
            ToDaemon::Nobody => Answer::Nobody,
            ToDaemon::Command { .. } | ToDaemon::Stop => {
                return Err(Failure::Usage("a second command on one connection".into()));
            }
        };
        self.abandoned -= 1;
        Ok(answer)
    }

    fn wait_readable(&self, question: &Question, wait: &Wait) -> Result<(), Failure> {
        loop {
            wait.check(&question.subject)?;
            let stretch = PollTimeout::try_from(wait.stretch()).unwrap_or(PollTimeout::ZERO);
            let mut polled = [PollFd::new(
                self.conversation.stream().as_fd(),
                PollFlags::POLLIN,
            )];
            match poll(&mut polled, stretch) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(broken(&io::Error::from(errno).into())),
            }
        }
    }
}

/// What a CLI says to one prompt.
enum Answer {
    Given(Secret),
    Declined,
    Nobody,
}

/// A CLI that goes away, or no longer speaks as agreed, has called off what it asked for.
fn broken(error: &ConversationError) -> Failure {
    tracing::debug!(%error, "the CLI that was asked is gone");
    Failure::Cancelled
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Instant;

    use claviger_protocol::control::PromptKind;

    use super::*;

    fn pair() -> (Terminal, Conversation) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let terminal = Terminal::new(Conversation::new(ours).unwrap(), Answers::Terminal).unwrap();
        (terminal, Conversation::new(theirs).unwrap())
    }

    fn question(text: &str) -> Question {
        Question {
            kind: PromptKind::Pin,
            subject: "PIN of card".into(),
            text: text.into(),
        }
    }

    fn prompt_text(cli: &mut Conversation) -> String {
        match cli.receive().unwrap() {
            FromDaemon::Prompt(prompt) => prompt.text,
            other => panic!("{other:?}"),
        }
    }

    fn is_withdrawn(cli: &mut Conversation) {
        let message = cli.receive().unwrap();
        assert!(matches!(message, FromDaemon::Withdrawn), "{message:?}");
    }

    fn answer(cli: &mut Conversation, text: &str) {
        let secret = Secret::new(text.as_bytes().to_vec());
        cli.send(&ToDaemon::Answer(Some(secret))).unwrap();
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_taken_for_that_of_the_next_question() {
        let (terminal, mut cli) = pair();
        let no_time = Wait::at_most(Duration::ZERO);
        let late = terminal.ask(&question("first"), &no_time);
        assert!(matches!(late, Err(Failure::TimedOut { .. })), "{late:?}");
        thread::scope(|scope| {
            let second = scope.spawn(|| {
                terminal.ask(&question("second"), &Wait::at_most(Duration::from_secs(20)))
            });
            assert_eq!(prompt_text(&mut cli), "first");
            is_withdrawn(&mut cli);
            answer(&mut cli, "for the first");
            assert_eq!(prompt_text(&mut cli), "second");
            answer(&mut cli, "for the second");
            assert_eq!(
                second.join().unwrap().unwrap().as_slice(),
                b"for the second"
            );
        });
    }

    #[test]
    fn a_question_that_is_called_off_ends_at_once_and_is_withdrawn() {
        let (terminal, mut cli) = pair();
        let (canceller, cancel) = claviger_pki::cancel::pair();
        let wait = Wait::new(Instant::now() + Duration::from_secs(60), cancel);
        thread::scope(|scope| {
            let asked = scope.spawn(|| terminal.ask(&question("q"), &wait));
            prompt_text(&mut cli);
            canceller.cancel();
            assert_eq!(asked.join().unwrap().unwrap_err(), Failure::Cancelled);
            is_withdrawn(&mut cli);
        });
    }

    #[test]
    fn a_person_who_declines_a_cli_without_one_and_one_that_went_away_are_three_things() {
        let (terminal, mut cli) = pair();
        let wait = Wait::at_most(Duration::from_secs(20));
        cli.send(&ToDaemon::Answer(None)).unwrap();
        let declined = terminal.ask(&question("q"), &wait).unwrap_err();
        assert_eq!(declined, Failure::Declined);
        cli.send(&ToDaemon::Nobody).unwrap();
        let nobody = terminal.ask(&question("q"), &wait).unwrap_err();
        assert!(matches!(nobody, Failure::NobodyToAsk { .. }), "{nobody:?}");
        drop(cli);
        let gone = terminal.ask(&question("q"), &wait).unwrap_err();
        assert_eq!(gone, Failure::Cancelled);
        terminal.wait_closed().unwrap();
    }
}
