//! Searches the memory of running processes for what must not be in it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use claviger_hw_tests::{Process, SoftHsm, User, World, story, wait_until};
use claviger_pki::seed::RecoveryKey;
use claviger_pki::wrap::{Context, Identity as _, Purpose, Wrapped};
use claviger_vault::epoch::EpochKey;
use claviger_vault::manifest::{self, RecipientKind};

use crate::scene::software_key;

/// A PIN that is in no memory by chance.
const PLANTED: &str = "Zw7kQ-93pVxB";

/// The epoch key of a volume, computed from its recovery key, and proved by the manifest's MAC.
fn epoch_key(dir: &Path, recovery: &Path) -> Vec<u8> {
    let loaded = manifest::load(File::open(dir).unwrap()).unwrap().manifest;
    let claims = loaded.claims().clone();
    let text = fs::read_to_string(recovery).unwrap();
    let key = RecoveryKey::parse(text.trim()).unwrap().derive();
    let of_recovery = |kind: &RecipientKind| matches!(kind, RecipientKind::Recovery);
    let enrolled = claims
        .recipients()
        .iter()
        .find(|one| of_recovery(one.recipient.kind()))
        .unwrap();
    let wrapped = Wrapped::parse(
        enrolled.wrap.algorithm,
        &enrolled.wrap.body,
        key.public_key(),
    )
    .unwrap();
    let context = Context {
        volume: claims.volume().0,
        epoch: claims.epoch().0,
        purpose: Purpose::EpochKey,
        file: None,
    };
    let bytes = key.unwrap(&wrapped, &context).unwrap().to_vec();
    let mut copy: [u8; 32] = bytes.as_slice().try_into().unwrap();
    loaded
        .verify(&EpochKey::new(&mut copy).unwrap())
        .expect("it is the epoch key");
    bytes
}

/// Alice, whose card has the planted PIN, with a folder open by it.
fn alice_with_the_planted_pin(world: &mut World) -> User {
    let mut alice = world.user("alice");
    let card = SoftHsm::new(&mut alice);
    card.alone(&alice);
    let token = card.token_with_pin(&alice, "work", PLANTED);
    alice
        .claviger([
            "key", "generate", "--module", "pkcs11", "--token", &token, "--label", "k",
        ])
        .answers(&[PLANTED])
        .ok();
    alice
        .claviger([
            "init",
            "--recipient",
            "k",
            "--recovery-file",
            "recovery",
            "Private",
        ])
        .ok();
    alice.sh("mkdir private").ok();
    alice
        .claviger(["mount", "Private", "private"])
        .answers(&[PLANTED])
        .ok();
    alice
        .sh("for i in 1 2 3 4 5 6 7 8; do echo text $i >private/$i; done; cat private/*")
        .ok();
    alice.claviger(["lock", "private"]).ok();
    alice
        .claviger(["unlock", "private"])
        .answers(&[PLANTED])
        .ok();
    alice.sh("cat private/*").ok();
    alice
}

story! {
    /// The same where the kernel has no memfd_secret(2) to hide keys in: there they can be seen while the
    /// folder is open, and after the lock they are wiped.
    fn a_lock_wipes_the_epoch_key_from_the_daemons_memory(world) {
        let alice = world.user("alice");
        alice.start_daemon_without("memfd_secret");
        software_key(&alice, "k");
        alice.claviger(["init", "--recipient", "k", "--recovery-file", "recovery", "Private"]).ok();
        alice.sh("mkdir private").ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("echo text >private/letter").ok();
        let epoch_key = epoch_key(&alice.home().join("Private"), &alice.home().join("recovery"));
        let daemon = alice.daemon();
        assert_eq!(found(daemon, &epoch_key), 1, "it is in one place, and the search finds it there");
        alice.claviger(["lock", "private"]).ok();
        assert_eq!(found(daemon, &epoch_key), 0);
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(found(daemon, &epoch_key), 1);
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
        // Another way to an end of its life: the daemon's own.
        alice.claviger(["stop"]).ok();
        assert_eq!(found(alice.daemon(), &epoch_key), 0);
    }
}

fn found(process: Process, secret: &[u8]) -> usize {
    process.search(secret).found
}

/// The seed of a recovery key, and the private key made of it: `DeriveKeyPair` of RFC 9180 section 7.1.3,
/// proved by the public key.
fn seed_and_private_key(recovery: &Path) -> ([u8; 32], [u8; 32]) {
    let text = fs::read_to_string(recovery).unwrap();
    let seed = RecoveryKey::parse(text.trim()).unwrap().into_seed();
    let secret = [b"HPKE-v1KEM\x00\x10dkp_prk", seed.expose().as_slice()].concat();
    let prk = Salt::new(HKDF_SHA256, &[]).extract(&secret);
    let mut private = [0; 32];
    let info = b"\x00\x20HPKE-v1KEM\x00\x10candidate\x00".as_slice();
    prk.expand(&[info], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut private))
        .unwrap();
    let key = PrivateKey::from_private_key(&ECDH_P256, &private).unwrap();
    let point = key.compute_public_key().unwrap();
    assert!(seed.derive().public_key().spki().ends_with(point.as_ref()));
    (*seed.expose(), private)
}

/// How often a private key is in the daemon's memory, in either order of bytes: libraries compute with
/// words that begin with the lowest.
fn found_private_key(process: Process, mut key: [u8; 32]) -> usize {
    let written = found(process, &key);
    key.reverse();
    written + found(process, &key)
}

