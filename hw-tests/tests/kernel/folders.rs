//! Folders that the kernel and Claviger mount in turn: each reads what the other wrote.

// A test that cannot go on has failed, and its line says where.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use claviger_hw_tests::Guest;
use claviger_vault::ecryptfs::{
    Fek, Header, KeyLen, KeySig, LowerFile, MetadataPlace, NamesAre, Packet, Tag1,
};

/// The keys of the passphrases in `vault/tests/data/ecryptfs`: two for content, one for names.
const ONE: &str = "f2291ce4c3069633";
const TWO: &str = "f84a2048a4c40079";
const NAMES: &str = "9e677d297b65a19b";

/// The key in `rsa2048.pem` there.
const RSA: &str = "fd591e1468c3ea8a";

/// A guest that finds the auth toks of the three passphrases and the RSA key in `/host`.
fn guest() -> Guest {
    let guest = Guest::new();
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/tests/data/ecryptfs");
    let toks = [ONE, TWO, NAMES].map(|sig| format!("authtok.{sig}.bin"));
    for name in toks.iter().map(String::as_str).chain(["rsa2048.pem"]) {
        fs::copy(made.join(name), guest.shared().join(name)).unwrap();
    }
    guest
}

/// Runs `script` as root, whose keyring has the keys of the passphrases.
pub fn scene(script: &str) {
    guest().ok(&format!(
        r#"
        lower_disk
        person root
        ONE={ONE} TWO={TWO} NAMES={NAMES} RSA={RSA}
        for sig in $ONE $TWO $NAMES; do put_auth_tok root $sig; done
        {script}
        "#
    ));
}

/// "What Claviger writes the kernel reads, and the other way round": all kinds of files, in all four
/// forms of a folder. Names have another key length than content, which the options allow.
fn each_reads_what_the_other_wrote(key_bytes: u8, names_key_bytes: u8) {
    scene(&format!(
        r#"
        make_tree /tmp/kernel 1
        make_tree /tmp/claviger 1000
        each_reads() {{ # NAME OPTIONS
            options=ecryptfs_sig=$ONE,ecryptfs_key_bytes={key_bytes}$2
            mount_by kernel $1 $options
            make_tree /mnt/$1/kernel 1
            unmount_by kernel $1
            mount_by claviger $1 $options
            alike /tmp/kernel /mnt/$1/kernel
            make_tree /mnt/$1/claviger 1000
            unmount_by claviger $1
            mount_by kernel $1 $options
            alike /tmp/claviger /mnt/$1/claviger
            unmount_by kernel $1
        }}
        names=,ecryptfs_fnek_sig=$NAMES,ecryptfs_fn_key_bytes={names_key_bytes}
        each_reads header ''
        each_reads header-names $names
        each_reads xattr ,ecryptfs_xattr_metadata
        each_reads xattr-names ,ecryptfs_xattr_metadata$names
        ls /lower/header-names | grep -vq ECRYPTFS_FNEK_ENCRYPTED && fail 'a name in clear'
        ls /lower/header/claviger | grep -q 4097 || fail 'an encrypted name'
        "#
    ));
}

#[test]
fn kernel_and_claviger_read_each_others_folders_of_aes_128() {
    each_reads_what_the_other_wrote(16, 24);
}

#[test]
fn kernel_and_claviger_read_each_others_folders_of_aes_192() {
    each_reads_what_the_other_wrote(24, 32);
}

#[test]
fn kernel_and_claviger_read_each_others_folders_of_aes_256() {
    each_reads_what_the_other_wrote(32, 16);
}

