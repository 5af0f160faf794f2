//! The modules beside the program under test: cargo builds that for this crate's tests, but not them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

const NAMES: [&str; 3] = [
    "claviger-pki-openssl",
    "claviger-pki-pkcs11",
    "claviger-pki-tpm",
];

/// Builds them unless they are newer than all that they were made of: one from before a change of the module
/// protocol would fail tests that are right.
///
/// cargo is not asked each time: every test is a process of its own, and cargo takes longer than many of
/// them. Nor does it wait for a lock of ours: whoever runs tests has built them, and holds it no more.
pub fn build() {
    let programs = Path::new(env!("CARGO_BIN_EXE_clavigerd"));
    if NAMES
        .iter()
        .all(|name| is_fresh(&programs.with_file_name(name)))
    {
        return;
    }
    let packages = NAMES.iter().flat_map(|name| ["--package", name]);
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet"])
        .args(packages)
        .status()
        .unwrap();
    assert!(built.success(), "the modules do not build");
}

/// Whether `program` is there and no source is newer. cargo lists the sources beside it, in make's way:
/// `PROGRAM: SOURCE…`, a space in a path as `\ `.
fn is_fresh(program: &Path) -> bool {
    let Some(built) = changed(program) else {
        return false;
    };
    let Ok(rule) = fs::read_to_string(program.with_extension("d")) else {
        return false;
    };
    let (_, sources) = rule.trim_end().split_once(": ").unwrap();
    let sources = sources.replace("\\ ", "\0");
    let mut sources = sources.split(' ').map(|source| source.replace('\0', " "));
    sources.all(|source| changed(Path::new(&source)).is_some_and(|changed| changed <= built))
}

fn changed(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).ok()?.modified().ok()
}

#[test]
fn a_program_older_than_its_source_is_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    let [program, source] = ["program", "a source.rs"].map(|name| folder.path().join(name));
    assert!(!is_fresh(&program));
    for file in [&source, &program] {
        fs::write(file, "").unwrap();
    }
    assert!(!is_fresh(&program), "nobody says what it was made of");
    let escaped = source.to_str().unwrap().replace(' ', "\\ ");
    let rule = format!("{}: {escaped} {escaped}\n", program.display());
    fs::write(program.with_extension("d"), rule).unwrap();
    assert!(is_fresh(&program));
    let later = SystemTime::now() + std::time::Duration::from_secs(10);
    fs::File::options()
        .write(true)
        .open(&source)
        .unwrap()
        .set_modified(later)
        .unwrap();
    assert!(!is_fresh(&program));
    fs::remove_file(&source).unwrap();
    assert!(!is_fresh(&program));
}
