use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sys::stat::mkdirat;
use tempfile::TempDir;

use super::*;
use crate::ids::Epoch;
use crate::names::tests::names_keys;

const LONG: &[u8] = &[b'l'; 200];

/// A lower root with its record.
struct Volume {
    lower: TempDir,
    keys: NamesKeys,
}

impl Volume {
    fn new() -> Self {
        let lower = tempfile::tempdir().unwrap();
        let keys = names_keys(Epoch(1), Epoch(1));
        fs::create_dir(lower.path().join(RESERVED)).unwrap();
        Record::create(fs::File::open(lower.path()).unwrap(), &keys, Location::ROOT).unwrap();
        Self { lower, keys }
    }

    fn root(&self) -> Folder {
        let lower_root = fs::File::open(self.lower.path()).unwrap();
        Folder::root(lower_root.into(), &self.keys).unwrap()
    }

    /// Makes the directory `path` as a filesystem does, and gives its lower path.
    fn mkdir(&self, path: &str) -> PathBuf {
        let (parent, lower) = self.root().resolve(path.as_bytes(), &self.keys).unwrap();
        let lower = lower.unwrap();
        write_sidecar(&parent, &lower).unwrap();
        mkdirat(&parent, lower.as_bytes(), Mode::S_IRWXU).unwrap();
        let made = open_dir(&parent, lower.as_bytes()).unwrap();
        let location = Location {
            parent: parent.id(),
            lower_name: lower.as_bytes(),
        };
        Record::create(made, &self.keys, location).unwrap();
        self.lower_path(path)
    }

    /// Makes an empty lower file, and gives its lower path.
    fn touch(&self, path: &str) -> PathBuf {
        let path = self.lower_path(path);
        fs::write(&path, "").unwrap();
        path
    }

    fn lower_path(&self, path: &str) -> PathBuf {
        let (folder, lower) = self.root().resolve(path.as_bytes(), &self.keys).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&folder.fd);
        let parent = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        parent.join(lower.unwrap().as_os_str())
    }

    /// The ids of the directory that `path` names, or why there is none.
    fn enter(&self, path: &str) -> Result<Folder, TreeError> {
        let (folder, _) = self
            .root()
            .resolve(format!("{path}/.x").as_bytes(), &self.keys)?;
        Ok(folder)
    }
}

/// Upper names, or what is said in their stead, in order.
fn list(folder: &Folder) -> Vec<(String, Kind)> {
    let shown = |entry: Entry| match entry.upper {
        Ok(name) => (String::from_utf8(name).unwrap(), entry.kind),
        Err(error) => (format!("! {error}"), entry.kind),
    };
    let mut list: Vec<_> = folder.entries().unwrap().into_iter().map(shown).collect();
    list.sort_by(|one, other| one.0.cmp(&other.0));
    list
}

#[test]
fn a_path_leads_through_directories_to_a_lower_name() {
    let volume = Volume::new();
    volume.mkdir("one");
    volume.mkdir("one/two");
    let (folder, lower) = volume
        .root()
        .resolve(b"/one//./two/file", &volume.keys)
        .unwrap();
    assert_eq!(folder.id(), volume.enter("one/two").unwrap().id());
    assert_eq!(Ok(lower.unwrap()), folder.names().encrypt(b"file"));
    let (root, lower) = volume.root().resolve(b"/", &volume.keys).unwrap();
    assert_eq!((root.id(), lower), (DirId::ROOT, None));
}

#[test]
fn a_path_that_leads_nowhere_says_why() {
    let volume = Volume::new();
    volume.touch("file");
    symlink("anywhere", volume.lower_path("symlink")).unwrap();
    assert!(matches!(volume.enter("missing"), Err(TreeError::NotFound)));
    assert!(matches!(
        volume.enter("file"),
        Err(TreeError::NotADirectory)
    ));
    assert!(matches!(
        volume.enter("symlink"),
        Err(TreeError::NotADirectory)
    ));
    let up = volume.root().resolve(b"../etc", &volume.keys);
    assert!(matches!(up, Err(TreeError::Name(NameError::Invalid))));
    let long = volume.root().resolve(&[b'x'; 256], &volume.keys);
    assert!(matches!(long, Err(TreeError::Name(NameError::TooLong))));
}

#[test]
fn a_directory_lists_its_names_short_and_long_and_nothing_of_claviger_s() {
    let volume = Volume::new();
    let long = str::from_utf8(LONG).unwrap();
    volume.mkdir(long);
    volume.mkdir(&format!("{long}/inside"));
    volume.touch("file");
    symlink("sealed", volume.lower_path("symlink")).unwrap();
    nix::unistd::mkfifo(&volume.lower_path("fifo"), Mode::S_IRWXU).unwrap();
    let expected = [
        ("fifo", Kind::Special),
        ("file", Kind::File),
        (long, Kind::Directory),
        ("symlink", Kind::Symlink),
    ];
    assert_eq!(
        list(&volume.root()),
        expected.map(|(name, kind)| (name.to_owned(), kind))
    );
    let inside = list(&volume.enter(long).unwrap());
    assert_eq!(inside, [("inside".to_owned(), Kind::Directory)]);
}

