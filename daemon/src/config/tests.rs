use std::fs;

use super::*;

fn dirs(system: &str, user: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (etc, home) = (dir.path().join("etc"), dir.path().join("home"));
    for (folder, text) in [(&etc, system), (&home, user)] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("config.toml"), text).unwrap();
    }
    (dir, etc, home)
}

fn error_of(user: &str) -> String {
    let (dir, etc, home) = dirs("", user);
    let error = Config::load(&etc, Some(&home)).unwrap_err().to_string();
    error.replace(dir.path().to_str().unwrap(), "")
}

#[test]
fn no_file_at_all_is_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::load(&dir.path().join("no"), None).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn the_users_file_replaces_single_keys_of_the_systems() {
    let (_dir, etc, home) = dirs(
        "[pkcs11]\nlibraries = ['/a.so']\n[prompts]\ntimeout-s = 5\n",
        "[prompts]\npinentry = '/bin/pe'\n[policy]\nfinal-try = 'never'\n",
    );
    let config = Config::load(&etc, Some(&home)).unwrap();
    assert_eq!(
        config.pkcs11_libraries,
        Libraries::Named(vec!["/a.so".into()])
    );
    assert_eq!(config.prompt_timeout, Duration::from_secs(5));
    assert_eq!(config.pinentry, Path::new("/bin/pe"));
    assert_eq!(config.final_try, FinalTry::Never);
}

#[test]
fn the_kernels_ecryptfs_is_served_only_where_somebody_says_so() {
    let (_dir, etc, home) = dirs(
        "[ecryptfs]\nkernel = true\ntimeout-s = 20\nuids = [1000]\npkcs1_v15 = true\n",
        "[ecryptfs]\nkernel = false\npkcs1_v15 = false\n",
    );
    let system = Config::load(&etc, None).unwrap();
    assert_eq!(system.kernel_ecryptfs, KernelEcryptfs::Served);
    assert_eq!(system.kernel_patience, Duration::from_secs(20));
    assert_eq!(system.kernel_uids, [1000]);
    let user = Config::load(&etc, Some(&home)).unwrap();
    assert_eq!(user.kernel_ecryptfs, KernelEcryptfs::NotServed);
    assert_eq!(Config::default().kernel_ecryptfs, KernelEcryptfs::NotServed);
    assert_eq!(
        (system.pkcs1_v15, user.pkcs1_v15),
        (Pkcs1V15::Accepted, Pkcs1V15::Refused)
    );
    assert_eq!(Config::default().pkcs1_v15, Pkcs1V15::Refused);
}

#[test]
fn an_unknown_key_is_an_error_that_names_its_line() {
    let error = error_of("[pkcs11]\n\nlibrary = '/a.so'\n");
    assert_eq!(
        error,
        "/home/config.toml:3: unknown field `library`, expected `libraries`"
    );
}

#[test]
fn an_unknown_section_is_an_error_that_names_its_line() {
    let error = error_of("# mine\n[pkcs12]\n");
    assert!(
        error.starts_with("/home/config.toml:2: unknown field `pkcs12`"),
        "{error}"
    );
}

#[test]
fn a_wrong_value_is_an_error_that_names_its_line() {
    let error = error_of("[policy]\nfinal-try = 'perhaps'\n");
    assert!(
        error.starts_with("/home/config.toml:2: unknown variant `perhaps`"),
        "{error}"
    );
}

#[test]
fn a_value_that_cannot_be_is_an_error_that_names_its_line() {
    for (text, said) in [
        (
            "[prompts]\n\ntimeout-s = 0\n",
            "3: invalid value: integer `0`",
        ),
        (
            "[policy]\ntoken-timeout-s = 0\n",
            "2: invalid value: integer `0`",
        ),
        (
            "[prompts]\ntimeout-s = -1\n",
            "2: invalid value: integer `-1`",
        ),
        (
            "[ecryptfs]\ntimeout-s = 0\n",
            "2: invalid value: integer `0`",
        ),
        (
            "[pkcs11]\nlibraries = [\n'/a.so',\n'b.so',\n]\n",
            "2: \"b.so\" is not an absolute path",
        ),
        (
            "[modules.tpm]\nprogram = 'claviger-pki-tpm'\n",
            "2: \"claviger-pki-tpm\" is not an absolute path",
        ),
        (
            "[prompts]\npinentry = 'bin/x'\n",
            "2: \"bin/x\" is neither an absolute path nor a name",
        ),
        ("[prompts]\npinentry = ''\n", "2: \"\" is neither"),
    ] {
        let error = error_of(text);
        let said = format!("/home/config.toml:{said}");
        assert!(error.starts_with(&said), "{error}");
    }
}

/// The names that may stand where `text` has one that may not, as the parser tells them.
fn expected(text: &str) -> Vec<String> {
    let error = Config::parse(text, Path::new("config.toml")).unwrap_err();
    let said = error.to_string();
    let (_, names) = said.split_once("expected").unwrap();
    names
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_document_has_a_row_for_each_key() {
    let document = document();
    let mut keys = 0;
    for section in expected("nonsense = 1") {
        let (name, rest) = match section.as_str() {
            "modules" => ("modules.NAME", "program = '/p'\n"),
            section => (section, ""),
        };
        for key in expected(&format!("[{name}]\n{rest}nonsense = 1\n")) {
            let row = format!("\n| `[{name}]` `{key}` | ");
            assert!(document.contains(&row), "no row of {row}");
            keys += 1;
        }
    }
    assert_eq!(document.matches("\n| `[").count(), keys, "rows of no key");
}

#[test]
fn the_example_of_the_document_is_understood_and_says_something_of_each_section() {
    let document = document();
    let (_, rest) = document.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let config = Config::parse(example, Path::new("configuration.md")).unwrap();
    assert_eq!(config.prompt_timeout, Duration::from_secs(120));
    assert_eq!(config.modules["pkcs11"].settings["concurrency"], "4");
    for section in expected("nonsense = 1") {
        assert!(example.contains(&format!("[{section}")), "no [{section}]");
    }
}

#[test]
fn broken_toml_is_an_error_that_names_its_line() {
    let error = error_of("[policy]\n[tpm\n");
    assert!(error.starts_with("/home/config.toml:2: "), "{error}");
}
