//! Whether a folder is the one that it was.

use claviger_hw_tests::{PIN, story};

use crate::scene::{alice_with_a_card, finds_a_mount_of_roots, folder, says, software_key};

story! {
    /// "An unknown volume is named as unknown in the prompt, *before* the PIN."
    fn a_folder_that_was_never_seen_here_is_named_as_unknown_before_the_pin(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["stop"]).ok();
        let asked = |alice: &claviger_hw_tests::User| alice.claviger(["unlock", "Private"]).fails(8);
        let known = asked(&alice);
        says(&known, &["PIN of token", "/home/alice/Private"]);
        assert!(!known.contains("UNKNOWN"), "{known}");
        alice.sh("rm .local/state/claviger/known_volumes").ok();
        says(&asked(&alice), &["/home/alice/Private", "UNKNOWN VOLUME", "has not opened it before"]);
        alice.claviger(["unlock", "Private"]).answers(&[PIN]).ok();
        alice.claviger(["stop"]).ok();
        assert!(!asked(&alice).contains("UNKNOWN"));
    }
}

story! {
    /// "Then the pin moves up and what changed is shown."
    fn what_changed_since_this_machine_saw_it_last_is_shown(world) {
        let mut alice = world.user("alice");
        software_key(&alice, "k");
        software_key(&alice, "second");
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["unlock", "Private"]).ok();
        alice.claviger(["stop"]).ok();
        // Another machine of hers: its own memory of volumes.
        alice.sh("cp -r .local/state other-machine").ok();
        let state = alice.home().join("other-machine");
        alice.set("XDG_STATE_HOME", state.to_string_lossy());
        alice.claviger(["unlock", "Private"]).ok();
        alice.claviger(["recipient", "add", "Private", "second"]).ok();
        alice.claviger(["recipient", "remove", "Private", "k"]).ok();
        alice.claviger(["stop"]).ok();

        alice.set("XDG_STATE_HOME", alice.home().join(".local/state").to_string_lossy());
        let said = alice.claviger(["unlock", "Private"]).finish();
        assert_eq!(said.code, 0, "{said}");
        says(&said.stderr, &["new epoch has begun: 1 → 2", "recipient added: second", "recipient removed"]);
        alice.claviger(["lock", "Private"]).ok();
        let said = alice.claviger(["unlock", "Private"]).finish();
        assert!(!said.stderr.contains("new epoch"), "told once: {said}");
    }
}

story! {
    /// "`auto` takes … the unix socket otherwise (containers)": a mount in another network namespace.
    fn a_mount_in_another_network_namespace_is_reached_over_the_unix_socket(world) {
        let alice = world.user("alice");
        let root = world.root();
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        root.sh("unshare --net /run/programs/claviger mount -o allow_other /home/alice/Private /home/alice/private").ok();
        finds_a_mount_of_roots(&alice);
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("echo text >private/letter; cat private/letter").ok(), "text\n");
        assert_eq!(alice.mounts()[0]["carrier"], "unix");
        root.sh("umount /home/alice/private").ok();
    }
}
