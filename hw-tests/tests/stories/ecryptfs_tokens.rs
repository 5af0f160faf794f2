//! Folders of the kernel's eCryptfs, mounted by the RSA key of a smartcard or a TPM.

use claviger_hw_tests::{PIN, SoftHsm, Swtpm, User, story};
use serde_json::Value;

use crate::ecryptfs::PASSPHRASE;
use crate::scene::says;

const LOCKED: &str = "Required key not available";
const ABSENT: &str = "No medium found";

/// Where a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    In,
    Out,
}

/// Makes an RSA key `k` in a token; `options` say in which.
fn rsa_key(user: &User, options: &[&str], answers: &[&str]) {
    let generate = ["key", "generate", "--type", "rsa2048", "--label", "k"];
    let words = [&generate[..], options].concat();
    user.claviger(words).answers(answers).ok();
}

/// Whom a lower file is wrapped to: the tags of its packets, and their key sigs.
fn packets(user: &User, file: &str) -> Vec<(u64, String)> {
    let said = user.claviger(["ecryptfs", "inspect", "--json", file]).ok();
    let said: Value = serde_json::from_str(&said).unwrap();
    let packets = said["packets"].as_array().unwrap().iter();
    packets
        .map(|packet| {
            let sig = packet["key_sig"].as_str().unwrap().to_owned();
            (packet["tag"].as_u64().unwrap(), sig)
        })
        .collect()
}

/// "From an RSA key in a PKCS#11 token or a TPM": made, read back, locked, opened by the PIN; with the
/// token gone a clear error and nothing lost, and with the token back all is there.
fn a_token_opens_a_folder(user: &User, pin: &str, mut token: impl FnMut(Place)) {
    let claviger = |words: &[&str]| user.claviger(words.iter());
    let mount = [
        "mount", "--format", "ecryptfs", "--key", "k", "lower", "mnt",
    ];
    let unlock = ["unlock", "--format", "ecryptfs", "--key", "k", "mnt"];

    user.sh("mkdir lower mnt; head -c 100000 /dev/urandom >noise")
        .ok();
    says(
        &claviger(&mount).answers(&[pin]).finish().stderr,
        &["Unlocked", "with token 'k'"],
    );
    user.sh("mkdir mnt/letters; echo dear Bob >mnt/letters/one; cp noise mnt/noise")
        .ok();
    let whole = "test \"$(cat mnt/letters/one)\" = 'dear Bob' && cmp noise mnt/noise";
    user.sh(whole).ok();
    user.sh("grep -r 'dear Bob' lower").fails(1);
    assert!(matches!(
        packets(user, "lower/letters/one").as_slice(),
        [(1, _)]
    ));

    claviger(&["lock", "mnt"]).ok();
    says(&user.sh("cat mnt/letters/one").fails(1), &[LOCKED]);
    // A PIN that nobody gives, and a wrong one.
    claviger(&["stop"]).ok();
    claviger(&unlock).fails(8);
    says(
        &claviger(&unlock).answers(&["000000"]).fails(6),
        &["refused the PIN"],
    );
    says(&user.sh("cat mnt/letters/one").fails(1), &[LOCKED]);
    says(
        &claviger(&unlock).answers(&[pin]).finish().stderr,
        &["Unlocked"],
    );
    user.sh(whole).ok();

    // Mounted anew, no FEK is remembered.
    claviger(&["umount", "mnt"]).ok();
    says(
        &claviger(&mount).answers(&[pin]).finish().stderr,
        &["authenticates nothing"],
    );
    token(Place::Out);
    says(&user.sh("cat mnt/letters/one").fails(1), &[ABSENT]);
    says(
        &user.sh("echo dear Carol >>mnt/letters/one").fails(2),
        &[ABSENT],
    );
    // The public key is enough for what is new, and who wrote it goes on reading it.
    user.sh("exec 3<>mnt/letters/two; echo dear Dora >&3; cat mnt/letters/two")
        .ok();
    claviger(&["umount", "mnt"]).ok();
    says(&claviger(&mount).answers(&[pin]).fails(5), &["not present"]);
    says(
        &claviger(&["unlock", "--format", "ecryptfs", "--key", "k", "lower"])
            .answers(&[pin])
            .fails(5),
        &["not present"],
    );

    token(Place::In);
    claviger(&mount).answers(&[pin]).ok();
    user.sh(whole).ok();
    assert_eq!(user.sh("cat mnt/letters/two").ok(), "dear Dora\n");
    user.sh("echo dear Carol >>mnt/letters/one").ok();
    assert_eq!(
        user.sh("cat mnt/letters/one").ok(),
        "dear Bob\ndear Carol\n"
    );
}

