# What the guest's scripts have in common. They run under sh -eu.

# A disk of ext4 at /lower: eCryptfs does not stack on everything, and 9p is not what people use.
lower_disk() {
    mount -t ext4 /dev/vda /lower
}

# A user with a home and a runtime folder: root, alice or bob.
person() { # NAME
    mkdir -p "$(home_of "$1")" "/run/user/$(id -u "$1")"
    chown "$1:$1" "$(home_of "$1")" "/run/user/$(id -u "$1")"
    chmod 700 "$(home_of "$1")" "/run/user/$(id -u "$1")"
}

home_of() { # NAME
    awk -F: -v name="$1" '$1 == name { print $6 }' /etc/passwd
}

# Runs a program as that user, from their home, in a session keyring of its own that has their user keyring in it, as
# pam_keyinit(8) makes at login.
as() { # NAME PROGRAM ARG…
    name=$1
    shift
    (
        cd "$(home_of "$name")"
        exec env -i HOME="$(home_of "$name")" USER="$name" PATH="$PATH" XDG_RUNTIME_DIR="/run/user/$(id -u "$name")" \
            CLAVIGER_LOG=debug SOFTHSM2_CONF="$(home_of "$name")/softhsm2.conf" \
            /usr/bin/setpriv --reuid "$name" --regid "$name" --clear-groups \
            keyctl session - sh -c 'keyctl link @u @s && exec "$@"' as "$@"
    )
}

# Says what went wrong, and ends the script.
fail() {
    echo "FAILED: $*"
    exit 1
}

# Expects a command to fail; what it said goes to /tmp/said.
fails() { # PROGRAM ARG…
    if "$@" >/tmp/said 2>&1; then
        fail "worked, and should not: $*"
    fi
}

# Waits for a condition, 20 seconds at most.
until_true() { # PROGRAM ARG…
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "waited in vain: $*"
        sleep 0.1
    done
}

# Has the kernel forget inodes, and their FEKs with them.
drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}
