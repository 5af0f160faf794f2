//! A card that other programs use too.

use claviger_hw_tests::{PIV_PIN, PivKey, story, wait_until};

use crate::table::{alice_with_a_piv_card, folder};

/// Files that are opened by the card one by one meanwhile.
const FILES: usize = 20;

story! {
    /// A mail program signs, a browser logs in: the card is shared, and every unwrap succeeds.
    fn files_open_while_another_program_uses_the_card(world) {
        let (alice, _card) = alice_with_a_piv_card(world, PivKey::Rsa);
        alice.uses_opensc();
        folder(&alice, PivKey::Rsa, &["--scope", "file"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIV_PIN]).ok();
        alice.sh(&format!("for i in $(seq {FILES}); do echo $i >private/$i; done")).ok();
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).answers(&[PIV_PIN]).ok();

        let mut other = alice.shell();
        other.begin(&format!(
            "while [ ! -e stop ]; do \
             pkcs11-tool --module opensc-pkcs11.so --login --pin {PIV_PIN} --list-objects --type privkey >>seen || exit; done"
        ));
        wait_until("the other program uses the card", || alice.sh("test -s seen").finish().code == 0);
        let opened = alice.audited("unwrap");
        let all = format!("{}\n", (1..=FILES).map(|i| i.to_string()).collect::<Vec<_>>().join("\n"));
        assert_eq!(alice.sh(&format!("cd private && cat $(seq {FILES})")).ok(), all);
        assert!(alice.audited("unwrap") >= opened + FILES, "the card was not asked for each");
        alice.sh("touch stop").ok();
        let said = other.end();
        assert_eq!(said.status, 0, "the other program was disturbed: {}", said.text);
    }
}
