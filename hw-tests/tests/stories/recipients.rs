//! Recipients come and go.

use std::fs;

use claviger_hw_tests::{PIN, SoftHsm, User, World, story};
use serde_json::Value;

use crate::scene::{alice_with_an_open_folder, card_key, folder, says, software_key};

/// Epoch of a volume, and the labels of who opens it.
fn recipients(user: &User, place: &str) -> (u64, Vec<String>) {
    let text = user.claviger(["recipient", "list", "--json", place]).ok();
    let list: Value = serde_json::from_str(&text).unwrap();
    let labels = list["recipients"].as_array().unwrap().iter();
    let labels = labels
        .map(|one| one["label"].as_str().unwrap().to_owned())
        .collect();
    (list["epoch"].as_u64().unwrap(), labels)
}

/// Copies a folder into the home of another, as somebody does who reads the disk.
fn hand_over(from: &User, dir: &str, to: &User, name: &str) {
    let target = to.home().join(name);
    let copy = |program: &str, args: &[&std::ffi::OsStr]| {
        assert!(
            std::process::Command::new(program)
                .args(args)
                .status()
                .unwrap()
                .success()
        );
    };
    copy(
        "cp",
        &[
            "-r".as_ref(),
            from.home().join(dir).as_os_str(),
            target.as_os_str(),
        ],
    );
    copy(
        "chown",
        &[
            "-R".as_ref(),
            format!("{0}:{0}", to.uid()).as_ref(),
            target.as_os_str(),
        ],
    );
}

story! {
    /// "recipient add": a key, a passphrase, a new recovery key; each opens from then on.
    fn whoever_is_added_opens_the_folder(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo text >private/letter").ok();
        software_key(&alice, "second");
        alice.write("pass", "correct horse\n");
        alice.claviger(["recipient", "add", "private", "second"]).ok();
        alice.claviger(["recipient", "add", "private", "--passphrase-file", "pass"]).ok();
        let told = alice.claviger(["recipient", "add", "private", "--recovery"]).ok();
        let recovery = told.lines().find(|line| line.trim().starts_with("claviger1")).expect("it is printed").trim();
        alice.write("recovery", recovery);
        assert_eq!(recipients(&alice, "private").1.len(), 4);
        for with in [["--key", "second"], ["--passphrase-file", "pass"], ["--recovery-file", "recovery"], ["--key", "k"]] {
            alice.claviger(["lock", "private"]).ok();
            alice.claviger(["unlock", with[0], with[1], "private"]).ok();
            assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
        }
        says(&alice.claviger(["recipient", "add", "private", "second"]).fails(2), &["already"]);
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["recipient", "add", "private", "--recovery"]).fails(9);
    }
}

story! {
    /// "The last recipient cannot be removed": it would be the end of the data.
    fn the_last_recipient_stays(world) {
        let alice = alice_with_an_open_folder(world);
        alice.claviger(["recipient", "remove", "private", "k"]).fails(2);
        alice.claviger(["recipient", "remove", "private", "nobody"]).fails(3);
        assert_eq!(recipients(&alice, "private"), (1, vec!["k".into()]));
    }
}

/// Bob with a card, whose public key Alice has as a PEM file, and Alice with a folder for both.
fn alice_and_bob(world: &mut World) -> (User, User, String) {
    let alice = world.user("alice");
    let mut bob = world.user("bob");
    let card = SoftHsm::new(&mut bob);
    card.alone(&bob);
    let token = card.token(&bob, "bobs");
    card_key(&bob, &token, "bobs key");
    // What he gives away is in the file of his key.
    let public = bob
        .sh("sed -n '/BEGIN PUBLIC KEY/,/END PUBLIC KEY/p' .config/claviger/keys/*.toml")
        .ok();
    let pem = alice.write("bob.pem", public);
    software_key(&alice, "k");
    folder(&alice, &["--recipient", "k", "--recipient", "bob.pem"]);
    (alice, bob, pem.to_string_lossy().into_owned())
}

