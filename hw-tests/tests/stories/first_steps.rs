//! From nothing to an open folder and back.

use claviger_hw_tests::{SoftHsm, story};

story! {
    /// "`claviger init`, `claviger mount`": README, the session by hand.
    fn a_card_opens_the_folder_and_nothing_else_does(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        let token = card.token(&alice, "work");
        alice
            .claviger(["key", "generate", "--module", "pkcs11", "--type", "ec-p256", "--label", "work key"])
            .answers(&[card.pin()])
            .fails(2);
        alice
            .claviger(["key", "generate", "--module", "pkcs11", "--token", &token, "--label", "k"])
            .answers(&[card.pin()])
            .ok();
        alice.claviger(["init", "--recipient", "k", "--no-recovery", "Private"]).ok();
        alice.sh("mkdir private").ok();
        alice.claviger(["mount", "Private", "private"]).answers(&[card.pin()]).ok();
        alice.sh("echo secret words >private/letter && cat private/letter").ok();
        assert!(!alice.sh("grep -r 'secret words' Private").finish().stdout.contains("secret"));
        alice.claviger(["lock", "private"]).ok();
        let refused = alice.sh("cat private/letter").fails(1);
        assert!(refused.contains("Required key not available"), "{refused}");
        alice.claviger(["unlock", "private"]).answers(&[card.pin()]).ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "secret words\n");
        alice.claviger(["umount", "private"]).ok();
    }
}
