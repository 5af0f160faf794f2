//! Finds the PKCS#11 libraries of this machine, as p11-kit's `*.module` files name them.
//!
//! Reading the list loads no library: each is opened by a module process of its own.
//!
//! ```text
//! # comment
//! module: opensc-pkcs11.so          a path, or a name in p11-kit's own library folder
//! priority: 5                       higher first
//! enable-in: ssh, claviger          only in these programs
//! disable-in: firefox               not in these
//! ```
//!
//! Source: pkcs11.conf(5) of p11-kit 0.24.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The name by which `enable-in` and `disable-in` mean us.
const PROGRAM: &str = "claviger";

/// A PKCS#11 library that the machine's administrator or packages have registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredLibrary {
    /// Name of its file without `.module`: what `module-name` in a PKCS#11 URI means.
    pub name: String,
    /// Path of the library.
    pub library: PathBuf,
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Folders of `*.module` files; a file in an earlier one replaces its namesake in a later one.
    pub modules: Vec<PathBuf>,
    /// Folders in which a library named without a path is searched.
    pub libraries: Vec<PathBuf>,
}

/// A `*.module` file that was passed over, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .file.display())]
pub struct Skipped {
    /// The file, or the folder that cannot be listed.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl Default for Folders {
    /// Where distributions keep them; the administrator's before the packages'.
    fn default() -> Self {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
        let multiarch = format!("/usr/lib/{}-linux-gnu/pkcs11", std::env::consts::ARCH);
        Self {
            modules: paths(&["/etc/pkcs11/modules", "/usr/share/p11-kit/modules"]),
            libraries: paths(&[&multiarch, "/usr/lib64/pkcs11", "/usr/lib/pkcs11"]),
        }
    }
}

impl Folders {
    /// Lists the libraries, by priority and then by name, each once; and what was passed over.
    ///
    /// A folder that does not exist is empty. Left out without a word: files without a `module:` line
    /// (they are disabled, or reach a remote machine), the trust store's module, which holds no keys, and
    /// what is not meant for this program.
    pub fn registered(&self) -> (Vec<RegisteredLibrary>, Vec<Skipped>) {
        let mut skipped = Vec::new();
        let mut files = BTreeMap::new();
        for folder in &self.modules {
            match module_files(folder) {
                Ok(found) => {
                    for (name, file) in found {
                        files.entry(name).or_insert(file);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    skipped.push(Skipped {
                        file: folder.clone(),
                        why: error.to_string(),
                    });
                }
            }
        }

        let mut libraries: Vec<(i32, RegisteredLibrary)> = Vec::new();
        for (name, file) in files {
            let registration = fs::read_to_string(&file)
                .map_err(|error| error.to_string())
                .and_then(|text| Registration::parse(&text));
            match registration.and_then(|registration| self.resolve(registration)) {
                Ok(Some((priority, library))) => {
                    // Two names for one file would be two processes on the same tokens.
                    let known = |other: &PathBuf| real_path(other) == real_path(&library);
                    if !libraries.iter().any(|(_, other)| known(&other.library)) {
                        libraries.push((priority, RegisteredLibrary { name, library }));
                    }
                }
                Ok(None) => {}
                Err(why) => skipped.push(Skipped { file, why }),
            }
        }
        // Stable, so that names stay in order within a priority.
        libraries.sort_by_key(|(priority, _)| core::cmp::Reverse(*priority));
        (
            libraries.into_iter().map(|(_, library)| library).collect(),
            skipped,
        )
    }

    /// Priority and path of a library that is for us, or that it is not.
    fn resolve(&self, registration: Registration) -> Result<Option<(i32, PathBuf)>, String> {
        let Some(module) = registration.module.filter(|_| registration.use_here) else {
            return Ok(None);
        };
        let path = Path::new(&module);
        if path.is_absolute() {
            return Ok(Some((registration.priority, path.to_owned())));
        }
        let found = self
            .libraries
            .iter()
            .map(|folder| folder.join(path))
            .find(|path| path.exists());
        match found {
            Some(library) => Ok(Some((registration.priority, library))),
            None => Err(format!("library {module} is in no PKCS#11 library folder")),
        }
    }
}

/// The libraries of this machine: those that p11-kit knows, or else what distributions install; and what
/// was passed over.
pub fn installed() -> (Vec<PathBuf>, Vec<Skipped>) {
    let (registered, skipped) = Folders::default().registered();
    if registered.is_empty() {
        let known = KNOWN_LIBRARIES.iter().map(PathBuf::from);
        return (known.filter(|library| library.exists()).collect(), skipped);
    }
    let libraries = registered.into_iter().map(|registered| registered.library);
    (libraries.collect(), skipped)
}

fn real_path(library: &Path) -> PathBuf {
    fs::canonicalize(library).unwrap_or_else(|_| library.to_owned())
}

fn module_files(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("module"))
            && let Some(name) = path.file_stem().and_then(OsStr::to_str)
        {
            files.push((name.to_owned(), path));
        }
    }
    Ok(files)
}

/// What one file says.
pub(crate) struct Registration {
    module: Option<String>,
    priority: i32,
    use_here: bool,
}

