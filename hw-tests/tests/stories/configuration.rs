//! Configuration and libraries that are wrong.

use claviger_hw_tests::{PIN, story};

use crate::scene::{alice_with_a_card, folder, says, software_key};

story! {
    /// "Unknown keys are errors that name the line."
    fn an_error_in_the_configuration_is_named_by_file_and_line(world) {
        let alice = world.user("alice");
        for (text, line, word) in [
            ("[pkcs11]\n\nlibrary = \"/a.so\"\n", 3, "library"),
            ("[policy]\nfinal-try = \"perhaps\"\n", 2, "perhaps"),
            ("[tpm\n", 1, ""),
            ("# mine\n[prompts]\ntimeout-s = \"long\"\n", 3, "string"),
            ("[prompts]\ntimeout-s = 0\n", 2, "`0`"),
            ("[pkcs11]\nlibraries = [\"token.so\"]\n", 2, "\"token.so\" is not an absolute path"),
        ] {
            alice.write(".config/claviger/config.toml", text);
            let said = alice.claviger(["status"]).fails(2);
            says(&said, &[&format!("/home/alice/.config/claviger/config.toml:{line}:"), word]);
        }
        alice.write(".config/claviger/config.toml", "");
        alice.claviger(["status"]).ok();
    }
}

story! {
    /// "Module library missing or not a PKCS#11 library."
    fn a_pkcs11_library_that_is_missing_or_none_is_named(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        alice.write("text.so", "not a library");
        for (library, words) in [
            ("/nowhere/token.so", &["/nowhere/token.so", "No such file"][..]),
            ("/home/alice/text.so", &["/home/alice/text.so"][..]),
            ("/lib/x86_64-linux-gnu/libc.so.6", &["libc.so.6", "not a PKCS#11 library"][..]),
        ] {
            alice.claviger(["stop"]).ok();
            alice.write(".config/claviger/config.toml", format!("[pkcs11]\nlibraries = [\"{library}\"]\n"));
            let said = alice.claviger(["unlock", "Private"]).answers(&[PIN]).fails(2);
            says(&said, words);
        }
    }
}

story! {
    /// A library that is missing keeps only its own tokens from working.
    fn a_missing_library_does_not_get_in_the_way_of_other_keys(world) {
        let alice = world.user("alice");
        alice.configure("[pkcs11]\nlibraries = [\"/nowhere/token.so\"]\n");
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["unlock", "Private"]).ok();
    }
}

story! {
    /// "Any error says what happened, to which key, and what to do."
    fn a_key_that_does_not_exist_is_named(world) {
        let alice = world.user("alice");
        says(&alice.claviger(["init", "--recipient", "nobody", "Private"]).fails(3), &["nobody"]);
        says(&alice.claviger(["init", "--recipient", "/nowhere/key.pem", "Private"]).fails(3), &["/nowhere/key.pem"]);
        alice.write("text.pem", "no key\n");
        says(&alice.claviger(["init", "--recipient", "text.pem", "Private"]).fails(2), &["text.pem"]);
        alice.sh("test ! -e Private").ok();
        software_key(&alice, "k");
        alice.claviger(["key", "remove", "k"]).ok();
        alice.claviger(["key", "remove", "k"]).fails(3);
        alice.sh("test -e keys/k.pem").ok();
    }
}

story! {
    /// "Exit code 2": a command line that cannot be meant.
    fn a_command_line_that_cannot_be_meant_is_a_usage_error(world) {
        let alice = world.user("alice");
        for args in [
            &["frobnicate"][..],
            &["lock"],
            &["lock", "--all", "private"],
            &["unlock"],
            &["init", "--scope", "planet", "Private"],
            &["key", "generate", "--module", "pkcs11", "--label", "k"],
            &["key", "generate", "--module", "abacus"],
            &["key", "generate", "--module", "openssl", "--type", "rsa512", "--label", "k"],
            &["--pin-fd", "77", "status"],
        ] {
            alice.claviger(args).fails(2);
        }
        let said = alice.sh("XDG_RUNTIME_DIR=/root /run/programs/claviger status").fails(11);
        says(&said, &["/root/claviger"]);
    }
}
