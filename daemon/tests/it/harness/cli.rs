//! The CLI's end of a control connection, and the person before it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use claviger_protocol::control::{
    Answers, Command as Order, Conversation, FromDaemon, GenerateKey, KeyInfo, KeyRef, Prompt,
    PromptPlace, Recovery, Reply, ToDaemon, UnlockWith, VERSION,
};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::{Scope, VolumeId};

use super::{SOON, User};

type Person<'a> = Box<dyn Fn(&Prompt) -> Option<String> + Send + Sync + 'a>;

/// The CLI's end of a control connection, and the person before it.
pub struct Cli<'a> {
    user: &'a User,
    pub place: PromptPlace,
    pub answers: Answers,
    answer: Person<'a>,
}

impl<'a> Cli<'a> {
    pub fn new(
        user: &'a User,
        answer: impl Fn(&Prompt) -> Option<String> + Send + Sync + 'a,
    ) -> Self {
        Self {
            user,
            place: PromptPlace::default(),
            answers: Answers::Terminal,
            answer: Box::new(answer),
        }
    }

    /// With a person who answers so.
    pub fn answering(
        mut self,
        answer: impl Fn(&Prompt) -> Option<String> + Send + Sync + 'a,
    ) -> Self {
        self.answer = Box::new(answer);
        self
    }

    fn conversation(&self) -> Conversation {
        let stream = UnixStream::connect(self.user.control_socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Conversation::new(stream).unwrap()
    }

    pub fn connect(&self, command: Order) -> Conversation {
        let mut conversation = self.conversation();
        let message = ToDaemon::Command {
            answers: self.answers,
            version: VERSION,
            prompt_place: self.place.clone(),
            command,
        };
        conversation.send(&message).unwrap();
        conversation
    }

    /// Runs a command to its end.
    pub fn run(&self, command: Order) -> Result<Reply, Failure> {
        self.converse(self.connect(command)).1
    }

    /// Ends the daemon; what it tells, and how it ends.
    pub fn stop(&self) -> (Vec<String>, Result<Reply, Failure>) {
        let mut conversation = self.conversation();
        conversation.send(&ToDaemon::Stop).unwrap();
        self.converse(conversation)
    }

    fn converse(&self, mut conversation: Conversation) -> (Vec<String>, Result<Reply, Failure>) {
        let mut told = Vec::new();
        loop {
            match conversation.receive().unwrap() {
                FromDaemon::Prompt(prompt) => self.reply(&mut conversation, &prompt),
                FromDaemon::Notice(text) => told.push(text),
                FromDaemon::Withdrawn => {}
                FromDaemon::Done(result) => return (told, result),
                FromDaemon::Attached => panic!("not asked for"),
            }
        }
    }

    /// A connection for prompts that no command of this CLI's needs.
    pub fn attach(&self) -> Conversation {
        let mut conversation = self.connect(Order::Attach);
        let answer = conversation.receive().unwrap();
        assert!(matches!(answer, FromDaemon::Attached), "{answer:?}");
        conversation
    }

    /// Answers one prompt as the person would.
    pub fn reply(&self, conversation: &mut Conversation, prompt: &Prompt) {
        let answer = (self.answer)(prompt).map(|text| Secret::new(text.into_bytes()));
        conversation.send(&ToDaemon::Answer(answer)).unwrap();
    }

    /// The next prompt on a connection; notices are passed over.
    pub fn next_prompt(conversation: &mut Conversation) -> Prompt {
        loop {
            match conversation.receive().unwrap() {
                FromDaemon::Prompt(prompt) => return prompt,
                FromDaemon::Notice(_) | FromDaemon::Withdrawn => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The result on a connection that has no further prompt.
    pub fn result(conversation: &mut Conversation) -> Result<Reply, Failure> {
        loop {
            match conversation.receive().unwrap() {
                FromDaemon::Prompt(prompt) => panic!("asked: {}", prompt.text),
                FromDaemon::Notice(_) | FromDaemon::Withdrawn => {}
                FromDaemon::Done(result) => return result,
                FromDaemon::Attached => panic!("not asked for"),
            }
        }
    }

    pub fn generate_in_token(&self, token: &str) -> KeyInfo {
        let order = Order::KeyGenerate(GenerateKey {
            module: "pkcs11".into(),
            key_type: Some("ec-p256".into()),
            token: Some(format!("pkcs11:token={token}")),
            label: Some(format!("{token} key")),
            out: None,
            pin: None,
        });
        match self.run(order).unwrap() {
            Reply::Key(key) => key,
            other => panic!("{other:?}"),
        }
    }

    /// Makes a volume in `~/NAME`; the recovery key's text, if one was asked for.
    pub fn init(
        &self,
        name: &str,
        scope: Scope,
        keys: &[&KeyInfo],
        recovery: Recovery,
    ) -> (PathBuf, VolumeId, Option<Secret>) {
        let dir = self.user.home.join(name);
        let order = Order::Init {
            dir: dir.clone(),
            scope,
            recipients: keys
                .iter()
                .map(|key| KeyRef::Id(key.key_id.clone()))
                .collect(),
            passphrase: None,
            recovery,
        };
        match self.run(order).unwrap() {
            Reply::Initialised {
                volume, recovery, ..
            } => (dir, volume, recovery),
            other => panic!("{other:?}"),
        }
    }

    pub fn unlock(&self, dir: &Path, with: UnlockWith) -> Result<Reply, Failure> {
        self.run(Order::Unlock {
            dir: dir.into(),
            with,
        })
    }
}