impl Registration {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut registration = Self {
            module: None,
            priority: 0,
            use_here: true,
        };
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line
                .split_once(':')
                .ok_or_else(|| format!("no colon in line {line:?}"))?;
            let value = value.trim();
            match key.trim() {
                "module" if !value.is_empty() => registration.module = Some(value.to_owned()),
                "priority" => {
                    registration.priority = value
                        .parse()
                        .map_err(|_| format!("bad priority {value:?}"))?;
                }
                "enable-in" => registration.use_here &= lists_us(value),
                "disable-in" => registration.use_here &= !lists_us(value),
                "trust-policy" => registration.use_here &= value != "yes",
                // Options of p11-kit itself (managed, critical, log-calls, remote, x-*).
                _ => {}
            }
        }
        Ok(registration)
    }
}

fn lists_us(programs: &str) -> bool {
    programs
        .split(|c: char| c == ',' || c.is_whitespace())
        .any(|program| program == PROGRAM)
}

/// Where distributions put the libraries that most people have, for machines without p11-kit.
const KNOWN_LIBRARIES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so",
    "/usr/lib/aarch64-linux-gnu/opensc-pkcs11.so",
    "/usr/lib64/opensc-pkcs11.so",
    "/usr/lib/opensc-pkcs11.so",
    "/usr/lib/x86_64-linux-gnu/libykcs11.so.2",
    "/usr/lib64/libykcs11.so.2",
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
];

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        root: tempfile::TempDir,
        folders: Folders,
    }

    impl Machine {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let folder = |name: &str| {
                let path = root.path().join(name);
                fs::create_dir(&path).unwrap();
                path
            };
            let folders = Folders {
                modules: vec![folder("etc"), folder("usr"), root.path().join("missing")],
                libraries: vec![folder("lib")],
            };
            fs::write(folders.libraries[0].join("card.so"), "").unwrap();
            Self { root, folders }
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.root.path().join(file), text).unwrap();
        }

        fn names(&self) -> Vec<String> {
            self.folders
                .registered()
                .0
                .into_iter()
                .map(|library| library.name)
                .collect()
        }
    }

    #[test]
    fn libraries_are_listed_by_priority_then_name() {
        let machine = Machine::new();
        machine.write("usr/b.module", "module: /opt/b.so\n");
        machine.write("usr/a.module", "module: /opt/a.so\n");
        machine.write(
            "usr/first.module",
            "# best\n\nmodule: /opt/first.so\npriority: 9\n",
        );
        machine.write("usr/readme.txt", "module: /opt/no.so\n");
        assert_eq!(machine.names(), ["first", "a", "b"]);
    }

    #[test]
    fn the_administrators_file_replaces_the_packages() {
        let machine = Machine::new();
        machine.write("usr/card.module", "module: /opt/packaged.so\n");
        machine.write("etc/card.module", "module: /opt/chosen.so\n");
        machine.write("usr/off.module", "module: /opt/off.so\n");
        machine.write("etc/off.module", "");
        let (libraries, skipped) = machine.folders.registered();
        assert_eq!(
            libraries,
            [RegisteredLibrary {
                name: "card".into(),
                library: "/opt/chosen.so".into()
            }]
        );
        assert!(skipped.is_empty(), "{skipped:?}");
    }

    #[test]
    fn a_library_without_a_path_is_searched_in_the_library_folders() {
        let machine = Machine::new();
        machine.write("usr/card.module", "module: card.so\n");
        machine.write("usr/gone.module", "module: gone.so\n");
        let (libraries, skipped) = machine.folders.registered();
        assert_eq!(
            libraries[0].library,
            machine.folders.libraries[0].join("card.so")
        );
        assert_eq!(libraries.len(), 1);
        assert!(
            skipped[0]
                .to_string()
                .ends_with("usr/gone.module: library gone.so is in no PKCS#11 library folder")
        );
    }

    #[test]
    fn one_library_registered_twice_is_listed_once() {
        let machine = Machine::new();
        machine.write("usr/a.module", "module: /opt/same.so\n");
        machine.write("usr/b.module", "module: /opt/same.so\n");
        let card = &machine.folders.libraries[0].join("card.so");
        let other_name = machine.root.path().join("card2.so");
        std::os::unix::fs::symlink(card, &other_name).unwrap();
        machine.write("usr/c.module", "module: card.so\n");
        machine.write(
            "usr/d.module",
            &format!("module: {}\n", other_name.display()),
        );
        assert_eq!(machine.names(), ["a", "c"]);
    }

    #[test]
    fn only_what_is_meant_for_this_program_is_listed() {
        let machine = Machine::new();
        machine.write(
            "usr/a.module",
            "module: /opt/a.so\nenable-in: ssh, claviger\n",
        );
        machine.write("usr/b.module", "module: /opt/b.so\nenable-in: ssh\n");
        machine.write("usr/c.module", "module: /opt/c.so\ndisable-in: claviger\n");
        machine.write("usr/d.module", "module: /opt/d.so\ndisable-in: firefox\n");
        machine.write("usr/e.module", "module: /opt/e.so\ntrust-policy: yes\n");
        machine.write("usr/f.module", "remote: |ssh host p11-kit remote\n");
        assert_eq!(machine.names(), ["a", "d"]);
    }

    #[test]
    fn a_file_that_does_not_parse_is_named_and_hides_no_other() {
        let machine = Machine::new();
        machine.write("usr/bad.module", "module /opt/bad.so\n");
        machine.write("usr/good.module", "module: /opt/good.so\n");
        let (libraries, skipped) = machine.folders.registered();
        assert_eq!(libraries.len(), 1);
        assert!(
            skipped[0]
                .to_string()
                .ends_with("usr/bad.module: no colon in line \"module /opt/bad.so\"")
        );
    }
}