story! {
    /// "An RSA key in a PKCS#11 token."
    fn a_smartcards_rsa_key_mounts_a_folder_and_nothing_is_lost_while_it_is_out(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        card.alone(&alice);
        let token = card.token(&alice, "work");
        rsa_key(&alice, &["--module", "pkcs11", "--token", &token], &[PIN]);
        a_token_opens_a_folder(&alice, PIN, |place| match place {
            Place::In => card.put_back(),
            Place::Out => card.take_out(),
        });
    }
}

story! {
    /// "An RSA key in a TPM."
    fn a_tpms_rsa_key_mounts_a_folder_and_nothing_is_lost_while_it_is_off(world) {
        let alice = world.user("alice");
        let mut tpm = Swtpm::new(&alice);
        rsa_key(&alice, &["--module", "tpm", "--pin"], &["7051", "7051"]);
        a_token_opens_a_folder(&alice, "7051", |place| match place {
            Place::In => tpm.put_back(),
            Place::Out => tpm.take_out(),
        });
    }
}

story! {
    /// "RSA for data and a passphrase for names", and the two as recipients of one file: each opens it.
    fn a_cards_key_and_a_passphrase_open_a_folder_of_both(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        card.alone(&alice);
        let token = card.token(&alice, "work");
        rsa_key(&alice, &["--module", "pkcs11", "--token", &token], &[PIN]);
        alice.write("pass", format!("{PASSPHRASE}\n"));
        alice.sh("mkdir lower mnt").ok();
        let both = ["mount", "--format", "ecryptfs", "--key", "k", "--passphrase-file", "pass", "--fnek-passphrase-file", "pass", "lower", "mnt"];
        alice.claviger(both).answers(&[PIN]).ok();
        alice.sh("echo dear Bob >mnt/letter").ok();
        alice.claviger(["umount", "mnt"]).ok();
        alice.claviger(["lock", "--all"]).ok();
        let names = alice.sh("ls lower").ok();
        assert!(names.starts_with("ECRYPTFS_FNEK_ENCRYPTED."), "{names}");
        let tags: Vec<u64> = packets(&alice, &format!("lower/{}", names.trim())).iter().map(|(tag, _)| *tag).collect();
        assert!(tags.contains(&1) && tags.contains(&3), "{tags:?}");

        // By the passphrase, while the card is out; then by the card.
        card.take_out();
        let by_passphrase = ["mount", "--format", "ecryptfs", "-o", "ro", "--passphrase-file", "pass", "lower", "mnt"];
        alice.claviger(by_passphrase).ok();
        assert_eq!(alice.sh("cat mnt/letter").ok(), "dear Bob\n");
        alice.claviger(["umount", "mnt"]).ok();
        alice.claviger(["lock", "--all"]).ok();
        card.put_back();
        let by_card = ["mount", "--format", "ecryptfs", "-o", "ro", "--key", "k", "--fnek-passphrase-file", "pass", "lower", "mnt"];
        alice.claviger(by_card).answers(&[PIN]).ok();
        assert_eq!(alice.sh("cat mnt/letter").ok(), "dear Bob\n");
    }
}
