//! What a story has to itself: folders, users, the programs under test.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::User;
use crate::isolation::UIDS_PER_STORY;

/// The programs under test; a bind mount, since other uids may not be able to enter a clone's folder.
pub const PROGRAMS: &str = "/run/programs";

/// What a story has to itself.
#[derive(Debug)]
pub struct World {
    next_uid: u32,
    last_uid: u32,
}

impl World {
    /// Sets up the namespaces that this process is already in.
    pub(crate) fn new(first_uid: u32) -> Self {
        // No terminal to ask on, whoever runs the tests. Pid 1 of its namespace leads no group.
        nix::unistd::setsid().expect("pid 1 may");
        show_programs();
        // Root's mounts log to /var/log.
        for folder in ["/home", "/var/log"] {
            hide(Path::new(folder));
        }
        fs::create_dir_all("/run/user").expect("/run is ours");
        keep_changes_of_etc();
        Self {
            next_uid: first_uid,
            last_uid: first_uid + UIDS_PER_STORY,
        }
    }

    /// A new user with a home, a runtime folder and a line in /etc/passwd.
    pub fn user(&mut self, name: &str) -> User {
        assert!(
            self.next_uid < self.last_uid,
            "more users than a story may have"
        );
        let uid = self.next_uid;
        self.next_uid += 1;
        let home = Path::new("/home").join(name);
        append(
            "/etc/passwd",
            &format!("{name}:x:{uid}:{uid}::{}:/bin/sh\n", home.display()),
        );
        let user = User::new(name, uid, home);
        Self::furnish(&user);
        user
    }

    /// Root, with a home of this story's. The keyring is the machine's: enrol no key there.
    pub fn root(&self) -> User {
        let user = User::new("root", 0, "/home/root".into());
        Self::furnish(&user);
        user
    }

    fn furnish(user: &User) {
        for folder in [user.home().to_owned(), user.runtime()] {
            fs::create_dir_all(&folder).expect("/home and /run are ours");
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("it is ours");
            user.own(&folder);
        }
    }

    /// Puts `mount.fuse.claviger` where mount(8) looks for it, in this story's view of /sbin only.
    pub fn install_mount_helper(&self) {
        own_sbin();
        let helper = "/usr/sbin/mount.fuse.claviger";
        symlink(program("claviger-fs"), helper).expect("it is ours");
    }

    /// Lets root install into /usr/local and /sbin, in this story's view of them only.
    pub fn permit_installing(&self) {
        own_sbin();
        hide(Path::new("/usr/local"));
    }

    /// Puts the programs where packages put them, in this story's view of /usr/libexec only.
    pub fn install_programs(&self) {
        let (libexec, ours) = (Path::new("/usr/libexec"), "/usr/libexec/claviger");
        tmpfs(libexec);
        fs::create_dir(ours).expect("it is ours");
        bind(Path::new(PROGRAMS), Path::new(ours));
    }

    /// Writes /etc/fstab, as this story sees it.
    pub fn fstab(&self, text: &str) {
        fs::write("/etc/fstab", text).expect("/etc is ours");
    }

    /// Lets ordinary users mount with `allow_other`.
    pub fn permit_allow_other(&self) {
        append("/etc/fuse.conf", "user_allow_other\n");
    }

    /// A folder on a fresh ext4 of `size`, such as `512M`, which only this story sees.
    pub fn ext4(&self, size: &str) -> PathBuf {
        let image = PathBuf::from(format!("/run/ext4-{size}.img"));
        let folder = PathBuf::from(format!("/run/ext4-{size}"));
        run("truncate", &["-s", size, &image.to_string_lossy()]);
        run(
            "mke2fs",
            &["-q", "-t", "ext4", "-I", "256", &image.to_string_lossy()],
        );
        fs::create_dir(&folder).expect("/run is ours");
        run(
            "mount",
            &[
                "-o",
                "loop",
                &image.to_string_lossy(),
                &folder.to_string_lossy(),
            ],
        );
        folder
    }
}

/// Lets changes of /etc be seen by this story only. To be called as root, in namespaces of one's own.
///
/// Not by binding copies over single files: whoever puts a new file in the place of one, as apt and useradd
/// do, undoes the bind in every namespace (rename(2) detaches what is mounted on its target).
pub fn keep_changes_of_etc() {
    let [changes, work] = ["/run/etc", "/run/etc.work"];
    for folder in [changes, work] {
        fs::create_dir(folder).expect("/run is ours");
    }
    let options = format!("lowerdir=/etc,upperdir={changes},workdir={work}");
    mount(
        Some("overlay"),
        "/etc",
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .unwrap_or_else(|errno| panic!("overlay on /etc: {errno}"));
}

/// Makes the built programs, and the examples below them, visible to every uid in [`PROGRAMS`]: a clone
/// may lie in a folder that only its owner enters. To be called as root, in namespaces of one's own.
pub fn show_programs() {
    fs::create_dir_all(PROGRAMS).expect("/run is ours");
    bind(&built_programs(), Path::new(PROGRAMS));
}

/// One of the programs under test.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new(PROGRAMS).join(name);
    assert!(
        path.is_file(),
        "{name} is not built: run 'cargo build --workspace' first"
    );
    path
}

/// Makes /usr/sbin the story's own, with all that is in it.
fn own_sbin() {
    let (sbin, aside) = (Path::new("/usr/sbin"), Path::new("/run/usr-sbin"));
    fs::create_dir(aside).expect("/run is ours");
    bind(sbin, aside);
    tmpfs(sbin);
    for entry in fs::read_dir(aside).expect("it is a folder") {
        let program = entry.expect("it is a folder").path();
        let name = program.file_name().expect("it has one");
        symlink(&program, sbin.join(name)).expect("it is ours");
    }
}

/// `target/PROFILE`, seen from a program in it or a test in its `deps`.
fn built_programs() -> PathBuf {
    let this = env::current_exe().expect("/proc is mounted");
    let folder = this
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"));
    folder.expect("a program lies in a folder").to_owned()
}

/// Makes `folder` empty and the story's own. A clone below it stays: stories read files of the repository.
fn hide(folder: &Path) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = manifest.parent().expect("a crate lies in the workspace");
    if !repository.starts_with(folder) {
        return tmpfs(folder);
    }
    let aside = Path::new("/run/repository");
    fs::create_dir(aside).expect("/run is ours");
    bind(repository, aside);
    tmpfs(folder);
    fs::create_dir_all(repository).expect("it is ours");
    bind(aside, repository);
}

pub(crate) fn tmpfs(at: &Path) {
    let none: Option<&str> = None;
    mount(
        Some("none"),
        at,
        Some("tmpfs"),
        MsFlags::MS_NODEV,
        Some("mode=755"),
    )
    .unwrap_or_else(|errno| panic!("tmpfs on {}: {errno} ({none:?})", at.display()));
}

fn bind(from: &Path, to: &Path) {
    let none: Option<&str> = None;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)
        .unwrap_or_else(|errno| panic!("bind {} on {}: {errno}", from.display(), to.display()));
}

fn append(path: &str, line: &str) {
    let mut file = OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    file.write_all(line.as_bytes()).expect("it is ours");
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program)
        .args(args)
        .status()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {args:?}: {status}");
}