story! {
    /// "A removed recipient reads nothing written later."
    fn whoever_was_removed_opens_no_new_file_and_cannot_bring_the_old_state_back(world) {
        let (alice, bob, pem) = alice_and_bob(world);
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("echo old >private/old").ok();
        hand_over(&alice, "Private", &bob, "Before");
        assert_eq!(bob.claviger(["cat", "Before", "old"]).answers(&[PIN]).ok(), "old\n");

        says(&alice.claviger(["recipient", "remove", "private", &pem]).ok(), &["A new epoch has begun", "may have kept"]);
        assert_eq!(recipients(&alice, "private"), (2, vec!["k".into()]));
        alice.sh("echo new >private/new; mkdir private/dir; echo inner >private/dir/file").ok();
        assert_eq!(alice.sh("cat private/old private/new private/dir/file").ok(), "old\nnew\ninner\n");

        // As it is now.
        hand_over(&alice, "Private", &bob, "After");
        says(&bob.claviger(["cat", "After", "new"]).answers(&[PIN]).fails(4), &["not a recipient here"]);
        // What is new, under the manifest that he could open.
        let manifest = fs::read(bob.home().join("Before/.claviger/volume.toml")).unwrap();
        for name in ["volume.toml", "volume.toml.backup"] {
            fs::write(bob.home().join("After/.claviger").join(name), &manifest).unwrap();
        }
        bob.sh("rm -rf .local/state/claviger/known_volumes").ok();
        for path in ["new", "dir/file"] {
            let said = bob.claviger(["cat", "After", path]).answers(&[PIN]).finish();
            assert!(said.code != 0 && said.stdout.is_empty(), "{said}");
        }
        // What he copied before, he keeps.
        assert_eq!(bob.claviger(["cat", "Before", "old"]).answers(&[PIN]).ok(), "old\n");

        // And put back where Alice will look.
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["stop"]).ok();
        for name in ["volume.toml", "volume.toml.backup"] {
            fs::write(alice.home().join("Private/.claviger").join(name), &manifest).unwrap();
        }
        says(&alice.claviger(["mount", "Private", "private"]).fails(13), &["rolled back"]);
    }
}

story! {
    /// "Whatever fails besides, who was removed reads nothing written later."
    fn a_removal_that_this_machine_cannot_remember_is_one_and_says_so(world) {
        let (alice, bob, pem) = alice_and_bob(world);
        alice.claviger(["mount", "Private", "private"]).ok();
        hand_over(&alice, "Private", &bob, "Before");
        alice.sh("chmod 500 .local/state/claviger").ok();
        let said = alice.claviger(["recipient", "remove", "private", &pem]).fails(11);
        says(&said, &["The change is made", "state/claviger: Permission denied"]);
        // From its first file on: those of the old epoch that were in stock are gone.
        alice.sh("echo new >private/new; mkdir private/dir; echo inner >private/dir/file").ok();
        alice.sh("chmod 700 .local/state/claviger").ok();
        assert_eq!(recipients(&alice, "private"), (2, vec!["k".into()]));

        hand_over(&alice, "Private", &bob, "After");
        let manifest = fs::read(bob.home().join("Before/.claviger/volume.toml")).unwrap();
        for name in ["volume.toml", "volume.toml.backup"] {
            fs::write(bob.home().join("After/.claviger").join(name), &manifest).unwrap();
        }
        for path in ["new", "dir/file"] {
            let said = bob.claviger(["cat", "After", path]).answers(&[PIN]).finish();
            assert!(said.code != 0 && said.stdout.is_empty(), "{said}");
        }
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/new private/dir/file").ok(), "new\ninner\n");
    }
}

story! {
    /// "Public keys, all of them, so that a new epoch can be wrapped to them while they are absent."
    fn those_who_stay_open_what_is_written_after_a_removal_without_having_been_there(world) {
        let (alice, bob, _) = alice_and_bob(world);
        software_key(&alice, "third");
        alice.claviger(["unlock", "Private"]).ok();
        alice.claviger(["recipient", "add", "Private", "third"]).ok();
        alice.claviger(["recipient", "remove", "Private", "third"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("echo new >private/new").ok();
        hand_over(&alice, "Private", &bob, "Shared");
        assert_eq!(bob.claviger(["cat", "Shared", "new"]).answers(&[PIN]).ok(), "new\n");
    }
}
