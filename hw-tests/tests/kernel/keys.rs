//! Keys that the kernel's eCryptfs uses, each in its kind of token.

use std::fs;
use std::path::Path;

use claviger_hw_tests::Guest;

/// Created, read, forgotten, read again, for root, with the key whose sig is in `$sig`.
const ROUND: &str = "
    mount_for root $sig
    echo 'first words' >/mnt/root/file
    same 'unwraps of a file just made' 0 $(unwraps root)
    forget_files
    same content 'first words' \"$(cat /mnt/root/file)\"
    same unwraps 1 $(unwraps root)
    if grep -rq 'first words' /lower; then fail 'plaintext in the lower folder'; fi
";

fn round(guest: &Guest, set_up: &str) {
    guest.ok(&format!("lower_disk\nperson root\n{set_up}\n{ROUND}"));
}

#[test]
fn the_kernel_reads_and_writes_with_a_key_in_a_file() {
    round(
        &Guest::new().with_rsa_key("k", 4096),
        "
        enrol_key root k
        sig=$(add_key root k)
        ",
    );
}

#[test]
fn the_kernel_reads_and_writes_with_a_smartcard() {
    round(
        &Guest::new(),
        "
        card root work
        echo 123456 | as root claviger --pin-fd 0 key generate --module pkcs11 --token pkcs11:token=work \
            --type rsa2048 --label k
        # The module has logged in; a new one has not, and add-key asks for the PIN.
        as root claviger stop
        sig=$(echo 123456 | add_key root k --pin-fd 0)
        ",
    );
}

#[test]
fn the_kernel_reads_and_writes_with_the_machines_tpm() {
    round(
        &Guest::new().with_tpm(),
        "
        printf '9876\\n9876\\n' | as root claviger --pin-fd 0 key generate --module tpm --type rsa2048 --label k --pin
        as root claviger stop
        sig=$(echo 9876 | add_key root k --pin-fd 0)
        ",
    );
}

/// "Files that the daemon of ecryptfs-utils had wrapped open, with the same PEM file."
#[test]
fn what_ecryptfsd_wrapped_opens_with_its_key() {
    let guest = Guest::new();
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/tests/data/ecryptfs");
    for name in [
        "rsa2048.pem",
        "rsa2048-aes32/lower.tar.gz",
        "rsa2048-aes32/plain.txt",
    ] {
        let file = Path::new(name).file_name().unwrap();
        fs::copy(made.join(name), guest.shared().join(file)).unwrap();
    }
    guest.ok("
        lower_disk
        person root
        cp /host/rsa2048.pem /root/key.pem
        chmod 600 /root/key.pem
        sig=$(echo keypass | add_key root /root/key.pem --pin-fd 0)
        same 'key sig' fd591e1468c3ea8a $sig
        mkdir /lower/root
        tar -xzf /host/lower.tar.gz -C /lower/root
        mount_for root $sig
        cd /mnt/root
        awk -F '\\t' '$1 == \"file\" { print $4 \"  \" $5 }' /host/plain.txt >/tmp/sums
        same files 3 $(wc -l </tmp/sums)
        sha256sum -c /tmp/sums
        echo more >>size1
        forget_files
        same content 1more \"$(cat size1)\"
    ");
}

/// "Any of a file's keys opens it." The kernel tries the last one first.
#[test]
fn a_key_that_refuses_does_not_keep_another_from_opening() {
    let guest = Guest::new()
        .with_rsa_key("k1", 2048)
        .with_rsa_key("k2", 2048);
    guest.ok("
        lower_disk
        person root
        for k in k1 k2; do
            enrol_key root $k
            add_key root $k >/tmp/$k
        done
        mount_for root \"$(cat /tmp/k1),ecryptfs_sig=$(cat /tmp/k2)\"
        echo 'first words' >/mnt/root/file
        forget_files
        as root claviger key remove k2
        same content 'first words' \"$(cat /mnt/root/file)\"
        same unwraps 2 $(unwraps root)
    ");
}

#[test]
fn a_key_that_ecryptfs_cannot_use_is_refused_with_the_reason() {
    Guest::new().ok("
        person root
        as root claviger key generate --module openssl --type ec-p256 --label k
        fails as root claviger ecryptfs add-key k
        grep -q 'eCryptfs wraps to RSA keys, and this one is ec-p256' /tmp/said
    ");
}
