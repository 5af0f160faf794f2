//! Single files that the kernel and Claviger show: their times, and those of which nothing was written.

use crate::folders::scene;

/// "Times in nanoseconds", those of the lower file: what was set, what writing, truncating and reading
/// make of them.
#[test]
fn times_are_those_of_the_lower_file_to_the_nanosecond_as_with_the_kernel() {
    scene(
        r#"
        set='2001-02-03 04:05:06.123456789'
        expected="$set +0000"
        options=ecryptfs_sig=$ONE,ecryptfs_key_bytes=32
        access() { stat -c %x "$1"; }
        change() { stat -c %y "$1"; }
        changes() { stat -c '%y %z' "$1"; }
        # Whether the last command changed it, and the mount shows it as it is below.
        moved() { # WHAT WHICH
            [ "$($2 $upper)" != "$expected" ] || fail "$1 by $by left it"
            same "$2 after $1 by $by" "$($2 $lower)" "$($2 $upper)"
            same "changes after $1 by $by" "$(changes $lower)" "$(changes $upper)"
        }
        for by in kernel claviger; do
            mount_by $by $by $options
            upper=/mnt/$by/file lower=/lower/$by/file
            text 1 9000 >$upper
            moved making change
            set_times() {
                # The kernel cuts what is set through it to seconds.
                case $by in
                kernel) /usr/bin/touch -d "$set" $lower ;;
                claviger) /usr/bin/touch -d "$set" $upper ;;
                esac
                forget_files
                same "changes by $by" "$(changes $lower)" "$(changes $upper)"
                # The kernel, which looks into the header, takes that for an access.
                [ $by = kernel ] || same 'access time after looking' "$expected" "$(access $lower)"
            }
            set_times
            text 1 10 >>$upper
            moved append change
            set_times
            truncate -s 4097 $upper
            moved truncate change
            set_times
            truncate -s 9000 $upper
            moved lengthen change
            set_times
            cat $upper >/dev/null
            moved read access
            same "change time after reading by $by" "$expected" "$(change $upper)"
            set_times
            chmod 600 $upper
            same "change time after chmod by $by" "$expected" "$(change $upper)"
            unmount_by $by $by
        done

        # What is set through Claviger the kernel shows uncut.
        mount_by claviger claviger $options
        mkdir /mnt/claviger/folder
        ln -s nowhere /mnt/claviger/link
        cd /mnt/claviger
        /usr/bin/touch -h -d "$set" file link folder
        cd /
        unmount_by claviger claviger
        for by in kernel claviger; do
            mount_by $by claviger $options
            for name in file link folder; do
                same "$name by $by" "$expected" "$(change /mnt/claviger/$name)"
            done
            unmount_by $by claviger
        done
        "#,
    );
}

/// "A lower file of no bytes", of a crash or a full disk: it reads as empty and is repaired by writing.
#[test]
fn lower_files_of_no_bytes_are_empty_and_repaired_by_writing_as_with_the_kernel() {
    scene(
        r#"
        options=ecryptfs_sig=$ONE,ecryptfs_key_bytes=16
        for by in kernel claviger; do
            mkdir /lower/$by
            for name in looked-at read written appended emptied lengthened renamed; do
                : >/lower/$by/$name
            done
            mount_by $by $by $options
            (
                cd /mnt/$by
                same size 0 $(stat -c %s looked-at)
                same content '' "$(cat read)"
                echo words >written
                echo words >>appended
                truncate -s 0 emptied
                truncate -s 5000 lengthened
                mv renamed other
            )
            unmount_by $by $by
            # Looking repairs nothing.
            same "$by: length of what was looked at" 0 $(stat -c %s /lower/$by/looked-at)
            for name in written appended emptied lengthened; do
                same "$by: recipients of $name" "$ONE " "$(recipients /lower/$by/$name)"
            done
        done
        for by in kernel claviger; do
            mount_by $by kernel $options
            mount_by $by claviger $options
            alike /mnt/kernel /mnt/claviger
            unmount_by $by kernel
            unmount_by $by claviger
        done

        # With headers in attributes the kernel refuses them, and with passthrough it writes to them in
        # clear: not so here. What is repaired it reads.
        options=$options,ecryptfs_xattr_metadata
        mkdir /lower/xattr
        : >/lower/xattr/file
        mount_by kernel xattr $options
        fails cat /mnt/xattr/file
        unmount_by kernel xattr
        mount_by claviger xattr $options,ecryptfs_passthrough
        same content '' "$(cat /mnt/xattr/file)"
        echo words >/mnt/xattr/file
        unmount_by claviger xattr
        if grep -q words /lower/xattr/file; then fail 'a file in clear'; fi
        mount_by kernel xattr $options
        same content words "$(cat /mnt/xattr/file)"
        "#,
    );
}
