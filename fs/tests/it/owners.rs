//! Who owns what is made, on a mount of several users.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use claviger_fs::filesystem::VolumeFs;
use claviger_fs::fuse::Engine;
use claviger_vault::dir::{Location, Record};
use claviger_vault::ids::Scope;
use claviger_vault::native::NativeFormat;
use fuser::{Config, Session, SessionACL};
use nix::mount::{MsFlags, mount};
use nix::unistd::{setgroups, setresgid, setresuid};

use crate::keys::InProcess;
use crate::mounted::Mounted;
use crate::names::set_attribute;
use crate::namespaces::isolated_test;

/// Runs a shell script as another user, `$1` being `path`; fails the test if the script fails.
pub(crate) fn as_user(uid: u32, gid: u32, groups: &[u32], script: &str, path: &Path) -> String {
    let output = try_as_user(uid, gid, groups, script, path);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The same, whatever comes of it.
pub(crate) fn try_as_user(uid: u32, gid: u32, groups: &[u32], script: &str, path: &Path) -> Output {
    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
    let groups = match groups.is_empty() {
        true => "--clear-groups".to_owned(),
        false => format!("--groups={}", groups.join(",")),
    };
    Command::new("setpriv")
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={gid}"))
        .arg(groups)
        .args(["sh", "-c", script, "sh"])
        .arg(path)
        .output()
        .expect("setpriv(1) is there")
}

fn owner_and_mode(path: &Path) -> (u32, u32, u32) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid(), stat.mode() & 0o7777)
}

isolated_test! {
    fn what_a_user_makes_is_his_with_his_umask() {
        let mounted = Mounted::new();
        fs::set_permissions(mounted.root(), fs::Permissions::from_mode(0o777)).unwrap();
        let script = "umask 027 && cd $1 && touch file && mkdir dir && ln -s x link && mkfifo fifo";
        as_user(1234, 2345, &[], script, mounted.root());
        let made = |name| owner_and_mode(&mounted.path(name));
        assert_eq!(made("file"), (1234, 2345, 0o640));
        assert_eq!(made("dir"), (1234, 2345, 0o750));
        assert_eq!(made("link"), (1234, 2345, 0o777));
        assert_eq!(made("fifo"), (1234, 2345, 0o640));
        // Root's own are root's, with root's umask.
        as_user(0, 0, &[], "umask 077 && touch $1/roots", mounted.root());
        assert_eq!(made("roots"), (0, 0, 0o600));
    }
}

isolated_test! {
    fn a_set_group_id_directory_gives_its_group() {
        let mounted = Mounted::new();
        let team = mounted.path("team");
        fs::create_dir(&team).unwrap();
        chown(&team, None, Some(5000)).unwrap();
        fs::set_permissions(&team, fs::Permissions::from_mode(0o2775)).unwrap();
        // Reached by a supplementary group, which the filesystem is not told of.
        as_user(1234, 2345, &[5000], "cd $1 && umask 002 && touch file && mkdir dir", &team);
        assert_eq!(owner_and_mode(&team.join("file")), (1234, 5000, 0o664));
        assert_eq!(owner_and_mode(&team.join("dir")), (1234, 5000, 0o2775));
        // Who is in the group may make what is set-group-id; who is not, not.
        let install = "install -m 2755 /dev/null $1/in && install -m 2755 /dev/null $1/in";
        as_user(1234, 2345, &[5000], install, &team);
        assert_eq!(owner_and_mode(&team.join("in")).2, 0o2755);
        let refused = try_as_user(1234, 2345, &[], "touch $1/out", &team);
        assert!(!refused.status.success());
    }
}

isolated_test! {
    fn a_default_acl_is_inherited_and_an_acl_grants_access() {
        let mounted = Mounted::new();
        let dir = mounted.path("dir");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let entries = [(1, 7, NOBODY), (2, 6, 1234), (4, 0, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY)];
        set_attribute(&dir, "system.posix_acl_default", acl(&entries));
        // The umask does not count where a default ACL is.
        as_user(0, 0, &[], "umask 077 && echo secret > $1/file", &dir);
        assert_eq!(owner_and_mode(&dir.join("file")).2, 0o660);
        assert_eq!(as_user(1234, 1234, &[], "cat $1/file", &dir), "secret");
        let refused = try_as_user(4321, 4321, &[], "cat $1/file", &dir);
        assert!(!refused.status.success());
    }
}

