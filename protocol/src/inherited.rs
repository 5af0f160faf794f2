//! Open files that a process got from whoever started it.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::unistd::close;

/// Closes all descriptors but standard input, output and error.
///
/// For processes that stay when the shell that started them goes on: a script's pipe would never end,
/// and a descriptor of a PIN file would go to every program that they start in turn. To be called
/// before the process opens anything itself.
///
/// # Errors
/// If there is no /proc to tell which there are, or the system refuses.
pub fn close_inherited() -> io::Result<()> {
    let names = fs::read_dir("/proc/self/fd")?;
    let open: Vec<RawFd> = names
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        match close(fd) {
            // The one by which the folder was read.
            Ok(()) | Err(Errno::EBADF) => (),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
