//! Unwraps through filesystem, daemon and module against the bare token operation, 16 in flight in both.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use claviger_hw_tests::{SoftHsm, User, World};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use crate::folders::{drop_caches, text, work};
use crate::table::Table;
use crate::work::IN_FLIGHT;

/// Many short ones: what the two have of the machine differs by a tenth from one second to the next.
const ROUNDS: usize = 9;
const LIBRARY: &str = "/usr/lib/softhsm/libsofthsm2.so";
const SECRET: usize = 32;

/// Measures RSA, ECDH and a cold walk in volume scope.
pub fn measure(world: &mut World, table: &mut Table) -> Result<()> {
    let mut bob = world.user("bob");
    let card = SoftHsm::new(&mut bob);
    let token = card.token(&bob, "bench");
    for (kind, what, files, aim) in [
        ("rsa2048", "unwraps, RSA-2048, 16 in flight", 1000, 0.9),
        ("ec-p256", "unwraps, ECDH P-256, 16 in flight", 2000, 0.75),
    ] {
        let generate = [
            "key", "generate", "--module", "pkcs11", "--token", &token, "--type", kind, "--label",
            kind,
        ];
        bob.claviger(generate).answers(&[card.pin()]).ok();
        let rounds = rounds(&bob, &card, kind, files)?;
        table.add(what, "unwraps/s", "direct", aim, &rounds);
    }
    cold_walk(&bob, &card, table)
}

fn rounds(bob: &User, card: &SoftHsm, kind: &str, files: usize) -> Result<Vec<(f64, f64)>> {
    let (lower, mount) = (
        format!("lower-{kind}"),
        bob.home().join(format!("mount-{kind}")),
    );
    bob.run("mkdir", [&mount]).ok();
    bob.claviger([
        "init",
        "--scope",
        "file",
        "--no-recovery",
        "--recipient",
        kind,
        &lower,
    ])
    .ok();
    let mounted = ["mount", &lower, text(&mount)];
    bob.claviger(mounted).answers(&[card.pin()]).ok();
    let folder = mount.join("files");
    work(bob, &["create", text(&folder), &files.to_string()])?;
    bob.claviger(["umount", text(&mount)]).ok();
    let count = files as f64;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        // A new mount has granted nothing yet.
        bob.claviger(mounted).answers(&[card.pin()]).ok();
        let ours = count / work(bob, &["open", text(&folder)])?;
        bob.claviger(["umount", text(&mount)]).ok();
        let theirs = count / work(bob, &["direct", kind, kind, &files.to_string()])?;
        rounds.push((ours, theirs));
    }
    Ok(rounds)
}

/// In volume scope, 5,000 files cost one token operation at most.
fn cold_walk(bob: &User, card: &SoftHsm, table: &mut Table) -> Result<()> {
    let (lower, mount) = ("lower-walk", bob.home().join("mount-walk"));
    bob.run("mkdir", [&mount]).ok();
    bob.claviger(["init", "--no-recovery", "--recipient", "ec-p256", lower])
        .ok();
    bob.claviger(["mount", lower, text(&mount)])
        .answers(&[card.pin()])
        .ok();
    let folder = mount.join("files");
    work(bob, &["create", text(&folder), "5000"])?;
    bob.claviger(["umount", text(&mount)]).ok();
    bob.claviger(["lock", "--all"]).ok();
    drop_caches()?;
    let before = token_operations(bob)?;
    bob.claviger(["mount", lower, text(&mount)])
        .answers(&[card.pin()])
        .ok();
    work(bob, &["walk", text(&folder)])?;
    bob.claviger(["umount", text(&mount)]).ok();
    let operations = (token_operations(bob)? - before) as f64;
    table.add(
        "cold walk of 5,000 files: files a token operation",
        "files",
        "at least",
        1.0,
        &[(5000.0 / operations.max(1.0), 5000.0)],
    );
    Ok(())
}

/// Token operations that the audit log counts.
fn token_operations(bob: &User) -> Result<usize> {
    let path = bob.home().join(".local/state/claviger/audit.log");
    let log = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(log
        .lines()
        .filter(|line| line.contains("\"module\":\"pkcs11\""))
        .count())
}

/// The bare operation: `count` unwraps with the key labelled `label`, [`IN_FLIGHT`] threads, a session each.
pub fn direct(kind: &str, label: &str, count: usize) -> Result<Duration> {
    let library = Pkcs11::new(Path::new(LIBRARY))?;
    library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let slot = library
        .get_slots_with_initialized_token()?
        .into_iter()
        .next()
        .context("no initialised token")?;
    let login = library.open_rw_session(slot)?;
    login.login(
        UserType::User,
        Some(&AuthPin::from(claviger_hw_tests::PIN.to_owned())),
    )?;
    let operation = Operation::new(kind, &login, label)?;
    let sessions = (0..IN_FLIGHT)
        .map(|_| library.open_rw_session(slot))
        .collect::<Result<Vec<_>, _>>()?;
    let left = AtomicUsize::new(count);
    let take = || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .into_iter()
            .map(|session| {
                let (operation, take) = (&operation, &take);
                scope.spawn(move || -> Result<()> {
                    while take() {
                        operation.run(&session)?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    Ok(begun.elapsed())
}

enum Operation {
    Decrypt {
        key: ObjectHandle,
        ciphertext: Vec<u8>,
    },
    Derive {
        key: ObjectHandle,
        point: Vec<u8>,
    },
}

impl Operation {
    fn new(kind: &str, session: &Session, label: &str) -> Result<Self> {
        let find = |class: ObjectClass| -> Result<ObjectHandle> {
            let template = [Attribute::Class(class), Attribute::Label(label.into())];
            session
                .find_objects(&template)?
                .into_iter()
                .next()
                .context("the key is not in the token")
        };
        let key = find(ObjectClass::PRIVATE_KEY)?;
        let public = find(ObjectClass::PUBLIC_KEY)?;
        match kind {
            "rsa2048" => {
                let ciphertext =
                    session.encrypt(&Mechanism::RsaPkcsOaep(oaep()), public, &[7; SECRET])?;
                Ok(Self::Decrypt { key, ciphertext })
            }
            "ec-p256" => {
                let wanted = session.get_attributes(public, &[AttributeType::EcPoint])?;
                let Some(Attribute::EcPoint(point)) = wanted.into_iter().next() else {
                    bail!("the public key has no point");
                };
                Ok(Self::Derive { key, point })
            }
            other => bail!("no such kind {other}"),
        }
    }

    fn run(&self, session: &Session) -> Result<()> {
        match self {
            Self::Decrypt { key, ciphertext } => {
                session.decrypt(&Mechanism::RsaPkcsOaep(oaep()), *key, ciphertext)?;
            }
            Self::Derive { key, point } => {
                let mechanism =
                    Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point));
                let template = [
                    Attribute::Class(ObjectClass::SECRET_KEY),
                    Attribute::KeyType(KeyType::GENERIC_SECRET),
                    Attribute::ValueLen((SECRET as u64).into()),
                    Attribute::Sensitive(false),
                    Attribute::Extractable(true),
                    Attribute::Token(false),
                ];
                let secret = session.derive_key(&mechanism, *key, &template)?;
                session.get_attributes(secret, &[AttributeType::Value])?;
                session.destroy_object(secret)?;
            }
        }
        Ok(())
    }
}

/// What SoftHSM 2.6 can: SHA-1, no label.
fn oaep() -> PkcsOaepParams<'static> {
    PkcsOaepParams::new(
        MechanismType::SHA1,
        PkcsMgfType::MGF1_SHA1,
        PkcsOaepSource::empty(),
    )
}