isolated_test! {
    fn a_directory_that_its_owner_may_not_write_in_is_made_and_removed() {
        let mounted = Mounted::new();
        fs::set_permissions(mounted.root(), fs::Permissions::from_mode(0o777)).unwrap();
        as_user(1234, 1234, &[], "mkdir -m 000 $1/dir", mounted.root());
        assert_eq!(owner_and_mode(&mounted.path("dir")), (1234, 1234, 0));
        as_user(1234, 1234, &[], "rmdir $1/dir", mounted.root());
    }
}

isolated_test! {
    fn a_user_serves_his_own_folder_whatever_modes_his_files_have() {
        serve_as_user(1234);
        let path = |name: &str| Path::new("/mnt/upper").join(name);
        let mode = |name: &str, mode| {
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        // Written only, a partial block has to be read all the same.
        fs::write(path("drop box"), "one").unwrap();
        mode("drop box", 0o200);
        let mut file = fs::OpenOptions::new().append(true).open(path("drop box")).unwrap();
        file.write_all(b" two").unwrap();
        drop(file);
        assert_eq!(fs::read(path("drop box")).unwrap_err().kind(), ErrorKind::PermissionDenied);
        mode("drop box", 0o600);
        assert_eq!(fs::read_to_string(path("drop box")).unwrap(), "one two");
        // Renaming and linking ask for nothing of the file itself.
        mode("drop box", 0o000);
        fs::rename(path("drop box"), path("renamed")).unwrap();
        fs::hard_link(path("renamed"), path("linked")).unwrap();
        assert_eq!(owner_and_mode(&path("linked")), (1234, 1234, 0));
        // Nor does removing a directory ask for anything of the directory.
        for bits in [0o500, 0o300, 0o000] {
            fs::create_dir(path("closed")).unwrap();
            mode("closed", bits);
            fs::remove_dir(path("closed")).unwrap();
        }
        fs::DirBuilder::new().mode(0o500).create(path("made closed")).unwrap();
        assert_eq!(owner_and_mode(&path("made closed")).2, 0o500);
        let refused = fs::write(path("made closed/file"), "").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    }
}

/// Mounts a new volume at `/mnt/upper` and becomes `uid`, who serves it until the test ends: he could
/// not unmount it, so its namespaces do.
fn serve_as_user(uid: u32) {
    for folder in ["/mnt/lower", "/mnt/lower/.claviger", "/mnt/upper"] {
        fs::create_dir(folder).unwrap();
        chown(folder, Some(uid), Some(uid)).unwrap();
    }
    let device = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let options = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={uid},allow_other,default_permissions",
        device.as_raw_fd()
    );
    mount(
        Some("test"),
        "/mnt/upper",
        Some("fuse"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .unwrap();
    setgroups(&[]).unwrap();
    setresgid(uid.into(), uid.into(), uid.into()).unwrap();
    setresuid(uid.into(), uid.into(), uid.into()).unwrap();

    let keys = InProcess::new(Scope::Volume);
    let lower = fs::File::open("/mnt/lower").unwrap();
    Record::create(&lower, &keys.names_keys(), Location::ROOT).unwrap();
    let volume = keys.volume;
    let volume = VolumeFs::new(lower.into(), Arc::new(NativeFormat { volume }), keys).unwrap();
    let config = Config::default();
    let session = Session::from_fd(Engine::new(volume), device.into(), SessionACL::All, config);
    // Serves on while the handle is forgotten.
    std::mem::forget(session.unwrap().spawn().unwrap());
}

const NOBODY: u32 = u32::MAX;

/// The value of an ACL attribute (linux/posix_acl_xattr.h): version 2, then tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}
