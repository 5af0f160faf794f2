//! Whose daemon answers, and who may open the device.

use claviger_hw_tests::Guest;

/// "The daemon of the user who opens a file is asked, and no other."
#[test]
fn each_user_is_served_by_a_daemon_of_their_own() {
    let guest = Guest::new()
        .with_rsa_key("alices", 2048)
        .with_rsa_key("bobs", 2048);
    guest.ok("
        lower_disk
        open_device
        for name in alice bob; do
            person $name
            enrol_key $name ${name}s
            sig=$(add_key $name ${name}s)
            mount_for $name $sig
            as $name sh -c \"echo \\\"$name's words\\\" >/mnt/$name/file\"
        done
        forget_files
        same content \"alice's words\" \"$(as alice cat /mnt/alice/file)\"
        same \"alice's unwraps\" 1 $(unwraps alice)
        same \"bob's unwraps\" 0 $(unwraps bob)
        forget_files
        # Root has no daemon, and none of the others answers for him.
        fails cat /mnt/bob/file
        same content \"bob's words\" \"$(as bob cat /mnt/bob/file)\"
        same \"alice's unwraps\" 1 $(unwraps alice)
    ");
}

/// "add-key says why the kernel cannot be served yet."
#[test]
fn what_keeps_a_daemon_from_the_device_is_told() {
    let guest = Guest::new().with_rsa_key("k", 2048);
    guest.ok("
        person alice
        enrol_key alice k
        as alice claviger ecryptfs add-key k >/tmp/said 2>&1
        grep -q 'this user may not open /dev/ecryptfs' /tmp/said
        open_device
        as alice claviger ecryptfs add-key k >/tmp/said 2>&1
        if grep -q 'not served' /tmp/said; then cat /tmp/said; fail 'it is served now'; fi

        person root
        exec 3<>/dev/ecryptfs
        enrol_key root k 3>&-
        as root claviger ecryptfs add-key k 3>&- >/tmp/said 2>&1
        grep -q 'another program of this user serves /dev/ecryptfs' /tmp/said
        exec 3>&-

        as alice claviger stop
        as root claviger stop
        until_true rmmod ecryptfs
        as root claviger ecryptfs add-key k >/tmp/said 2>&1
        grep -q 'the module ecryptfs is not loaded' /tmp/said
    ");
}

/// "Root's daemon can answer for others": a service's files, opened by the machine's key.
#[test]
fn roots_daemon_serves_the_users_it_is_told_to() {
    let guest = Guest::new().with_rsa_key("k", 2048);
    guest.ok("
        lower_disk
        person root
        person alice
        person bob
        echo 'uids = [1000]' >>/root/.config/claviger/config.toml
        enrol_key root k
        sig=$(add_key root k)
        mount_for root $sig
        echo 'first words' >/mnt/root/file
        chmod 644 /mnt/root/file
        forget_files
        fails as bob cat /mnt/root/file
        same unwraps 0 $(unwraps root)
        same content 'first words' \"$(as alice cat /mnt/root/file)\"
        same unwraps 1 $(unwraps root)
    ");
}
