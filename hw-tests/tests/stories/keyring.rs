//! The kernel keyring decides which keys are here.

use claviger_hw_tests::{User, story, wait_until};
use serde_json::Value;

use crate::scene::{folder, says, software_key};

/// Unlinks the auth tok of the user's only key, as anybody would who works with keyctl(1).
fn unlink_auth_tok(user: &User) {
    let keys: Value = serde_json::from_str(&user.claviger(["key", "list", "--json"]).ok()).unwrap();
    let description = format!("claviger:{}", keys[0]["key_id"].as_str().unwrap());
    let serial = user
        .run("keyctl", ["search", "@u", "user", &description])
        .ok();
    user.run("keyctl", ["unlink", serial.trim(), "@u"]).ok();
}

story! {
    /// "An auth tok unlinked with keyctl makes the next cold unwrap fail with *not a recipient here*, put
    /// back it works, without restarting the daemon."
    fn an_auth_tok_taken_out_of_the_keyring_closes_the_folder_and_put_back_opens_it(world) {
        let alice = world.user("alice");
        let file = software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["unlock", "Private"]).ok();
        let daemon = alice.daemon();

        unlink_auth_tok(&alice);
        alice.claviger(["lock", "Private"]).ok();
        says(&alice.claviger(["unlock", "Private"]).fails(4), &["not a recipient here", "claviger key list"]);
        assert!(alice.claviger(["key", "list"]).ok().contains("not in the keyring now"));

        alice.claviger(["key", "add", &file]).ok();
        alice.claviger(["unlock", "Private"]).ok();
        assert_eq!(alice.daemon(), daemon);
    }
}

story! {
    /// The same in file scope, where each cold open asks for the key.
    fn in_a_strict_folder_the_next_cold_open_is_refused_without_the_auth_tok(world) {
        let alice = world.user("alice");
        let file = software_key(&alice, "k");
        folder(&alice, &["--recipient", "k", "--scope", "file"]);
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("echo 1 >private/one; echo 2 >private/two").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        let daemon = alice.daemon();
        alice.sh("cat private/one").ok();

        unlink_auth_tok(&alice);
        says(&alice.sh("cat private/two").fails(1), &["Required key not available"]);
        says(&alice.claviger(["cat", "Private", "two"]).fails(4), &["not a recipient here"]);

        alice.claviger(["key", "add", &file]).ok();
        assert_eq!(alice.sh("cat private/two").ok(), "2\n");
        assert_eq!(alice.daemon(), daemon);
    }
}

story! {
    /// "Where keyctl is refused (containers) it holds them in memory, and `status` says so."
    fn where_keyctl_is_refused_auth_toks_are_in_memory_and_everything_works(world) {
        let alice = world.user("alice");
        alice.start_daemon_without("keyctl");
        says(alice.status()["auth_toks"].as_str().unwrap(), &["memory", "Operation not permitted"]);
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("echo text >private/letter").ok();
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
        says(&alice.run("keyctl", ["list", "@u"]).ok(), &["empty"]);
    }
}

story! {
    /// A user whose key quota is used up is told so, and by what to see it.
    fn a_full_keyring_is_an_error_that_names_the_quota(world) {
        let alice = world.user("alice");
        alice.claviger(["status"]).ok();
        alice.sh("i=0; while keyctl add user filler$i x @u >/dev/null 2>&1; do i=$((i+1)); done").ok();
        alice.sh("mkdir keys").ok();
        let said = alice.claviger(["key", "generate", "--module", "openssl", "--label", "k", "--out", "keys/k.pem"]).finish();
        assert_ne!(said.code, 0, "{said}");
        says(&said.stderr, &["quota", "/proc/key-users"]);
        alice.run("keyctl", ["clear", "@u"]).ok();
        // The kernel gives the quota back a little later.
        wait_until("there is room again", || alice.claviger(["key", "add", "keys/k.pem"]).finish().code == 0);
        assert!(!alice.claviger(["key", "list"]).ok().contains("not in the keyring now"));
    }
}
