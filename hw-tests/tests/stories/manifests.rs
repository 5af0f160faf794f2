//! What the holder of the lower folder can do to its manifest.

use std::fs;
use std::path::PathBuf;

use claviger_hw_tests::{User, story};

use crate::scene::{alice_with_an_open_folder, folder, says, software_key};

/// Both copies of the manifest of a volume.
fn copies(user: &User, dir: &str) -> [PathBuf; 2] {
    ["volume.toml", "volume.toml.backup"]
        .map(|name| user.home().join(dir).join(".claviger").join(name))
}

/// Changes the text of both copies.
fn edit(user: &User, change: impl Fn(&str) -> String) {
    for copy in copies(user, "Private") {
        let text = fs::read_to_string(&copy).unwrap();
        let changed = change(&text);
        assert_ne!(text, changed, "nothing was changed");
        fs::write(&copy, changed).unwrap();
    }
}

/// Alice, with the locked volume `Private`.
fn alice_with_a_locked_folder(world: &mut claviger_hw_tests::World) -> User {
    let alice = world.user("alice");
    software_key(&alice, "k");
    folder(&alice, &["--recipient", "k"]);
    alice.claviger(["unlock", "Private"]).ok();
    alice.claviger(["stop"]).ok();
    alice
}

/// That neither unlocking nor mounting it works, with this exit code and these words.
#[track_caller]
fn refused(alice: &User, code: i32, words: &[&str]) {
    says(&alice.claviger(["unlock", "Private"]).fails(code), words);
    says(
        &alice.claviger(["mount", "Private", "private"]).fails(code),
        words,
    );
    assert_eq!(alice.sh("ls -A private").ok(), "");
}

story! {
    /// "Manifest missing."
    fn a_folder_without_a_manifest_is_no_volume(world) {
        let alice = alice_with_a_locked_folder(world);
        for copy in copies(&alice, "Private") {
            fs::rename(&copy, alice.home().join(copy.file_name().unwrap())).unwrap();
        }
        refused(&alice, 3, &["no manifest here", "volume.toml"]);
        alice.sh("mv volume.toml volume.toml.backup Private/.claviger/").ok();
        alice.claviger(["unlock", "Private"]).ok();
        alice.sh("mkdir Empty").ok();
        alice.claviger(["unlock", "Empty"]).fails(3);
        alice.claviger(["unlock", "Missing"]).fails(3);
    }
}

story! {
    /// "One backup copy": either copy alone opens the folder, and it says that the other is bad.
    fn either_copy_of_the_manifest_opens_the_folder(world) {
        let alice = alice_with_a_locked_folder(world);
        let [first, backup] = copies(&alice, "Private");
        let whole = fs::read(&first).unwrap();
        fs::write(&first, &whole[..whole.len() / 2]).unwrap();
        says(&alice.claviger(["unlock", "Private"]).finish().stderr, &["backup copy is used", "Unlocked"]);
        alice.claviger(["lock", "Private"]).ok();
        fs::remove_file(&first).unwrap();
        alice.claviger(["unlock", "Private"]).ok();
        alice.claviger(["lock", "Private"]).ok();
        fs::write(&first, &whole).unwrap();
        fs::remove_file(&backup).unwrap();
        alice.claviger(["unlock", "Private"]).ok();
    }
}

story! {
    /// "Cut short": at every place of it.
    fn a_manifest_that_is_cut_short_is_refused(world) {
        let alice = alice_with_a_locked_folder(world);
        let whole = fs::read(&copies(&alice, "Private")[0]).unwrap();
        for length in [0, 1, whole.len() / 3, whole.len() / 2, whole.len() - 40, whole.len() - 1] {
            for copy in copies(&alice, "Private") {
                fs::write(copy, &whole[..length]).unwrap();
            }
            let said = alice.claviger(["unlock", "Private"]).finish();
            assert_eq!(said.code, 12, "cut to {length}: {said}");
        }
        refused(&alice, 12, &["integrity"]);
    }
}

story! {
    /// "Of a newer version."
    fn a_manifest_of_a_newer_format_is_refused_as_such(world) {
        let alice = alice_with_a_locked_folder(world);
        edit(&alice, |text| text.replacen("format = 0", "format = 7", 1));
        refused(&alice, 17, &["unsupported", "7"]);
    }
}

