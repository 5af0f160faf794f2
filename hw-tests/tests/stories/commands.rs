//! Commands that look and tell.

use std::fs;

use claviger_hw_tests::{Finished, PIN, SoftHsm, story};
use serde_json::Value;

use crate::scene::{alice_with_a_card, alice_with_an_open_folder, folder, says};

/// Where `claviger-gen out` puts those of each shell.
const COMPLETIONS: &str = "out/bash-completion/completions/claviger out/zsh/site-functions/_claviger out/fish/vendor_completions.d/claviger.fish";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

story! {
    fn a_full_disk_behind_standard_output_is_told_and_panics_nothing(world) {
        let alice = world.user("alice");
        for command in ["status", "doctor", "key list --json"] {
            let said = alice.sh(&format!("/run/programs/claviger {command} >/dev/full")).fails(1);
            says(&said, &["standard output: No space left on device"]);
            assert!(!said.contains("panicked"), "{said}");
        }
    }
}

story! {
    /// A file of secrets that ends without a newline, as a key often does, is whole or an error.
    fn cat_to_a_full_disk_fails_however_short_the_file_is(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("printf secret >private/short; printf 'line\nrest' >private/lines").ok();
        for file in ["short", "lines"] {
            let said = alice.sh(&format!("/run/programs/claviger cat Private {file} >/dev/full")).fails(1);
            says(&said, &["standard output: No space left on device"]);
        }
    }
}

