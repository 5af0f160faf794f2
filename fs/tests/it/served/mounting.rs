//! What whoever mounts a volume meets: exit codes, messages, and a mount that answers.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use claviger_hw_tests::{keep_changes_of_etc, wait_until};
use claviger_protocol::failure::ExitCode;
use claviger_protocol::paths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::daemon::Daemon;
use super::example;
use super::volume::{Volume, refusal};
use crate::namespaces::isolated;

#[test]
fn the_command_returns_when_the_mount_answers_and_umount_ends_the_process() {
    isolated!();
    let volume = Volume::make();
    let output = volume.command().output().unwrap();
    assert_eq!(refusal(&output), (0, String::new()));
    assert!(volume.is_mounted());

    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .find(|line| line.contains("fuse.claviger"))
        .unwrap();
    assert!(line.contains("nosuid,nodev"), "{line}");
    assert!(line.contains(volume.lower.to_str().unwrap()), "{line}");

    let server = server_of(&volume);
    let status = fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
    let core = status
        .lines()
        .find(|line| line.starts_with("Max core"))
        .unwrap();
    assert!(core.contains(" 0 "), "{core}");
    assert_eq!(entries().len(), 1);

    run("umount", &[volume.mountpoint.to_str().unwrap()]);
    // Pid 1 of this namespace is the test, which reaps nobody: ended is without a command line.
    let line = format!("/proc/{server}/cmdline");
    wait_until("ended", || fs::read(&line).unwrap_or_default().is_empty());
    assert!(entries().is_empty(), "the rendezvous entry is still there");
}

#[test]
fn a_locked_mount_answers_enokey_to_all_but_its_root() {
    isolated!();
    let volume = Volume::make();
    let _mounted = volume.mount();
    assert!(fs::metadata(&volume.mountpoint).unwrap().is_dir());
    let enokey = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(libc::ENOKEY));
    enokey(fs::read_dir(&volume.mountpoint).map(drop).unwrap_err());
    enokey(fs::metadata(volume.path("file")).map(drop).unwrap_err());
    enokey(fs::write(volume.path("file"), "content").unwrap_err());
}

#[test]
fn what_cannot_be_mounted_is_refused_with_its_own_exit_code_and_message() {
    isolated!();
    let volume = Volume::make();
    let here = volume.mountpoint.display().to_string();
    let lower = volume.lower.display().to_string();
    let beside = |name: &str| volume.lower.with_file_name(name);
    let mount = |lower: &Path, mountpoint: &Path, options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_claviger-fs"));
        let output = command
            .arg(lower)
            .arg(mountpoint)
            .args(options)
            .arg("-f")
            .output();
        refusal(&output.unwrap())
    };
    let expect = |outcome: (i32, String), code: ExitCode, text: &str| {
        let text = text.replace('\n', "\n  ");
        assert_eq!(outcome, (code as i32, format!("claviger-fs: {text}\n")));
    };

    let nowhere = beside("nowhere");
    expect(
        mount(&volume.lower, &nowhere, &[]),
        ExitCode::BadMountpoint,
        &format!(
            "mountpoint {0} does not exist\nmake it: mkdir -p {0}",
            nowhere.display()
        ),
    );
    expect(
        mount(&nowhere, &volume.mountpoint, &[]),
        ExitCode::NotFound,
        &format!("there is no folder {}", nowhere.display()),
    );

    let plain = beside("plain");
    fs::create_dir(&plain).unwrap();
    expect(
        mount(&plain, &volume.mountpoint, &[]),
        ExitCode::NotFound,
        &format!(
            "{0} is not a volume: no manifest here (.claviger/volume.toml)\n\
             make one: claviger init {0}\n\
             a folder of eCryptfs is mounted with --format ecryptfs",
            plain.display()
        ),
    );
    expect(
        mount(&volume.lower, &volume.mountpoint, &["-o", "shiny"]),
        ExitCode::Usage,
        "unknown mount option 'shiny'",
    );

    let _mounted = volume.mount();
    expect(
        mount(&volume.lower, &volume.mountpoint, &[]),
        ExitCode::BadMountpoint,
        &format!(
            "{here} is a mountpoint already, of {lower}\nunmount it first: claviger umount {here}"
        ),
    );
    expect(
        mount(&volume.lower, &beside("plain"), &[]),
        ExitCode::Busy,
        &format!(
            "busy: {lower}: the volume is mounted already, or a tool is writing to it\n\
             look for it: findmnt -t fuse.claviger"
        ),
    );
}