/// "Overwritten in the middle, appended to, made shorter and longer, renamed, deleted": by one after the
/// other, twice.
#[test]
fn kernel_and_claviger_change_each_others_files_in_turn() {
    scene(
        r#"
        in_turn() { # NAME OPTIONS
            options=ecryptfs_sig=$ONE$2
            rm -rf /tmp/tree
            make_tree /tmp/tree 1
            mount_by claviger $1 $options
            make_tree /mnt/$1/tree 1
            unmount_by claviger $1
            turn=1
            for by in kernel claviger kernel claviger; do
                mount_by $by $1 $options
                alike /tmp/tree /mnt/$1/tree
                change_tree /tmp/tree $turn
                change_tree /mnt/$1/tree $turn
                alike /tmp/tree /mnt/$1/tree
                unmount_by $by $1
                turn=$((turn + 1))
            done
            mount_by kernel $1 $options
            alike /tmp/tree /mnt/$1/tree
            unmount_by kernel $1
        }
        in_turn header ,ecryptfs_key_bytes=32
        in_turn xattr-names \
            ,ecryptfs_key_bytes=16,ecryptfs_xattr_metadata,ecryptfs_fnek_sig=$NAMES,ecryptfs_fn_key_bytes=16
        "#,
    );
}

/// "Each of several recipients opens a file": two passphrases, and a passphrase and an RSA key, whoever
/// of the two wrote it and whoever reads it.
#[test]
fn each_recipient_of_a_file_opens_it_for_kernel_and_claviger() {
    scene(
        r#"
        serve_rsa_key
        written_for() { # NAME SIG SIG
            for by in kernel claviger; do
                mount_by $by $1 ecryptfs_sig=$2,ecryptfs_sig=$3,ecryptfs_key_bytes=32
                echo "words of $by" >/mnt/$1/$by
                unmount_by $by $1
                same "packets by $by" "$2 $3 " "$(recipients /lower/$1/$by)"
            done
        }
        opened_with() { # NAME SIG
            for by in kernel claviger; do
                mount_by $by $1 ro,ecryptfs_sig=$2,ecryptfs_key_bytes=32,ecryptfs_mount_auth_tok_only
                for wrote in kernel claviger; do
                    same "content by $2" "words of $wrote" "$(cat /mnt/$1/$wrote)"
                done
                unmount_by $by $1
            done
        }
        written_for passphrases $TWO $ONE
        written_for both $ONE $RSA
        before=$(unwraps root)
        opened_with both $RSA
        same 'unwraps by the RSA key' 4 $(($(unwraps root) - before))
        take_auth_tok root $ONE
        opened_with passphrases $TWO
        put_auth_tok root $ONE
        take_auth_tok root $TWO
        opened_with passphrases $ONE
        "#,
    );
}

/// "A key in a smartcard serves the kernel and Claviger's own mounts."
#[test]
fn kernel_and_claviger_read_each_others_files_of_a_smartcard() {
    scene(
        r#"
        card root work
        echo 123456 | as root claviger --pin-fd 0 key generate --module pkcs11 --token pkcs11:token=work \
            --type rsa2048 --label k
        sig=$(add_key root k)
        options=ecryptfs_sig=$sig,ecryptfs_key_bytes=32
        mount_by claviger card $options
        echo 'words of claviger' >/mnt/card/claviger
        unmount_by claviger card
        before=$(unwraps root)
        mount_by kernel card $options
        same content 'words of claviger' "$(cat /mnt/card/claviger)"
        same unwraps 1 $(($(unwraps root) - before))
        echo 'words of the kernel' >/mnt/card/kernel
        unmount_by kernel card
        mount_by claviger card $options
        same content 'words of the kernel' "$(cat /mnt/card/kernel)"
        "#,
    );
}