story! {
    /// "`claviger doctor` looks for what is missing."
    fn doctor_says_what_is_there_and_what_is_missing(world) {
        let alice = world.user("alice");
        let Finished { stdout, code, .. } = alice.claviger(["doctor"]).finish();
        assert_eq!(code, 0, "{stdout}");
        says(&stdout, &["/dev/fuse", "fusermount3", "locked memory", "programs", "TPM", "PKCS#11"]);
        let findings = json(&alice.claviger(["doctor", "--json"]).ok());
        assert!(findings.as_array().unwrap().iter().all(|finding| finding["verdict"] != "bad"), "{findings}");
        fs::set_permissions(alice.runtime(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let worse = alice.claviger(["doctor"]).finish();
        assert_eq!(worse.code, 28, "{worse}");
        says(&worse.stdout, &["BAD", "closed to others"]);
        // It changes nothing and starts nothing.
        alice.sh("test ! -e .config && test ! -e .local").ok();
    }
}

story! {
    /// What the daemon is told to use is what is looked for.
    fn doctor_looks_for_the_tokens_that_the_configuration_names(world) {
        let alice = world.user("alice");
        alice.sh("mkdir -p .config/claviger").ok();
        let config = "[pkcs11]\nlibraries = ['/opt/missing.so']\n[tpm]\ntcti = 'device:/dev/tpm-elsewhere'\n";
        alice.write(".config/claviger/config.toml", config);
        let said = alice.claviger(["doctor"]).finish();
        assert_eq!(said.code, 28, "{said}");
        says(&said.stdout, &["missing: /opt/missing.so", "no /dev/tpm-elsewhere"]);
        alice.write(".config/claviger/config.toml", "[tpm\n");
        let said = alice.claviger(["doctor"]).finish();
        assert_eq!(said.code, 28, "{said}");
        says(&said.stdout, &["BAD   configuration", "config.toml: "]);
    }
}

story! {
    /// A setting that no daemon starts with is found by doctor, by its line; so is a home that it cannot write to.
    fn doctor_finds_what_keeps_the_daemon_from_starting(world) {
        let mut alice = world.user("alice");
        alice.write(".config/claviger/config.toml", "[pkcs11]\nlibrarys = []\n");
        let said = alice.claviger(["doctor"]).finish();
        assert_eq!(said.code, 28, "{said}");
        says(&said.stdout, &["BAD   configuration", "config.toml:2: unknown field `librarys`"]);
        alice.claviger(["status"]).fails(2);
        alice.set("HOME", "/nowhere");
        let said = alice.claviger(["doctor"]).finish();
        assert_eq!(said.code, 28, "{said}");
        says(&said.stdout, &["BAD   state folder", "/nowhere/.local/state/claviger: Permission denied; set HOME"]);
        let said = alice.claviger(["status"]).fails(1);
        assert_eq!(said.matches("Permission denied").count(), 1, "{said}");
    }
}

story! {
    /// A package of its own may be missing, or a file of one: not the library, which the configuration names.
    fn a_module_that_is_not_installed_is_named(world) {
        let mut alice = world.user("alice");
        SoftHsm::new(&mut alice).alone(&alice);
        alice.sh("mkdir bin && cp /run/programs/claviger /run/programs/clavigerd bin").ok();
        let said = alice.sh("bin/claviger key add pkcs11:token=work").finish();
        says(&said.stderr, &["module pkcs11: ", "/libexec/claviger/claviger-pki-pkcs11 is not installed"]);
    }
}

story! {
    /// Whoever names the wrong thing hears which, and no command waits for ever: nobody writes to this pipe.
    fn what_is_no_volume_no_key_and_no_file_is_named_in_the_error(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("mkdir plain; echo text >plain/letter; echo text >private/letter; mkfifo pipe private/pipe").ok();
        alice.sh("ln -s letter private/link").ok();
        let no_volume = "/home/alice/plain: no manifest here";
        let table = [
            ("unlock plain", 3, no_volume),
            ("lock plain", 3, no_volume),
            ("recipient list plain", 3, no_volume),
            ("recipient add plain k", 3, no_volume),
            ("verify plain", 3, no_volume),
            ("cat plain letter", 3, no_volume),
            ("inspect plain/letter", 12, "plain/letter has no header of a volume's file"),
            ("inspect pipe", 2, "pipe is no regular file"),
            ("ecryptfs inspect pipe", 2, "pipe is no regular file"),
            ("cat Private pipe", 2, "pipe is no regular file"),
            ("cat Private link", 2, "link is a symbolic link: name what it leads to"),
            ("recipient add Private pipe", 2, "/home/alice/pipe is not a file"),
            ("key add pipe", 2, "/home/alice/pipe is not a file"),
            ("seal --recipient pipe plain/letter", 2, "/home/alice/pipe is not a file"),
            ("key generate --module openssl --out no/k.pem", 3, "/home/alice/no/k.pem: there is no such folder"),
            ("init --recipient k Private/inner", 2, "Private/inner lies in the volume /home/alice/Private"),
            ("init New", 2, "no key is named, and there is no terminal to ask on"),
        ];
        for (command, code, said) in table {
            let finished = alice.sh(&format!("timeout 20 /run/programs/claviger {command}")).finish();
            assert_eq!(finished.code, code, "{command}: {finished}");
            says(&finished.stderr, &[said]);
        }
        alice.claviger(["verify", "Private"]).ok();
    }
}

story! {
    /// The daemon and JSON have paths as text: a folder whose name is none is refused, in words, and below it nothing
    /// is made. Names in a volume may be anything.
    fn a_folder_whose_name_is_not_utf_8_is_refused_by_name(world) {
        let alice = alice_with_an_open_folder(world);
        let in_it = |command: &str| format!("N=$(printf 'b\\377d'); mkdir -p \"$N\"; /run/programs/claviger {command}");
        for command in ["init --recipient k \"$N/new\"", "unlock \"$N\"", "lock \"$N\"", "mount \"$N\" private"] {
            let said = alice.sh(&in_it(command)).fails(2);
            says(&said, &["the path of a volume or key must be UTF-8", "Rename the folder"]);
        }
        alice.sh("N=$(printf 'b\\377d'); echo text >\"private/$N\"; test $(/run/programs/claviger cat Private \"$N\") = text").ok();
    }
}

story! {
    /// Labels are chosen by others, and so are the names of folders on their disks: an escape sequence or a change
    /// of the direction of writing is shown, not obeyed. Programs get them as they are.
    fn no_label_and_no_name_steers_the_terminal_that_it_is_shown_on(world) {
        let alice = world.user("alice");
        let (label, dir) = ("k\u{202e}gpj", "Pri\u{1b}[2Jvate\nmoved");
        alice.claviger(["key", "generate", "--module", "openssl", "--label", label, "--out", "k.pem"]).ok();
        alice.claviger(["init", "--no-recovery", "--recipient", "k.pem", dir]).ok();
        let commands: [&[&str]; 7] = [
            &["mount", dir, dir],
            &["unlock", dir],
            &["unlock", dir],
            &["status"],
            &["key", "list"],
            &["recipient", "list", dir],
            &["lock", dir],
        ];
        for command in commands {
            let Finished { stdout, stderr, .. } = alice.claviger(command).finish();
            let steers = |c: char| c == '\u{202e}' || (c.is_control() && c != '\n');
            let said = stdout + &stderr;
            assert!(!said.contains(steers), "{command:?}: {said:?}");
            let shown = [r"k\u{202e}gpj", r"Pri\u{1b}[2Jvate\nmoved", "lower folder /home/alice/Pri\\u{1b}[2Jvate\n  moved"];
            assert!(shown.iter().any(|shown| said.contains(shown)), "{command:?}: {said}");
        }
        let keys = json(&alice.claviger(["key", "list", "--json"]).ok());
        assert_eq!(keys[0]["label"], label);
    }
}

story! {
    /// "`inspect FILE`: needs no key."
    fn inspect_tells_what_a_lower_file_and_a_manifest_say_without_a_key(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo text >private/letter").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["stop"]).ok();
        alice.sh("mv keys away; mv .config config-away").ok();
        let file = alice.lower_files("Private")[0].clone();
        let of_file = json(&alice.claviger(["inspect".as_ref(), "--json".as_ref(), file.as_os_str()]).ok());
        let of_volume = json(&alice.claviger(["inspect", "--json", "Private"]).ok());
        assert_eq!(of_file["volume"], of_volume["volume"], "{of_file} {of_volume}");
        assert!(of_volume.to_string().contains("\"k\""), "{of_volume}");
        for output in [alice.claviger(["inspect", "Private"]).ok(), alice.claviger(["inspect".as_ref(), file.as_os_str()]).ok()] {
            says(&output, &["volume"]);
            assert!(!output.contains("letter"), "{output}");
        }
        alice.write("plain", "no file of ours, and long enough for a header ".repeat(200));
        let said = alice.claviger(["inspect", "plain"]).finish();
        assert!([12, 17].contains(&said.code), "{said}");
        alice.claviger(["inspect", "missing"]).fails(3);
    }
}

story! {
    /// "`cat` (no mount needed)."
    fn cat_prints_a_file_of_a_folder_that_is_not_mounted(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("mkdir -p private/a/b; seq 50000 >private/a/b/numbers; ln -s numbers private/a/b/link").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.sh("/run/programs/claviger cat Private a/b/numbers | cmp - /dev/stdin <<END\n$(seq 50000)\nEND").ok();
        says(&alice.claviger(["cat", "Private", "a/b/none"]).fails(3), &["a/b/none"]);
        says(&alice.claviger(["cat", "Private", "a/b"]).finish().stderr, &["directory"]);
        alice.claviger(["cat", "Private", "../Private/a"]).fails(2);
    }
}

story! {
    /// "`claviger status` saying what is open, by which key, over which carrier."
    fn status_says_what_is_open_by_which_key_and_where(world) {
        let (alice, _card) = alice_with_a_card(world);
        says(&alice.claviger(["status"]).ok(), &["No volume is open", "auth toks in the keyring"]);
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        let text = alice.claviger(["status"]).ok();
        says(&text, &["/home/alice/Private  unlocked", "token 'k'", "/home/alice/private over netlink", "module pkcs11"]);
        let status = alice.status();
        let volume = &status["volumes"][0];
        assert_eq!(volume["dir"], "/home/alice/Private");
        assert_eq!(volume["unlocked"], true);
        assert_eq!(volume["epoch"], 1);
        assert_eq!(volume["opened_by"]["kind"], "token");
        assert_eq!(volume["mounts"][0]["mountpoint"], "/home/alice/private");
        alice.claviger(["lock", "private"]).ok();
        says(&alice.claviger(["status"]).ok(), &["/home/alice/Private  locked"]);
        assert_eq!(alice.status()["volumes"][0]["unlocked"], false);
    }
}

story! {
    /// "`--json` on whatever reads."
    fn lists_of_tokens_keys_and_recipients_are_json_on_request(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        let tokens = json(&alice.claviger(["token", "list", "--json"]).ok());
        assert_eq!(tokens[0]["label"], "work");
        assert_eq!(tokens[0]["module"], "pkcs11");
        let keys = json(&alice.claviger(["key", "list", "--json"]).ok());
        assert_eq!(keys[0]["label"], "k");
        assert_eq!(keys[0]["in_keyring"], true);
        assert!(keys[0]["locator"].as_str().unwrap().starts_with("pkcs11:"), "{keys}");
        let recipients = json(&alice.claviger(["recipient", "list", "--json", "Private"]).ok());
        assert_eq!(recipients["epoch"], 1);
        assert_eq!(recipients["recipients"][0]["key_id"], keys[0]["key_id"]);
        assert_eq!(recipients["recipients"][0]["kind"], "token");
    }
}

story! {
    /// "Man pages and shell completions generated from the same definitions", with the exit codes.
    fn man_pages_and_completions_are_generated_for_every_command(world) {
        let alice = world.user("alice");
        alice.run("/run/programs/claviger-gen", ["out"]).ok();
        let help = alice.claviger(["--help"]).ok();
        let commands: Vec<&str> = help
            .lines()
            .skip_while(|line| !line.starts_with("Commands:"))
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|command| *command != "help")
            .collect();
        assert!(commands.len() > 12, "{commands:?}");
        for command in commands {
            let page = fs::read_to_string(alice.home().join(format!("out/man/man1/claviger-{command}.1"))).unwrap();
            says(&page, &[".TH", "NAME", "SYNOPSIS"]);
            alice.sh(&format!("grep -q -- {command} {COMPLETIONS}")).ok();
        }
        let page = fs::read_to_string(alice.home().join("out/man/man1/claviger.1")).unwrap();
        says(&page, &["token absent", "verify found damage", "26"]);
        alice.sh("bash -n out/bash-completion/completions/claviger").ok();
    }
}