#[test]
fn a_mount_whose_server_was_killed_is_told_from_other_mountpoints() {
    isolated!();
    let volume = Volume::make();
    let mut mounted = volume.mount();
    mounted.child.kill().unwrap();
    mounted.child.wait().unwrap();
    let here = volume.mountpoint.display();
    assert_eq!(
        refusal(&volume.command().output().unwrap()),
        (
            ExitCode::BadMountpoint as i32,
            format!(
                "claviger-fs: {here}: the filesystem mounted there has ended without unmounting\n  \
                 clean up: fusermount3 -u {here}\n"
            )
        )
    );
}

#[test]
fn sigterm_unmounts_and_what_was_written_is_there_afterwards() {
    isolated!();
    let volume = Volume::make();
    let (mounted, daemon) = volume.mount_unlocked();
    fs::write(volume.path("file"), "written before SIGTERM").unwrap();
    let pid = Pid::from_raw(mounted.child.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(mounted.wait().success());
    assert!(!volume.is_mounted());
    drop(daemon);

    let (_mounted, _daemon) = volume.mount_unlocked();
    let content = fs::read_to_string(volume.path("file")).unwrap();
    assert_eq!(content, "written before SIGTERM");
}

#[test]
fn sigterm_leaves_a_busy_mount_after_a_grace_and_loses_nothing() {
    isolated!();
    let volume = Volume::make();
    let (mounted, daemon) = volume.mount_unlocked();
    let mut busy = fs::File::create(volume.path("file")).unwrap();
    busy.write_all(b"before").unwrap();
    let pid = Pid::from_raw(mounted.child.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    wait_until("out of the tree", || !volume.is_mounted());
    busy.write_all(b" and after").unwrap();
    assert!(mounted.wait().success());
    let refused = busy.write_all(b" for nobody").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTCONN));
    drop(daemon);

    let (_mounted, _daemon) = volume.mount_unlocked();
    let content = fs::read_to_string(volume.path("file")).unwrap();
    assert_eq!(content, "before and after");
}

#[test]
fn a_read_only_mount_refuses_writes_and_leaves_the_lower_folder_alone() {
    isolated!();
    let volume = Volume::make();
    let (mounted, daemon) = volume.mount_unlocked();
    fs::write(volume.path("file"), "content").unwrap();
    run("umount", &[volume.mountpoint.to_str().unwrap()]);
    mounted.wait();
    drop(daemon);

    let output = volume.command().args(["-o", "ro"]).output().unwrap();
    assert_eq!(refusal(&output), (0, String::new()));
    let mut daemon = Daemon::start(&volume.key_file());
    daemon.unlock();
    volume.wait_unlocked();
    assert_eq!(fs::read_to_string(volume.path("file")).unwrap(), "content");
    let refused = fs::write(volume.path("file"), "other").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    run("umount", &[volume.mountpoint.to_str().unwrap()]);
}

#[test]
fn a_folder_full_of_foreign_names_does_not_fill_the_log() {
    isolated!();
    let volume = Volume::make();
    let (mounted, _daemon) = volume.mount_unlocked();
    fs::write(volume.path("ours"), "").unwrap();
    for number in 0..500 {
        fs::write(volume.lower.join(format!("foreign {number}")), "").unwrap();
    }
    let shown: Vec<_> = fs::read_dir(&volume.mountpoint).unwrap().collect();
    assert_eq!(shown.len(), 1);
    mounted.wait_logged("entries left out");
    // A listing takes some requests, each with the first few by name.
    assert!(mounted.logged().matches("left out").count() < 100);
}

#[test]
fn with_direct_io_the_kernel_keeps_no_pages_to_map() {
    isolated!();
    let volume = Volume::make();
    let _mounted = volume.mount_with("direct_io");
    let mut daemon = Daemon::start(&volume.key_file());
    daemon.unlock();
    volume.wait_unlocked();
    let path = volume.path("file");
    fs::write(&path, vec![b'x'; 100_000]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), vec![b'x'; 100_000]);
    let output = Command::new(example("map_file")).arg(&path).output();
    assert_eq!(output.unwrap().stdout, b"not mapped: ENODEV\n");
}

#[test]
fn mount_8_mounts_by_the_name_of_the_type() {
    isolated!();
    let volume = Volume::make();
    // /sbin belongs to this mount namespace: what is put over it here is seen by this test only.
    let helpers = volume.lower.with_file_name("sbin");
    fs::create_dir(&helpers).unwrap();
    let program = env!("CARGO_BIN_EXE_claviger-fs");
    symlink(program, helpers.join("mount.fuse.claviger")).unwrap();
    let sbin = fs::canonicalize("/sbin").unwrap();
    let overlay = format!("lowerdir={}:{}", helpers.display(), sbin.display());
    run(
        "mount",
        &[
            "-t",
            "overlay",
            "overlay",
            "-o",
            &overlay,
            sbin.to_str().unwrap(),
        ],
    );

    let [lower, here] = [&volume.lower, &volume.mountpoint].map(|path| path.to_str().unwrap());
    let options = format!("noexec,nofail,x-test=1,{}", volume.log_option());
    run(
        "mount",
        &["-t", "fuse.claviger", "-o", &options, lower, here],
    );
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .find(|line| line.contains("fuse.claviger"))
        .unwrap();
    assert!(line.contains("nosuid,nodev,noexec"), "{line}");
    run("umount", &[here]);

    let output = Command::new("mount")
        .args(["-t", "fuse.claviger", "-o", "shiny", lower, here])
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "as mount(8) has it: incorrect invocation"
    );
}

