//! How often the token is asked.

use claviger_hw_tests::{PIN, story};

use crate::scene::{alice_with_a_card, folder};

/// Lines of the audit log that tell of the card's work, by event.
fn operations_of_the_card(user: &claviger_hw_tests::User, event: &str) -> usize {
    let lines = user.audit();
    let of_card = |line: &&serde_json::Value| {
        line["event"] == event
            && line["module"]
                .as_str()
                .is_some_and(|it| it.starts_with("pkcs11"))
    };
    lines.iter().filter(of_card).count()
}

story! {
    /// "file scope: each open costs one token operation."
    fn a_strict_folder_costs_one_token_operation_a_file(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k", "--scope", "file"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("for i in 1 2 3 4 5; do echo $i >private/$i; done").ok();
        assert_eq!(operations_of_the_card(&alice, "unwrap"), 0, "a new file costs none");
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("ls -l private").ok();
        assert_eq!(operations_of_the_card(&alice, "unwrap"), 0, "a listing costs none");
        assert_eq!(alice.sh("cat private/3").ok(), "3\n");
        assert_eq!(operations_of_the_card(&alice, "unwrap"), 1);
        assert_eq!(alice.sh("cat private/1 private/2 private/4 private/5").ok(), "1\n2\n4\n5\n");
        assert_eq!(operations_of_the_card(&alice, "unwrap"), 5);
        let mut shell = alice.shell();
        shell.ok("exec 3<private/1");
        let before = operations_of_the_card(&alice, "unwrap");
        assert_eq!(alice.sh("cat private/1 private/1").ok(), "1\n1\n");
        assert_eq!(operations_of_the_card(&alice, "unwrap"), before, "an open file costs no more");
    }
}

story! {
    /// "In volume scope a token is asked once a session."
    fn a_folder_costs_one_token_operation_an_unlock(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("for i in 1 2 3 4 5 6 7 8 9; do echo $i >private/$i; done").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        assert_eq!(alice.sh("cat private/*").ok(), "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
        assert_eq!(operations_of_the_card(&alice, "unlock"), 1);
        assert_eq!(operations_of_the_card(&alice, "unwrap"), 0);
        assert_eq!(alice.audited("unwrap"), 9, "each cold open is in the log all the same");
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).answers(&[PIN]).ok();
        alice.sh("cat private/*").ok();
        assert_eq!(operations_of_the_card(&alice, "unlock"), 2);
    }
}

story! {
    /// "An audit line for each unwrap: time, uid, program, volume, lower path, key, module, result, duration."
    fn the_audit_log_tells_who_opened_what_by_which_key(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k", "--scope", "file"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("echo 1 >private/diary").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("cat private/diary").ok();
        let lines = alice.audit();
        let line = lines.iter().find(|line| line["event"] == "unwrap").expect("there is one");
        let key: serde_json::Value = serde_json::from_str(&alice.claviger(["key", "list", "--json"]).ok()).unwrap();
        let lower = alice.lower_files("Private");
        let lower = lower[0].strip_prefix(alice.home().join("Private")).unwrap();
        assert_eq!(line["uid"], alice.uid());
        assert_eq!(line["key"], key[0]["key_id"]);
        assert_eq!(line["lower_path"], lower.to_str().unwrap());
        assert_eq!(line["result"], "ok");
        assert!(line["program"].as_str().is_some_and(|it| it.ends_with("cat")), "{line}");
        assert!(line["time"].as_str().is_some_and(|it| it.starts_with("20")), "{line}");
        assert!(line["duration_ms"].is_u64() && line["volume"].is_string(), "{line}");
        assert!(!alice.logs().contains("diary"), "a name in plain in a log");
    }
}
