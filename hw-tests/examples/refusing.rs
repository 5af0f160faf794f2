//! Runs a program where the kernel refuses some system calls.
//!
//! `refusing keyctl PROGRAM [ARGUMENT…]`: EPERM for keyctl(2), add_key(2) and request_key(2), as in a
//! container (Docker's default seccomp profile). `refusing memfd_secret PROGRAM [ARGUMENT…]`: ENOSYS, as
//! from a kernel before 5.14 or one that was told `secretmem.enable=0`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (calls, errno) = match words.next() {
        Some(what) if what == "keyctl" => {
            let calls = [libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key];
            (calls.to_vec(), libc::EPERM)
        }
        Some(what) if what == "memfd_secret" => (vec![libc::SYS_memfd_secret], libc::ENOSYS),
        _ => return usage(),
    };
    let Some(program) = words.next() else {
        return usage();
    };
    refuse(&calls, errno);
    let error = Command::new(&program).args(words).exec();
    eprintln!("{}: {error}", program.display());
    ExitCode::FAILURE
}

fn usage() -> ExitCode {
    eprintln!("usage: refusing keyctl|memfd_secret PROGRAM [ARGUMENT…]");
    ExitCode::FAILURE
}

/// Installs the filter in this process and all that it becomes.
fn refuse(calls: &[libc::c_long], errno: i32) {
    let filter = SeccompFilter::new(
        calls.iter().map(|call| (*call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH
            .try_into()
            .expect("seccompiler knows it"),
    );
    let filter = filter.expect("a list of calls makes one");
    let program: BpfProgram = filter.try_into().expect("it is short");
    seccompiler::apply_filter(&program).expect("everybody may");
}