story! {
    /// "With a recipient added by hand": the manifest is authenticated as a whole.
    fn a_recipient_that_was_added_by_hand_is_refused(world) {
        let alice = alice_with_a_locked_folder(world);
        software_key(&alice, "mallory");
        alice.claviger(["init", "--no-recovery", "--recipient", "mallory", "Mallorys"]).ok();
        alice.claviger(["stop"]).ok();
        let mallorys = fs::read_to_string(&copies(&alice, "Mallorys")[0]).unwrap();
        let begin = mallorys.find("[[recipient").expect("a recipient is a table");
        let end = mallorys.find("\nmac").or_else(|| mallorys.find("\n[mac")).unwrap_or(mallorys.len());
        let recipient = &mallorys[begin..end];
        edit(&alice, |text| {
            let at = text.find("[[recipient").expect("a recipient is a table");
            format!("{}{}\n{}", &text[..at], recipient.trim_end(), &text[at..])
        });
        refused(&alice, 12, &["integrity"]);
    }
}

story! {
    /// Anything else in it that is changed by hand: refused before a byte is believed.
    fn any_line_of_the_manifest_that_is_changed_is_refused(world) {
        let alice = alice_with_a_locked_folder(world);
        let whole = fs::read_to_string(&copies(&alice, "Private")[0]).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.contains('=')) {
            // The last letter or digit of its value becomes another.
            let Some(at) = line.rfind(|c: char| c.is_ascii_alphanumeric()) else { continue };
            let other = if line.as_bytes()[at] == b'1' { "2" } else { "1" };
            let changed = format!("{}{other}{}", &line[..at], &line[at + 1..]);
            let mut text: Vec<&str> = lines.clone();
            text[number] = &changed;
            for copy in copies(&alice, "Private") {
                fs::write(copy, format!("{}\n", text.join("\n"))).unwrap();
            }
            let said = alice.claviger(["unlock", "Private"]).finish();
            assert!([4, 12, 13, 17].contains(&said.code), "{line} -> {changed}: {said}");
            assert!(!said.stderr.contains("Unlocked"), "{line} -> {changed}: {said}");
        }
    }
}

story! {
    /// "An older one put back": refused as rolled back, on a machine that has seen the newer one.
    fn an_older_manifest_that_is_put_back_is_refused(world) {
        let alice = alice_with_a_locked_folder(world);
        let old = copies(&alice, "Private").map(|copy| fs::read(copy).unwrap());
        software_key(&alice, "second");
        alice.claviger(["unlock", "Private"]).ok();
        alice.claviger(["recipient", "add", "Private", "second"]).ok();
        alice.claviger(["stop"]).ok();
        for (copy, bytes) in copies(&alice, "Private").iter().zip(&old) {
            fs::write(copy, bytes).unwrap();
        }
        says(&alice.claviger(["unlock", "Private"]).fails(13), &["rolled back", "Do not enter a PIN"]);
        says(&alice.claviger(["mount", "Private", "private"]).fails(13), &["rolled back"]);
    }
}

story! {
    /// "Swapped for another volume's": even for one that the same key opens.
    fn the_manifest_of_another_volume_is_refused_in_its_place(world) {
        let alice = alice_with_a_locked_folder(world);
        alice.claviger(["init", "--no-recovery", "--recipient", "k", "Other"]).ok();
        alice.claviger(["stop"]).ok();
        for (copy, other) in copies(&alice, "Private").iter().zip(copies(&alice, "Other")) {
            fs::copy(other, copy).unwrap();
        }
        says(&alice.claviger(["unlock", "Private"]).fails(13), &["this folder held volume", "known_volumes"]);
        says(&alice.claviger(["mount", "Private", "private"]).fails(13), &["this folder held volume"]);
    }
}

story! {
    /// The same while it is mounted and unlocked: what is open goes on, the next unlock is refused.
    fn a_manifest_changed_under_an_open_folder_is_refused_at_the_next_unlock(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo text >private/letter").ok();
        edit(&alice, |text| text.replacen("generation = 1", "generation = 9", 1));
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
        alice.claviger(["lock", "private"]).ok();
        says(&alice.claviger(["unlock", "private"]).fails(12), &["Do not write to it", "claviger verify DIR"]);
        alice.sh("cat private/letter").fails(1);
    }
}