story! {
    /// Where one operation opens the whole volume, the recovery key has done its part by then; in file scope
    /// each file needs it. The kernel has no memfd_secret(2) here, so that what is kept can be seen.
    fn of_a_recovery_key_the_daemon_keeps_what_files_need_and_nothing_after_a_lock(world) {
        let alice = world.user("alice");
        alice.start_daemon_without("memfd_secret");
        software_key(&alice, "k");
        let daemon = alice.daemon();

        alice.claviger(["init", "--recipient", "k", "--recovery-file", "whole", "Whole"]).ok();
        let (seed, private_key) = seed_and_private_key(&alice.home().join("whole"));
        alice.claviger(["unlock", "--recovery-file", "whole", "Whole"]).ok();
        assert_eq!(found(daemon, &seed), 0, "nothing needs it any more");
        assert_eq!(found_private_key(daemon, private_key), 0, "nothing needs it any more");

        alice.claviger(["init", "--scope", "file", "--recipient", "k", "--recovery-file", "single", "Single"]).ok();
        let (seed, private_key) = seed_and_private_key(&alice.home().join("single"));
        let unlock = || alice.claviger(["unlock", "--recovery-file", "single", "Single"]).ok();
        unlock();
        alice.sh("mkdir private").ok();
        alice.claviger(["mount", "Single", "private"]).ok();
        alice.sh("echo text >private/letter").ok();
        alice.claviger(["lock", "private"]).ok();
        unlock();
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
        assert_eq!(found(daemon, &seed), 1, "it is in one place, and the search finds it there");
        assert_eq!(found_private_key(daemon, private_key), 0, "it was for one file");
        alice.claviger(["lock", "private"]).ok();
        assert_eq!(found(daemon, &seed), 0);
        assert_eq!(found_private_key(daemon, private_key), 0);
    }
}

story! {
    /// "In the fs process neither PIN nor epoch key while unlocked; in no process any key after lock."
    fn keys_and_pins_are_only_where_they_belong_and_nowhere_after_a_lock(world) {
        let alice = alice_with_the_planted_pin(world);
        let epoch_key = epoch_key(&alice.home().join("Private"), &alice.home().join("recovery"));
        // What a search can find at all: the same bytes in a process that does not hide them.
        let mut witness = alice.shell();
        witness.ok(&format!("kept={PLANTED}"));
        assert!(found(Process { pid: witness.pid() }, PLANTED.as_bytes()) > 0);
        drop(witness);

        let filesystem = alice.filesystem();
        assert_eq!(found(filesystem, &epoch_key), 0, "the filesystem holds the epoch key");
        assert_eq!(found(filesystem, PLANTED.as_bytes()), 0, "the filesystem holds the PIN");
        assert_eq!(found(alice.daemon(), PLANTED.as_bytes()), 0, "the daemon keeps the PIN");

        alice.claviger(["lock", "private"]).ok();
        let mut all = alice.modules();
        all.extend([alice.daemon(), filesystem]);
        assert!(all.len() >= 3);
        for process in all {
            assert_eq!(found(process, &epoch_key), 0, "epoch key in {process:?} after the lock");
            assert_eq!(found(process, PLANTED.as_bytes()), 0, "PIN in {process:?} after the lock");
        }
    }
}

story! {
    /// "Never a secret" in the audit log, nor in any other.
    fn no_log_tells_a_pin_a_passphrase_or_a_recovery_key(world) {
        let alice = alice_with_the_planted_pin(world);
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).answers(&[&format!("{PLANTED}x")]).fails(6);
        alice.claviger(["unlock", "--recovery-file", "recovery", "private"]).ok();
        alice.write("pass", "Unusual-Passphrase-771\n");
        alice.claviger(["recipient", "add", "private", "--passphrase-file", "pass"]).ok();
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "--passphrase-file", "pass", "private"]).ok();
        let logs = alice.logs();
        assert!(logs.contains("volume unlocked") && logs.contains("mounted"), "the logs are there");
        let recovery = fs::read_to_string(alice.home().join("recovery")).unwrap();
        for secret in [PLANTED, "Unusual-Passphrase-771", recovery.trim()] {
            assert!(!logs.contains(secret), "a secret is in the logs");
        }
    }
}

story! {
    /// The program that a PIN or passphrase is typed into leaves no core dump and hides its memory.
    fn nobody_of_the_same_user_reads_the_memory_of_who_asks_for_a_passphrase(world) {
        let alice = world.user("alice");
        let mut asks = alice.claviger(["unlock", "--passphrase-file", "-", "Private"]).spawn();
        let memory = format!("/proc/{}/mem", asks.id());
        // What cannot be dumped belongs to root, in /proc.
        wait_until("its memory is closed", || fs::metadata(&memory).unwrap().uid() == 0);
        asks.kill().unwrap();
        asks.wait().unwrap();
    }
}

story! {
    /// "Never in argv or environment": a PIN is on no command line that others can see.
    fn a_pin_is_in_nobodys_arguments_or_environment(world) {
        let alice = alice_with_the_planted_pin(world);
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            for file in ["cmdline", "environ"] {
                let bytes = fs::read(path.join(file)).unwrap_or_default();
                let shows = bytes.windows(PLANTED.len()).any(|it| it == PLANTED.as_bytes());
                assert!(!shows, "{}", path.display());
            }
        }
        drop(alice);
    }
}
