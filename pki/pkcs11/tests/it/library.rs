use std::path::{Path, PathBuf};

use claviger_pki::host::{HostConfig, ModuleHost};
use claviger_pki::module::ModuleError;

use crate::softhsm::{Module, SoftHsm};

fn with_library(library: &str) -> ModuleError {
    let softhsm = SoftHsm::empty();
    let settings = [("library".to_owned(), library.to_owned())].into();
    let config = HostConfig {
        settings,
        ..softhsm.config()
    };
    Module(ModuleHost::new(config)).tokens().unwrap_err()
}

#[test]
fn a_library_that_is_missing_is_named() {
    assert_eq!(
        with_library("/nonexistent/lib.so").to_string(),
        "PKCS#11 library /nonexistent/lib.so: /nonexistent/lib.so: cannot open shared object file: \
         No such file or directory"
    );
}

#[test]
fn a_file_that_is_no_library_is_named() {
    let error = with_library("/etc/passwd").to_string();
    assert!(
        error.starts_with("PKCS#11 library /etc/passwd: "),
        "{error}"
    );
    assert!(
        error.contains("invalid ELF header") || error.contains("file too short"),
        "{error}"
    );
}

#[test]
fn a_library_that_is_not_a_pkcs11_library_is_named() {
    let libm = [
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/lib/aarch64-linux-gnu/libm.so.6",
        "/lib64/libm.so.6",
    ];
    let libm = libm
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .unwrap();
    assert_eq!(
        with_library(libm).to_string(),
        format!("PKCS#11 library {libm}: not a PKCS#11 library, it exports no C_GetFunctionList")
    );
}

/// The path of a library of OpenSC's.
pub(crate) fn opensc(file: &str) -> PathBuf {
    let arch = std::env::consts::ARCH;
    let folders = [
        format!("/usr/lib/{arch}-linux-gnu/pkcs11"),
        format!("/usr/lib/{arch}-linux-gnu"),
        "/usr/lib64/pkcs11".into(),
        "/usr/lib64".into(),
        "/usr/lib/pkcs11".into(),
        "/usr/lib".into(),
    ];
    let mut paths = folders.iter().map(|folder| Path::new(folder).join(file));
    let found = paths.find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{file} is installed (package opensc-pkcs11)"))
}

#[test]
fn a_card_library_on_a_machine_without_cards_has_no_tokens() {
    let mut softhsm = SoftHsm::empty();
    let library = opensc("opensc-pkcs11.so").to_str().unwrap().to_owned();
    // Readers of the machine that runs the test are none of its business.
    let none = softhsm.path("no-pcscd");
    softhsm.set("PCSCLITE_CSOCK_NAME", &none);
    let settings = [("library".to_owned(), library)].into();
    let module = Module(ModuleHost::new(HostConfig {
        settings,
        ..softhsm.config()
    }));
    assert_eq!(module.tokens().unwrap(), []);
    let absent = module.login("pkcs11:token=card", "123456").unwrap_err();
    assert_eq!(absent, ModuleError::Absent("pkcs11:token=card".into()));
    assert_eq!(module.0.status().restarts, 0);
}
