//! What lies on the table when a story begins.

use claviger_hw_tests::{PIV_PIN, PivCard, PivKey, User, World};

/// Alice, and a card with a key in the reader.
pub fn alice_with_a_piv_card(world: &mut World, key: PivKey) -> (User, PivCard) {
    let alice = world.user("alice");
    let card = PivCard::insert_new();
    card.make_key(key);
    (alice, card)
}

/// The volume `Private`, opened by that key and nothing else, and the mount point `private`.
pub fn folder(user: &User, key: PivKey, options: &[&str]) {
    let recipient = format!("pkcs11:id={}", key.id());
    let init = ["init", "--no-recovery", "--recipient", &recipient];
    user.claviger([&init, options, &["Private"]].concat())
        .answers(&[PIV_PIN])
        .ok();
    user.sh("mkdir private").ok();
}

/// Mounts it, writes a letter, and locks it: to be read, it has to be opened by the card.
pub fn write_a_letter_and_lock(user: &User) {
    user.claviger(["mount", "Private", "private"])
        .answers(&[PIV_PIN])
        .ok();
    user.sh("echo text >private/letter").ok();
    user.claviger(["lock", "private"]).ok();
    user.sh("cat private/letter").fails(1);
}

/// Unlocks it with the PIN, and finds the letter.
#[track_caller]
pub fn unlock_and_read_the_letter(user: &User) {
    user.claviger(["unlock", "private"])
        .answers(&[PIV_PIN])
        .ok();
    assert_eq!(user.sh("cat private/letter").ok(), "text\n");
}

/// Expects that what was said says all of this.
#[track_caller]
pub fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "'{part}' is not said in: {said}");
    }
}
