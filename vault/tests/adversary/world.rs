//! What the enemy is given: two volumes of one person, and an older state of the first.
//!
//! Everything is made by the crate itself ([`crate::volume`]). What was written where is kept in
//! a [`Written`], apart from the reader, so that no mistake of the reader's can make itself right.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;

use claviger_vault::ids::Scope;
use claviger_vault::manifest::{Recipient, RecipientKind, ToWrap, Wrap};
use claviger_vault::pin::{KnownVolumes, Pin, remember};
use claviger_vault::secret::random_array;
use tempfile::TempDir;

use crate::volume::Volume;

/// Names of 200 bytes: their lower names are hashes, with sidecars.
pub const LONG: &str = "long name long name long name long name long name long name long name long \
    name long name long name long name long name long name long name long name long name long name \
    long name long name one";
pub const LONG_TOO: &str = "long name long name long name long name long name long name long name \
    long name long name long name long name long name long name long name long name long name long \
    name long name long name two";

/// The block behind the gap of the file `sparse`: 17 MiB, more than hole records take in.
pub const BEHIND_GAP: u64 = 17 * 256;

/// What was written, by place.
pub type Written = BTreeMap<Place, Vec<u8>>;

/// Something that is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The upper path.
    pub path: String,
    pub part: Part,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Its name is shown in its directory.
    Listed,
    Size,
    Block(u64),
    Target,
    Attribute(String),
}

impl Place {
    pub fn new(path: &str, part: Part) -> Self {
        Self {
            path: path.into(),
            part,
        }
    }
}

/// A person's token: opens whatever was wrapped to its public key, by whomever.
///
/// Stands in for the KEM, which is not this crate's, and is weaker: it binds no context. What is
/// refused here is refused by the formats alone.
#[derive(Default)]
pub struct Token(RefCell<HashMap<Vec<u8>, [u8; 32]>>);

impl Token {
    /// Anyone can do this: the public key is all it takes.
    pub fn wrap(&self, secret: &[u8; 32]) -> Vec<u8> {
        let body = random_array::<48>().to_vec();
        self.0.borrow_mut().insert(body.clone(), *secret);
        body
    }

    pub fn unwrap(&self, body: &[u8]) -> Option<[u8; 32]> {
        self.0.borrow().get(body).copied()
    }
}

/// Two volumes of one person, an older state of the first, and what the machine remembers.
pub struct World {
    root: TempDir,
    pub token: Token,
    pub mine: Volume,
    pub other: Volume,
    /// What was in `mine` when it was put on the enemy's shelf.
    pub earlier: Written,
}

impl World {
    pub fn new(scope: Scope) -> Self {
        let root = tempfile::tempdir().unwrap();
        let token = Token::default();
        let mut mine = Volume::create(&root.path().join("mine"), "mine", scope, &token);
        let mut other = Volume::create(&root.path().join("other"), "other", scope, &token);
        mine.furnish(&token);
        other.furnish(&token);
        let shelf = root.path().join("shelf");
        copy_tree(&mine.lower, &shelf);
        let earlier = mine.written.clone();
        mine.live_on(&token);
        other.live_on(&token);
        let world = Self {
            root,
            token,
            mine,
            other,
            earlier,
        };
        for volume in [&world.mine, &world.other] {
            let pin = Pin::new(&volume.manifest, volume.epochs.current(), &volume.lower);
            remember(&world.known(), pin).unwrap();
        }
        world
    }

    /// An older state of `mine`, whole.
    pub fn shelf(&self) -> PathBuf {
        self.root.path().join("shelf")
    }

    /// Where the machine keeps its known volumes.
    pub fn known(&self) -> PathBuf {
        self.root.path().join("known")
    }

    /// Out of everybody's sight, on the same filesystem.
    pub fn aside(&self) -> PathBuf {
        self.root.path().join("aside")
    }

    pub fn known_volumes(&self, machine: Machine) -> KnownVolumes {
        match machine {
            Machine::KnowsTheVolume => {
                KnownVolumes::load(&self.known(), &self.root.path().join("etc")).unwrap()
            }
            Machine::IsNew => KnownVolumes::default(),
        }
    }
}

/// Whether this machine has unlocked the volume before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    KnowsTheVolume,
    IsNew,
}

pub fn recipient(name: &str) -> Recipient {
    let mut spki = vec![0x30; 91];
    spki[..name.len()].copy_from_slice(name.as_bytes());
    Recipient::new(RecipientKind::Token, name, spki)
}

/// Wraps to every recipient; all of them are the one token.
pub fn wrapping(token: &Token) -> impl Fn(&Recipient, ToWrap<'_>) -> Result<Wrap, Infallible> + '_ {
    |_, to_wrap| {
        Ok(Wrap {
            algorithm: 102,
            body: token.wrap(to_wrap.key.expose()),
        })
    }
}

/// With links, attributes and gaps as they are.
fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .unwrap();
    assert!(status.success());
}
