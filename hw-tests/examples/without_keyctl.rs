//! Runs a program as a container would: keyctl(2), add_key(2) and request_key(2) are refused.
//!
//! `without_keyctl PROGRAM [ARGUMENT…]`. Docker's default seccomp profile answers the same EPERM.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: without_keyctl PROGRAM [ARGUMENT…]");
        return ExitCode::FAILURE;
    };
    refuse_keyctl();
    let error = Command::new(&program).args(words).exec();
    eprintln!("{}: {error}", program.display());
    ExitCode::FAILURE
}

fn refuse_keyctl() {
    let calls = [libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key];
    let filter = SeccompFilter::new(
        calls.map(|call| (call, Vec::new())).into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        std::env::consts::ARCH
            .try_into()
            .expect("seccompiler knows it"),
    );
    let filter = filter.expect("three calls make a filter");
    let program: BpfProgram = filter.try_into().expect("it is short");
    seccompiler::apply_filter(&program).expect("everybody may");
}
