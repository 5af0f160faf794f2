//! Beginning, ending, and who may talk to the daemon.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use claviger_protocol::control::{Command, Conversation, Reply, ToDaemon};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::harness::{CLAVIGERD, stderr_of, user_test, wait_until};

user_test! {
    fn a_configuration_error_ends_it_and_names_file_and_line(user) {
        user.configure("[pkcs11]\nlibraries = []\nlibrarys = []\n");
        let child = user.command(CLAVIGERD).stderr(Stdio::piped()).spawn().unwrap();
        let (status, said) = stderr_of(child);
        assert_eq!(status.code(), Some(2));
        let file = user.home.join("config/claviger/config.toml");
        assert!(said.contains(&format!("{}:3: unknown field `librarys`", file.display())), "{said}");
    }
}

user_test! {
    fn a_second_daemon_of_one_user_says_that_there_is_one(user) {
        let _first = user.start();
        let second = user.command(CLAVIGERD).stderr(Stdio::piped()).spawn().unwrap();
        let (status, said) = stderr_of(second);
        assert_eq!(status.code(), Some(75));
        assert!(said.contains("another clavigerd of this user is running"), "{said}");
    }
}

user_test! {
    fn what_its_starter_had_open_it_and_its_modules_have_not(user) {
        let (reader, writer) = std::io::pipe().unwrap();
        // A copy that programs started from here inherit.
        let inherited = nix::unistd::dup(&writer).unwrap();
        drop(writer);
        let _daemon = user.start();
        drop(inherited);
        let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).unwrap();
        assert_eq!(polled[0].revents(), Some(PollFlags::POLLHUP), "somebody holds the other end");
    }
}

user_test! {
    fn sigterm_ends_it_and_its_modules_and_takes_the_socket_away(user) {
        let mut daemon = user.start();
        user.software_key();
        let modules = daemon.children();
        assert!(!modules.is_empty());
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.child.wait().unwrap().success());
        assert!(!user.control_socket().exists());
        for module in modules {
            let gone = || !Path::new(&format!("/proc/{module}")).exists();
            wait_until("a module has ended", gone);
        }
    }
}

user_test! {
    fn once_stop_is_answered_the_next_daemon_can_start(user) {
        let mut daemon = user.start();
        user.software_key();
        assert!(matches!(user.cli().stop().1, Ok(Reply::Done)));
        assert!(!user.control_socket().exists());
        let _next = user.start();
        user.cli().run(Command::Status).unwrap();
        assert!(daemon.child.wait().unwrap().success());
        user.cli().run(Command::Status).unwrap();
    }
}

user_test! {
    /// The octets are those of every version.
    fn whoever_is_newer_ends_it_too(user) {
        let mut daemon = user.start();
        let mut newer = UnixStream::connect(user.control_socket()).unwrap();
        newer.write_all(&[1, 0, 0, 0, 2]).unwrap();
        let mut said = Vec::new();
        newer.read_to_end(&mut said).unwrap();
        assert!(!said.is_empty());
        assert!(daemon.child.wait().unwrap().success());
    }
}

user_test! {
    fn after_a_kill_the_next_daemon_takes_the_socket_over(user) {
        drop(user.start());
        assert!(user.control_socket().exists());
        let _next = user.start();
        user.cli().run(Command::Status).unwrap();
    }
}

user_test! {
    fn another_uid_is_not_listened_to_not_even_root(user) {
        let _daemon = user.start();
        user.as_root(|| {
            let stream = UnixStream::connect(user.control_socket()).unwrap();
            // What this end thinks of the peer is not the point: send without asking.
            let refused = Conversation::new(stream.try_clone().unwrap());
            assert!(refused.is_err(), "the CLI would not talk to it either");
            let body = postcard::to_stdvec(&ToDaemon::Stop).unwrap();
            let mut stream = stream;
            // The daemon may have hung up already.
            let _ = stream.write_all(&u32::try_from(body.len()).unwrap().to_le_bytes());
            let _ = stream.write_all(&body);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty(), "{answer:?}");
        });
        user.cli().run(Command::Status).unwrap();
    }
}

user_test! {
    fn its_memory_and_environment_are_closed_to_its_own_user(user) {
        let daemon = user.start();
        let pid = daemon.pid().to_string();
        // Not this test's process, which still has root behind it.
        let reads = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            user.command("cat").arg(path).output().unwrap().status.success()
        };
        assert!(!reads("environ") && !reads("maps"));
        assert!(reads("status"));
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
}

user_test! {
    fn neither_daemon_nor_cli_socket_loads_a_token_library(user) {
        let (daemon, _) = user.with_card();
        let maps = user.as_root(|| {
            fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap()
        });
        assert!(!maps.contains("softhsm") && !maps.contains("pkcs11"), "{maps}");
        let of_module = user.as_root(|| {
            let pid = daemon.children()[0];
            fs::read_to_string(format!("/proc/{pid}/maps")).unwrap()
        });
        assert!(of_module.contains("softhsm"), "the module is the one that loads it");
    }
}

user_test! {
    fn started_in_the_background_it_keeps_nothing_of_the_environment_but_what_is_listed(user) {
        let started = user
            .command(CLAVIGERD)
            .arg("--background")
            .env("LANG", "C.UTF-8")
            .env("PLANTED_VARIABLE", "planted")
            .env("DISPLAY", ":99")
            .output()
            .unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        let Reply::Status(status) = user.cli().run(Command::Status).unwrap() else { panic!() };
        let environment = user.as_root(|| {
            fs::read_to_string(format!("/proc/{}/environ", status.daemon_pid)).unwrap()
        });
        assert!(environment.contains("LANG=C.UTF-8"), "{environment}");
        assert!(!environment.contains("planted") && !environment.contains("DISPLAY"), "{environment}");

        // One that runs is as good as one that was started.
        let again = user.command(CLAVIGERD).arg("--background").output().unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        user.cli().stop().1.unwrap();
        wait_until("it has ended", || !user.control_socket().exists());
    }
}

user_test! {
    fn started_in_the_background_it_tells_its_starter_what_is_wrong(user) {
        user.configure("nonsense = 1\n");
        let started = user.command(CLAVIGERD).arg("--background").output().unwrap();
        assert_eq!(started.status.code(), Some(2));
        let said = String::from_utf8_lossy(&started.stderr);
        assert!(said.contains("config.toml:1: unknown field `nonsense`"), "{said}");
    }
}

#[test]
fn systemd_accepts_the_unit() {
    let runtime = tempfile::tempdir().unwrap();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/clavigerd.service");
    let verified = std::process::Command::new("systemd-analyze")
        .args(["verify", "--user", "--man=no", "--recursive-errors=no"])
        .arg(&unit)
        .env("XDG_RUNTIME_DIR", runtime.path())
        .output()
        .expect("scripts/packages installs systemd-analyze");
    let said = String::from_utf8_lossy(&verified.stderr);
    // The program is where packages put it, not here.
    let complaints: Vec<_> = said
        .lines()
        .filter(|line| !line.contains("/usr/libexec/claviger/clavigerd"))
        .collect();
    assert!(complaints.is_empty(), "{said}");
}
