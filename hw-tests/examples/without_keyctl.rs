//! Runs a program as a container would: keyctl(2), add_key(2) and request_key(2) are refused.
//!
//! `without_keyctl PROGRAM [ARGUMENT…]`. Docker's default seccomp profile answers the same EPERM.

#![allow(unsafe_code)] // No crate of ours installs a seccomp filter but for this.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sys::prctl;

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
    let load_number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0);
    let give = |result| instruction(libc::BPF_RET | libc::BPF_K, 0, result);
    let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let mut filter = vec![load_number];
    for number in [libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key] {
        let number = u32::try_from(number).expect("system calls are few");
        let unless = instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number);
        filter.extend([unless, give(eperm)]);
    }
    filter.push(give(libc::SECCOMP_RET_ALLOW));
    prctl::set_no_new_privs().expect("everybody may");
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("it is short"),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` points to `len` instructions, which live until the kernel has copied them.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

fn instruction(code: u32, jump_if_not: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::try_from(code).expect("a code is 16 bits"),
        jt: 0,
        jf: jump_if_not,
        k,
    }
}
