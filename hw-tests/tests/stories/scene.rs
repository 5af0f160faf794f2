//! How several stories begin.

use claviger_hw_tests::{SoftHsm, User, World, wait_until};

/// Alice, with a software key `k`, and the volume `Private` open at `private`: for stories that are not
/// about tokens.
pub fn alice_with_an_open_folder(world: &mut World) -> User {
    let alice = world.user("alice");
    software_key(&alice, "k");
    folder(&alice, &["--recipient", "k"]);
    alice.claviger(["mount", "Private", "private"]).ok();
    alice
}

/// Alice, with a smartcard `work` in which she has the key `k`.
pub fn alice_with_a_card(world: &mut World) -> (User, SoftHsm) {
    let mut alice = world.user("alice");
    let card = SoftHsm::new(&mut alice);
    card.alone(&alice);
    let token = card.token(&alice, "work");
    card_key(&alice, &token, "k");
    (alice, card)
}

/// A key of a card, made and enrolled.
pub fn card_key(user: &User, token: &str, label: &str) {
    user.claviger([
        "key", "generate", "--module", "pkcs11", "--token", token, "--label", label,
    ])
    .answers(&[claviger_hw_tests::PIN])
    .ok();
}

/// A key in a file without a passphrase, made and enrolled; `keys/LABEL.pem`.
pub fn software_key(user: &User, label: &str) -> String {
    let file = format!("keys/{label}.pem");
    user.sh("mkdir -p keys").ok();
    user.claviger([
        "key", "generate", "--module", "openssl", "--label", label, "--out", &file,
    ])
    .ok();
    file
}

/// The volume `Private` without a recovery key, and the mount point `private`.
pub fn folder(user: &User, options: &[&str]) {
    let mut args = vec!["init", "--no-recovery"];
    args.extend(options);
    args.push("Private");
    user.claviger(args).ok();
    user.sh("mkdir private").ok();
}

/// Waits until the daemon of `user`, which runs already, has found what root has mounted just now:
/// nothing that root does waits for the daemons of others.
pub fn finds_a_mount_of_roots(user: &User) {
    let found = || {
        let status = user.status();
        let volumes = status["volumes"].as_array().expect("it is a list");
        let mounts = volumes
            .iter()
            .filter_map(|volume| volume["mounts"].as_array());
        mounts.flatten().next().is_some()
    };
    wait_until("the daemon has found the mount", found);
}

/// Expects that what was said says all of this.
#[track_caller]
pub fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "'{part}' is not said in: {said}");
    }
}
