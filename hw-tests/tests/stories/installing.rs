//! `make install`, and the programs where it puts them.

use std::fs;
use std::path::PathBuf;

use claviger_hw_tests::{Process, ServiceManager, User, story};

use crate::scene::{finds_a_mount_of_roots, says};

const UNIT: &str = "clavigerd.service";

/// `make TARGET`, of the programs under test.
#[track_caller]
fn make(root: &User, target: &str, settings: &str) {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    // Root may be as private as that.
    let line = format!("umask 077; make -C {repository} {target} BUILT=/run/programs {settings}");
    root.sh(&line).ok();
}

/// What it runs.
fn program_of(process: Process) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap()
}

fn installed(name: &str) -> PathBuf {
    PathBuf::from("/usr/local/libexec/claviger").join(name)
}

story! {
    /// "`make install`": the shell, mount(8) and systemd find the programs, and the programs each other.
    fn what_was_installed_mounts_by_command_and_by_mount_8_and_is_a_service(world) {
        world.permit_installing();
        let (root, alice) = (world.root(), world.user("alice"));
        make(&root, "install", "");
        assert_eq!(alice.sh("command -v claviger").ok(), "/usr/local/bin/claviger\n");
        alice.sh("claviger key generate --module openssl --label k").ok();
        alice.sh("claviger init --recipient k --no-recovery Private && mkdir private").ok();
        alice.sh("claviger mount Private private && echo diary >private/diary").ok();
        assert_eq!(program_of(alice.daemon()), installed("clavigerd"));
        assert_eq!(program_of(alice.filesystem()), installed("claviger-fs"));
        assert_eq!(program_of(alice.module("openssl")), installed("claviger-pki-openssl"));
        says(&alice.sh("claviger doctor").finish().stdout, &["all found"]);
        alice.sh("claviger umount private && claviger lock --all").ok();

        root.sh("mount -t fuse.claviger -o allow_other /home/alice/Private /home/alice/private").ok();
        finds_a_mount_of_roots(&alice);
        assert_eq!(program_of(alice.filesystem()), installed("claviger-fs"));
        assert_eq!(alice.sh("claviger unlock private && cat private/diary").ok(), "diary\n");
        root.sh("umount /home/alice/private").ok();
        alice.sh("claviger stop").ok();

        let manager = ServiceManager::start(&alice);
        manager.ctl(["enable", "--now", UNIT]).ok();
        let main = Process { pid: manager.property(UNIT, "MainPID").parse().unwrap() };
        assert_eq!(program_of(main), installed("clavigerd"));
        assert_eq!(alice.daemon(), main);
    }
}

story! {
    /// "`DESTDIR`, `PREFIX`, `SBINDIR`", for packages; and "`make uninstall`".
    fn a_package_gets_its_files_below_destdir_and_uninstall_takes_all_away(world) {
        const PLACES: &str = "DESTDIR=/run/stage PREFIX=/opt/keys SBINDIR=/usr/sbin";
        let root = world.root();
        make(&root, "install", PLACES);
        let files = root.sh("cd /run/stage && find . ! -type d | sort").ok();
        says(&files, &[
            "./opt/keys/bin/claviger\n",
            "./opt/keys/libexec/claviger/claviger-pki-tpm\n",
            "./opt/keys/lib/systemd/user/clavigerd.service\n",
            "./opt/keys/share/bash-completion/completions/claviger\n",
            "./opt/keys/share/man/man1/claviger-mount.1\n",
            "./usr/sbin/mount.fuse.claviger\n",
        ]);
        assert_eq!(root.sh("readlink /run/stage/usr/sbin/mount.fuse.claviger").ok(), "/opt/keys/libexec/claviger/claviger-fs\n");
        let unit = root.sh(&format!("cat /run/stage/opt/keys/lib/systemd/user/{UNIT}")).ok();
        says(&unit, &["\nExecStart=/opt/keys/libexec/claviger/clavigerd --foreground\n"]);
        // Everybody may read them, and enter their folders.
        assert_eq!(root.sh("find /run/stage/opt ! -type l ! -perm -444").ok(), "");
        assert_eq!(root.sh("find /run/stage/opt -type d ! -perm -555").ok(), "");

        make(&root, "uninstall", PLACES);
        assert_eq!(root.sh("find /run/stage ! -type d -o -name claviger").ok(), "");
        // Once more, there is nothing to do.
        make(&root, "uninstall", PLACES);
    }
}
