//! Modules that somebody else wrote.

use claviger_hw_tests::{User, World, story};

use crate::scene::{folder, says};

const PASSPHRASE: &str = "open sesame";

/// Alice, who has configured the module of the documents as `rack`.
fn alice_with_a_module_of_her_own(world: &mut World) -> User {
    let alice = world.user("alice");
    alice.write(
        "module.py",
        include_bytes!("../../../docs/example-module.py"),
    );
    alice.sh("chmod +x module.py && mkdir rack").ok();
    alice.configure("[modules.rack]\nprogram = \"/home/alice/module.py\"\nsettings = { folder = \"/home/alice/rack\" }\n");
    alice
}

story! {
    /// "Anyone can write one, in any language": and its keys are used like any others.
    fn a_key_of_a_module_of_ones_own_is_made_and_opens_a_folder(world) {
        let alice = alice_with_a_module_of_her_own(world);
        says(&alice.claviger(["token", "list"]).ok(), &["folder of keys"]);
        let made = alice
            .claviger(["key", "generate", "--module", "rack", "--label", "mine", "--pin"])
            .answers(&[PASSPHRASE, PASSPHRASE])
            .ok();
        says(&made, &["rack", "rsa2048", "mine", "software"]);
        folder(&alice, &["--recipient", "mine"]);
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("echo words >private/letter").ok();
        alice.claviger(["lock", "--all"]).ok();

        // Locking has logged out: the module wants the passphrase again, and refuses a wrong one.
        alice.claviger(["unlock", "private"]).answers(&["open barley", "", ""]).fails(6);
        alice.sh("cat private/letter").fails(1);
        alice.claviger(["unlock", "private"]).answers(&[PASSPHRASE]).ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "words\n");
        let audit = alice.sh("grep unlock .local/state/claviger/audit.log | tail -n 1").ok();
        says(&audit, &["\"module\":\"rack\"", "\"result\":\"ok\""]);
    }
}

story! {
    /// `MODULE:KEY`, wherever a key is named.
    fn a_key_that_a_module_of_ones_own_has_is_named_by_module_and_key(world) {
        let alice = alice_with_a_module_of_her_own(world);
        alice.sh("openssl genpkey -quiet -algorithm RSA -out rack/old.pem").ok();
        alice.sh("openssl genpkey -quiet -algorithm RSA -out rack/new.pem").ok();
        says(&alice.claviger(["key", "add", "rack:old"]).ok(), &["rack", "old"]);
        folder(&alice, &["--recipient", "rack:old"]);
        alice.claviger(["unlock", "Private"]).ok();
        alice.claviger(["recipient", "add", "Private", "rack:new"]).ok();
        alice.claviger(["recipient", "remove", "Private", "rack:old"]).ok();
        says(&alice.claviger(["recipient", "list", "Private"]).ok(), &["new"]);
        alice.claviger(["key", "remove", "rack:old"]).ok();
        alice.claviger(["key", "add", "--label", "of:colons", "rack:old"]).ok();
        alice.claviger(["key", "remove", "of:colons"]).ok();
    }
}

story! {
    /// "Any error says what happened, to which key, and what to do."
    fn a_module_or_a_key_in_it_that_is_not_there_is_named(world) {
        let alice = alice_with_a_module_of_her_own(world);
        says(&alice.claviger(["key", "add", "rack:nothing"]).fails(3), &["'rack:nothing'"]);
        says(&alice.claviger(["key", "add", "shelf:key"]).fails(3), &["'shelf:key'", "key list"]);
        says(&alice.claviger(["key", "generate", "--module", "shelf"]).fails(2), &["'shelf'"]);
        let out = ["key", "generate", "--module", "rack", "--label", "a", "--out", "a.pem"];
        says(&alice.claviger(out).fails(2), &["NAME.pem"]);
        let in_a_token = ["key", "generate", "--module", "pkcs11", "--token", "pkcs11:token=a", "--out", "a.pem"];
        says(&alice.claviger(in_a_token).fails(2), &["--out"]);
        alice.sh("echo exit 1 >module.py").ok();
        alice.claviger(["stop"]).ok();
        says(&alice.claviger(["key", "add", "rack:key"]).finish().stderr, &["rack"]);
    }
}