/// "`ecryptfs_passthrough` and `ecryptfs_encrypted_view`, as with the kernel": what is seen of one lower
/// folder, with files of both kinds and some of neither.
#[test]
fn files_that_are_not_decrypted_look_as_with_the_kernel() {
    scene(
        r#"
        mount_by kernel mixed ecryptfs_sig=$ONE,ecryptfs_key_bytes=16
        make_tree /mnt/mixed/header 1
        unmount_by kernel mixed
        mount_by kernel mixed ecryptfs_sig=$ONE,ecryptfs_key_bytes=16,ecryptfs_xattr_metadata
        make_tree /mnt/mixed/xattr 1000
        unmount_by kernel mixed
        mkdir /lower/mixed/plain
        text 1 9000 >/lower/mixed/plain/9000
        options=ecryptfs_sig=$ONE,ecryptfs_key_bytes=16,ecryptfs_xattr_metadata
        view=,ecryptfs_encrypted_view
        for more in ,ro ,ecryptfs_passthrough $view $view,ecryptfs_passthrough; do
            for by in kernel claviger; do
                text 1 10 >/lower/mixed/plain/10
                mount_by $by mixed $options$more
                case $more in
                ,ecryptfs_passthrough)
                    echo more >>/mnt/mixed/plain/10
                    { text 1 10; echo more; } | cmp - /lower/mixed/plain/10
                    echo words >/mnt/mixed/new
                    if grep -q words /lower/mixed/new; then fail 'a new file in clear'; fi
                    rm /mnt/mixed/new
                    ;;
                *) fails sh -c 'echo more >>/mnt/mixed/plain/10' ;;
                esac
                seen /mnt/mixed >/tmp/seen.$by
                unmount_by $by mixed
            done
            diff /tmp/seen.kernel /tmp/seen.claviger || fail "another view with $options$more"
        done

        # What a backup takes needs no attributes any more.
        mount_by claviger mixed $options,ecryptfs_encrypted_view
        mkdir /lower/copy
        cp -a /mnt/mixed/xattr /lower/copy
        unmount_by claviger mixed
        mount_by kernel copy ecryptfs_sig=$ONE,ecryptfs_key_bytes=16
        make_tree /tmp/tree 1000
        alike /tmp/tree /mnt/copy/xattr

        # Names are seen as they are below. The kernel lists them so, and finds a file by its name above only.
        options=ecryptfs_sig=$ONE,ecryptfs_key_bytes=16,ecryptfs_fnek_sig=$NAMES,ecryptfs_fn_key_bytes=16
        mount_by kernel named $options
        text 1 9000 >/mnt/named/file
        unmount_by kernel named
        mount_by kernel named $options$view
        names=$(cd /mnt/named && echo *)
        content=$(sha256sum </mnt/named/file)
        unmount_by kernel named
        mount_by claviger named $options$view
        same names "$names" "$(cd /mnt/named && echo *)"
        same content "$content" "$(sha256sum <"/mnt/named/$names")"
        fails cat /mnt/named/file
        mkdir /lower/named-copy
        cp -a /mnt/named/* /lower/named-copy
        unmount_by claviger named
        mount_by kernel named-copy $options
        text 1 9000 | cmp - /mnt/named-copy/file
        "#,
    );
}

/// "A folder that the kernel has mounted is refused, unless with `ro`", whoever mounts.
#[test]
fn a_folder_that_the_kernel_has_mounted_is_refused_unless_read_only() {
    scene(
        r#"
        options=ecryptfs_sig=$ONE,ecryptfs_key_bytes=32
        mount_by kernel here $options
        echo words >/mnt/here/file
        mkdir /mnt/other
        own=format=ecryptfs,$options
        fails as root claviger mount --format ecryptfs -o $options /lower/here /mnt/other
        grep -q "the kernel's eCryptfs is mounted at /mnt/here" /tmp/said || fail "$(cat /tmp/said)"
        fails as root claviger-fs /lower/here /mnt/other -o $own
        grep -q 'mount read-only: -o ro' /tmp/said || fail "$(cat /tmp/said)"
        # Not a folder in it either, nor one that it is in.
        mkdir /lower/here/folder
        fails as root claviger-fs /lower/here/folder /mnt/other -o $own
        fails as root claviger-fs /lower /mnt/other -o $own
        as root claviger mount --format ecryptfs -o ro,$options /lower/here /mnt/other
        until_true ls /mnt/other
        same content words "$(cat /mnt/other/file)"
        unmount_by claviger other
        unmount_by kernel here
        mount_by claviger here $options
        same content words "$(cat /mnt/here/file)"
        "#,
    );
}

/// "A key of the type `encrypted` is the kernel's alone": the way out of such a folder, which Claviger refuses, is there.
#[test]
fn a_folder_by_a_key_that_only_the_kernel_decrypts_is_mounted_by_the_kernel() {
    scene(
        r#"
        sig=1000100010001000
        make="keyctl add user master $(long 32 key) @u; keyctl add encrypted $sig 'new ecryptfs user:master 64' @u"
        as root sh -ec "$make" >/tmp/said
        options=ecryptfs_sig=$sig,ecryptfs_key_bytes=32
        mount_by kernel here $options
        echo words >/mnt/here/file
        unmount_by kernel here
        fails as root claviger mount --format ecryptfs -o $options /lower/here /mnt/here
        grep -q "key $sig .* type 'encrypted'" /tmp/said
        mount_by kernel here $options
        same content words "$(cat /mnt/here/file)"
        unmount_by kernel here
        "#,
    );
}

/// "FEKs that the old `pkcs11-helper` module wrapped are unwrapped if the configuration says so": for the
/// kernel and for a mount of Claviger's.
#[test]
fn what_pkcs1_v15_wrapped_opens_for_kernel_and_claviger_where_it_is_allowed() {
    let guest = guest();
    let key = guest.shared().join("rsa2048.pem");
    let fek = Fek::random(KeyLen::Aes256);
    let sig = KeySig::from_hex(RSA.as_bytes().try_into().unwrap()).unwrap();
    let packet = Tag1::new(sig, &pkcs1_v15(&key, &fek)).unwrap();
    let packets = vec![Packet::PublicKey(packet)];
    let header = Header::fresh(packets, MetadataPlace::Header, NamesAre::Plain).unwrap();
    let lower = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(guest.shared().join("old"));
    let file = LowerFile::create(lower.unwrap().into(), &header, &fek).unwrap();
    file.write_at(0, b"old words").unwrap();
    guest.ok(&format!(
        r#"
        lower_disk
        person root
        serve_rsa_key
        mkdir /lower/old
        cp /host/old /lower/old/file
        options=ecryptfs_sig={RSA},ecryptfs_key_bytes=32
        mount_by kernel old $options
        fails cat /mnt/old/file
        unmount_by kernel old

        as root claviger stop
        echo 'pkcs1_v15 = true' >>/root/.config/claviger/config.toml
        serve_rsa_key
        for by in kernel claviger; do
            mount_by $by old $options
            same "content by $by" 'old words' "$(cat /mnt/old/file)"
            echo "words of $by" >/mnt/old/$by
            unmount_by $by old
        done
        # New files are wrapped by OAEP, which needs no leave.
        as root claviger stop
        sed -i /pkcs1_v15/d /root/.config/claviger/config.toml
        serve_rsa_key
        mount_by kernel old $options
        same content 'words of kernel' "$(cat /mnt/old/kernel)"
        same content 'words of claviger' "$(cat /mnt/old/claviger)"
        fails cat /mnt/old/file
        "#
    ));
}

/// Wraps to a key file as `C_Encrypt` with CKM_RSA_PKCS did for that module.
fn pkcs1_v15(key: &Path, fek: &Fek) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(["pkeyutl", "-encrypt", "-pkeyopt", "rsa_padding_mode:pkcs1"])
        .args(["-passin", "pass:keypass", "-inkey"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut input = openssl.stdin.take().unwrap();
    input.write_all(&fek.session_key()).unwrap();
    drop(input);
    let done = openssl.wait_with_output().unwrap();
    assert!(done.status.success());
    done.stdout
}
