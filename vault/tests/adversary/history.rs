//! What is in a volume, and what happens in it before and after the enemy takes his copy.

use claviger_vault::dir::{Location, Record};
use claviger_vault::native::PAGE;

use crate::volume::{Volume, settle};
use crate::world::{BEHIND_GAP, LONG, LONG_TOO, Token, recipient, wrapping};

impl Volume {
    /// Everything that there is a format for.
    pub fn furnish(&mut self, token: &Token) {
        for folder in ["folder", "folder/inner", "folder-old"] {
            self.mkdir(folder);
        }
        let three_and_a_bit = 3 * PAGE as u64 + 100;
        for path in [
            "letter",
            "memo",
            "to-move",
            "gone",
            "linked",
            LONG,
            LONG_TOO,
            "folder/letter",
            "folder/memo",
            &format!("folder/{LONG}"),
            "folder/inner/deep",
            "folder-old/letter",
        ] {
            let file = self.create_file(path, token);
            self.write(&file, path, 1, 0..three_and_a_bit);
            settle(&file);
        }
        self.link("linked", "folder/linked-too");
        let behind_gap = BEHIND_GAP * PAGE as u64..(BEHIND_GAP + 1) * PAGE as u64 + 100;
        for (path, pieces) in [
            ("log", vec![0..three_and_a_bit]),
            ("big", vec![0..60 * PAGE as u64 + 100]),
            (
                "holes",
                vec![0..100, 4 * PAGE as u64..4 * PAGE as u64 + 100],
            ),
            ("sparse", vec![0..100, behind_gap.clone()]),
            ("sparse-too", vec![0..100, behind_gap.clone()]),
            ("folder/sparse", vec![0..100, behind_gap]),
        ] {
            let file = self.create_file(path, token);
            for piece in pieces {
                self.write(&file, path, 1, piece);
            }
            settle(&file);
        }
        for path in ["pointer", "pointer-too", "folder/pointer"] {
            self.symlink(path, 1);
        }
        for (path, name) in [
            ("letter", "user.colour"),
            ("letter", "user.shape"),
            ("memo", "user.colour"),
            ("folder/letter", "user.colour"),
            ("folder", "user.colour"),
            ("folder/inner", "user.colour"),
        ] {
            self.set_attribute(path, name, 1);
        }
    }

    /// What happens after the enemy has taken his copy.
    pub fn live_on(&mut self, token: &Token) {
        self.rename("to-move", "moved");
        self.rename("folder-old", "folder-new");
        self.remove("gone");
        self.remove("pointer");
        self.symlink("pointer", 2);
        self.set_attribute("letter", "user.colour", 2);
        let memo = self.open_file("folder/memo", token);
        self.write(&memo, "folder/memo", 2, 0..PAGE as u64);
        settle(&memo);

        // A recipient is removed, and a file moved on to the new epoch.
        let lost = recipient("lost card").key_id();
        let key = self
            .manifest
            .remove_recipient(self.epochs.current(), lost, wrapping(token))
            .unwrap();
        self.epochs.insert(self.manifest.epoch(), key);
        self.store();
        let keys = self.keys();
        Record::open(self.root_fd(), &keys, Location::ROOT)
            .unwrap()
            .renew(self.root_fd(), &keys, Location::ROOT)
            .unwrap();
        self.rewrap("letter");

        let letter = self.open_file("letter", token);
        self.write(&letter, "letter", 2, PAGE as u64..2 * PAGE as u64);
        self.write(&letter, "letter", 2, 3 * PAGE as u64..4 * PAGE as u64 + 100);
        settle(&letter);
        // Appended to, and written, since the last sync.
        let log = self.open_file("log", token);
        self.write(&log, "log", 2, 4 * PAGE as u64..5 * PAGE as u64);
        let fresh = self.create_file("fresh", token);
        self.write(&fresh, "fresh", 2, 0..3 * PAGE as u64);
        self.mkdir("late");
        let note = self.create_file("late/note", token);
        self.write(&note, "late/note", 2, 0..100);
        settle(&note);
    }
}