#[test]
fn a_user_mounts_through_fusermount3_and_nobody_else_gets_in() {
    isolated!();
    const ANN: u32 = 23_040;
    let volume = Volume::make_in("of ann, a\\b ");
    let base = volume.lower.parent().unwrap();
    // fusermount3 wants to know the user's name.
    keep_changes_of_etc();
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ann = format!("ann:x:{ANN}:{ANN}::/nonexistent:/bin/sh\n");
    fs::write("/etc/passwd", users + &ann).unwrap();
    // The clone may lie where only root gets to.
    let program = base.join("claviger-fs");
    fs::copy(env!("CARGO_BIN_EXE_claviger-fs"), &program).unwrap();
    let runtime = base.join("run");
    fs::create_dir(&runtime).unwrap();
    run(
        "chown",
        &["-R", &format!("{ANN}:{ANN}"), base.to_str().unwrap()],
    );
    fs::set_permissions(base, fs::Permissions::from_mode(0o755)).unwrap();

    let mut command = Command::new(&program);
    command
        .args([&volume.lower, &volume.mountpoint])
        .env("XDG_RUNTIME_DIR", &runtime)
        .env("XDG_STATE_HOME", base.join("state"))
        .uid(ANN)
        .gid(ANN)
        .stdin(Stdio::null());
    assert_eq!(refusal(&command.output().unwrap()), (0, String::new()));
    let source = Command::new("findmnt")
        .args(["-no", "SOURCE"])
        .arg(&volume.mountpoint)
        .output();
    let source = String::from_utf8(source.unwrap().stdout).unwrap();
    assert_eq!(source.trim_end(), volume.lower.to_str().unwrap());
    let entries = fs::read_dir(runtime.join("claviger/mounts")).unwrap();
    assert!(
        entries.count() > 0,
        "the mount is not published to its user"
    );

    let stat = |uid: u32| {
        let mut command = Command::new("stat");
        let output = command.arg(&volume.mountpoint).uid(uid).gid(uid).output();
        output.unwrap().status.success()
    };
    assert!(stat(ANN));
    assert!(!stat(0), "root has no business in a user's mount");

    let status = Command::new("fusermount3")
        .arg("-u")
        .arg(&volume.mountpoint)
        .uid(ANN)
        .gid(ANN)
        .status()
        .unwrap();
    assert!(status.success());

    let refused = |options: &str, runtime: &Path| {
        let mut command = Command::new(&program);
        command
            .args([&volume.lower, &volume.mountpoint])
            .args(["-f", "-o", options])
            .env("XDG_RUNTIME_DIR", runtime)
            .uid(ANN)
            .gid(ANN);
        let (code, said) = refusal(&command.output().unwrap());
        assert_eq!(code, ExitCode::Permission as i32, "{said}");
        said
    };
    assert_eq!(
        refused("suid", &runtime),
        "claviger-fs: only root may mount with 'suid'\n"
    );
    let unpublished = refused("rw", Path::new("/nowhere"));
    assert!(
        unpublished.ends_with(
            "Permission denied (os error 13)\n  \
             set XDG_RUNTIME_DIR to a folder of your own, as a login session does\n"
        ),
        "{unpublished}"
    );
    assert!(
        !volume.is_mounted(),
        "what cannot be published is not mounted"
    );
}

/// The process that serves the mount: the only one of that name in this pid namespace.
fn server_of(volume: &Volume) -> u32 {
    let lower = volume.lower.as_os_str().as_encoded_bytes();
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    let mut servers = pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(lower.len()).any(|window| window == lower)
    });
    servers.next().expect("somebody serves the mount")
}

/// Rendezvous entries of root's mounts.
fn entries() -> Vec<PathBuf> {
    let Ok(folder) = fs::read_dir(paths::system_requesters()) else {
        return Vec::new();
    };
    let paths = folder.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| fs::metadata(path).unwrap().mode() & libc::S_IFMT == libc::S_IFREG)
        .collect()
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect(program);
    assert!(status.success(), "{program} {args:?}: {status}");
}
