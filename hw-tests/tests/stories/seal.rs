//! One file or a pipe, without a volume.

use claviger_hw_tests::{SoftHsm, story, wait_until};

use crate::scene::{says, software_key};

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

story! {
    /// `--output` names what is there already: a device or pipe is written to and not replaced by a file, which for
    /// root is the machine's /dev/null, and a link leads where it led.
    fn an_output_that_is_no_file_or_a_link_stays_what_it_is(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        alice.sh("echo text >letter; mkfifo pipe; : >target; ln -s target link").ok();
        let seal = "/run/programs/claviger seal --recipient k letter -o";
        let unseal = "/run/programs/claviger unseal";
        assert_eq!(alice.sh(&format!("cat pipe >got & {seal} pipe && wait && {unseal} got")).ok(), "text\n");
        assert_eq!(alice.sh(&format!("{seal} /dev/stdout | {unseal}")).ok(), "text\n");
        assert_eq!(alice.sh(&format!("{seal} link && {unseal} target")).ok(), "text\n");
        alice.sh(&format!("{seal} /dev/null && test -p pipe -a -c /dev/null -a -h link")).ok();
        alice.sh(&format!("{unseal} -o target target && grep -q text target")).ok();
    }
}

story! {
    /// What cannot be read or written is named, before anybody is asked for a PIN and before a byte is written.
    fn seal_and_unseal_name_the_file_that_is_wrong(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        alice.sh("mkdir folder; echo text >letter; echo text | /run/programs/claviger seal --recipient k >sealed").ok();
        alice.sh("mkdir -m 500 closed").ok();
        let table: [(&str, i32, &str); 8] = [
            ("seal --recipient k -o closed/sealed letter", 11, "closed/sealed: permission denied\n"),
            ("seal --recipient k folder", 1, "folder: Is a directory"),
            ("seal --recipient k -o folder letter", 1, "folder: Is a directory"),
            ("seal --recipient k -o no/sealed letter", 3, "no/sealed: No such file or directory\n"),
            ("seal --recipient k letter >/dev/full", 1, "standard output: No space left on device\n"),
            ("unseal letter", 2, "letter: not a sealed stream"),
            ("unseal folder", 1, "folder: Is a directory"),
            ("unseal -o /dev/full sealed", 1, "/dev/full: No space left on device\n"),
        ];
        for (command, code, said) in table {
            let finished = alice.sh(&format!("/run/programs/claviger {command}")).finish();
            assert_eq!((finished.code, finished.stdout.as_str()), (code, ""), "{command}");
            says(&finished.stderr, &[said]);
        }
        let said = alice.sh("head -c -1 sealed | /run/programs/claviger unseal").fails(12);
        says(&said, &["standard input: ", "does not verify", "cut short"]);
    }
}

story! {
    /// Ctrl-C in the middle leaves nothing half-written, which would be plaintext under a name that nobody knows.
    fn unseal_that_is_interrupted_leaves_nothing_behind(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        alice.sh("mkdir to; head -c 1000000 /dev/zero | /run/programs/claviger seal --recipient k >sealed").ok();
        let mut shell = alice.shell();
        shell.begin("(head -c 500000 sealed; cat) | sh -c 'echo $$ >pid; exec /run/programs/claviger unseal -o to/plain'");
        wait_until("some of it is written", || alice.sh("test -s to/.tmp*").finish().code == 0);
        alice.sh("kill -INT $(cat pid)").ok();
        wait_until("nothing is left", || alice.sh("ls -A to").ok().is_empty());
    }
}
