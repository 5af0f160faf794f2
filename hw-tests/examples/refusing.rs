//! Runs a program where the kernel refuses some system calls.
//!
//! `refusing keyctl PROGRAM [ARGUMENT…]`: EPERM for keyctl(2), add_key(2) and request_key(2), as in a
//! container (Docker's default seccomp profile). `refusing memfd_secret PROGRAM [ARGUMENT…]`: ENOSYS, as
//! from a kernel before 5.14 or one that was told `secretmem.enable=0`.

#![allow(unsafe_code)] // No crate of ours installs a seccomp filter but for this.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sys::prctl;

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
    let load_number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0);
    let give = |result| instruction(libc::BPF_RET | libc::BPF_K, 0, result);
    let refusal = libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
    let mut filter = vec![load_number];
    for number in calls {
        let number = u32::try_from(*number).expect("system calls are few");
        let unless = instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number);
        filter.extend([unless, give(refusal)]);
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