#[test]
fn what_is_not_claviger_s_is_listed_as_that() {
    let volume = Volume::new();
    let dir = volume.mkdir("dir");
    fs::write(volume.lower.path().join("lost+found"), "").unwrap();
    fs::create_dir(dir.join(RESERVED)).unwrap();
    let foreign = "! not made by Claviger".to_owned();
    let expected = [
        (foreign.clone(), Kind::File),
        ("dir".to_owned(), Kind::Directory),
    ];
    assert_eq!(list(&volume.root()), expected);
    let in_dir = list(&volume.enter("dir").unwrap());
    assert_eq!(
        in_dir,
        [(foreign, Kind::Directory)],
        ".claviger is reserved in the root only"
    );
}

#[test]
fn a_name_put_into_another_directory_is_refused_there() {
    let volume = Volume::new();
    let dir = volume.mkdir("dir");
    let file = volume.touch("file");
    fs::copy(&file, dir.join(file.file_name().unwrap())).unwrap();
    let refused = "! name was not made by this volume for this directory".to_owned();
    assert_eq!(list(&volume.enter("dir").unwrap()), [(refused, Kind::File)]);
}

#[test]
fn directories_exchanged_below_open_at_neither_place() {
    let volume = Volume::new();
    let (one, two) = (volume.mkdir("one"), volume.mkdir("two"));
    exchange(&one, &two);
    for name in ["one", "two"] {
        let entered = volume.enter(name);
        assert!(matches!(
            entered,
            Err(TreeError::Directory(DirError::Misplaced))
        ));
    }
    exchange(&one, &two);
    assert!(volume.enter("one").is_ok());
}

#[test]
fn a_directory_in_the_place_of_the_root_is_refused() {
    let volume = Volume::new();
    let dir = volume.mkdir("dir");
    let opened = Folder::root(fs::File::open(dir).unwrap().into(), &volume.keys);
    assert!(matches!(
        opened,
        Err(TreeError::Directory(DirError::Misplaced))
    ));
}

fn exchange(one: &Path, two: &Path) {
    let third = one.with_extension("third");
    fs::rename(one, &third).unwrap();
    fs::rename(two, one).unwrap();
    fs::rename(third, two).unwrap();
}

#[test]
fn a_long_name_without_its_sidecar_still_opens_but_has_no_name() {
    let volume = Volume::new();
    let long = str::from_utf8(LONG).unwrap();
    let lower = volume.mkdir(long);
    fs::remove_file(lower.with_extension("name")).unwrap();
    assert!(volume.enter(long).is_ok());
    let listed = list(&volume.root());
    assert_eq!(listed.len(), 1);
    assert!(
        listed[0].0.starts_with("! sidecar of a long name:"),
        "{listed:?}"
    );
}

#[test]
fn a_sidecar_is_not_written_through_a_link_that_someone_put_in_its_place() {
    let volume = Volume::new();
    let root = volume.root();
    let lower = root.names().encrypt(LONG).unwrap();
    let LowerName::Long {
        sidecar, content, ..
    } = &lower
    else {
        panic!("is long")
    };
    let (path, other) = (
        volume.lower.path().join(sidecar),
        volume.lower.path().join("other"),
    );
    fs::write(&other, "precious").unwrap();
    for link in [fs::hard_link::<&Path, &Path>, |from: &Path, to: &Path| {
        symlink(from, to)
    }] {
        link(&other, &path).unwrap();
        write_sidecar(&root, &lower).unwrap();
        assert_eq!(&fs::read(&path).unwrap(), content);
        assert_eq!(fs::read(&other).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_sidecar_is_made_whole_again_and_removed_once() {
    let volume = Volume::new();
    let root = volume.root();
    let lower = root.names().encrypt(LONG).unwrap();
    let LowerName::Long {
        sidecar, content, ..
    } = &lower
    else {
        panic!("is long")
    };
    let path = volume.lower.path().join(sidecar);
    for left_by_a_crash in [&b""[..], b"half", &[0; 400]] {
        fs::write(&path, left_by_a_crash).unwrap();
        write_sidecar(&root, &lower).unwrap();
        assert_eq!(&fs::read(&path).unwrap(), content);
    }
    assert!(
        root.entries().unwrap().is_empty(),
        "a sidecar alone is no entry"
    );
    remove_sidecar(&root, &lower).unwrap();
    assert!(!path.exists());
    remove_sidecar(&root, &lower).unwrap();

    let short = root.names().encrypt(b"short").unwrap();
    write_sidecar(&root, &short).unwrap();
    assert_eq!(
        fs::read_dir(volume.lower.path()).unwrap().count(),
        2,
        "the record and .claviger"
    );
}
