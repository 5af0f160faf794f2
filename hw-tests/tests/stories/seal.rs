//! One file or a pipe, without a volume.

use claviger_hw_tests::{SoftHsm, story};

story! {
    /// "`claviger seal`/`unseal`: one file or a pipe, no mount": docs/why.md.
    fn what_was_sealed_to_a_card_opens_with_it_and_not_when_it_was_changed(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        let token = card.token(&alice, "work");
        alice
            .claviger(["key", "generate", "--module", "pkcs11", "--token", &token, "--label", "k"])
            .answers(&[card.pin()])
            .ok();
        alice.write("letter", "the plans are in the piano\n".repeat(10_000));
        alice.claviger(["seal", "--recipient", "k", "-o", "letter.sealed", "letter"]).ok();
        assert!(!alice.sh("grep -c piano letter.sealed").finish().stdout.starts_with('1'));
        alice.claviger(["unseal", "-o", "again", "letter.sealed"]).answers(&[card.pin()]).ok();
        alice.sh("cmp letter again").ok();
        alice.sh("claviger() { /run/programs/claviger \"$@\"; }; claviger seal --recipient k <letter | claviger unseal | cmp - letter").ok();

        alice.sh("cp letter.sealed changed; printf x | dd of=changed bs=1 seek=100000 conv=notrunc").ok();
        let said = alice.claviger(["unseal", "-o", "never", "changed"]).fails(12);
        assert!(said.contains("does not verify"), "{said}");
        alice.sh("test ! -e never").ok();
        alice.claviger(["unseal", "letter"]).fails(2);

        let bob = world.user("bob");
        alice.sh("chmod 755 .").ok();
        let said = bob.claviger(["unseal", "/home/alice/letter.sealed"]).fails(4);
        assert!(said.contains("not a recipient"), "{said}");
    }
}
