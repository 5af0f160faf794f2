//! The table of mounts, as `/proc/self/mountinfo` has it (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::{fs, io};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub mountpoint: PathBuf,
    /// The filesystem's type.
    pub kind: Vec<u8>,
    /// What is mounted, in the words of who did it.
    pub source: PathBuf,
}

/// All mounts of this mount namespace; of several at one place the last is on top.
///
/// # Errors
/// If /proc is not there.
pub fn read() -> io::Result<Vec<Mounted>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).collect())
}

/// Parses the table; what is no line of it is passed over.
///
/// ```text
/// id parent major:minor root mountpoint options… - type source super-options
/// ```
pub fn parse(table: &[u8]) -> impl Iterator<Item = Mounted> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line)
}

fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mountpoint = unescape(fields.nth(4)?);
    let mut after_dash = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mounted {
        mountpoint,
        kind: after_dash.next()?.to_vec(),
        source: unescape(after_dash.next()?),
    })
}

/// Undoes the kernel's `\ooo`, in this table for space, tab, newline, backslash and, in a source, `#`.
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let octal = (first == b'\\')
            .then(|| tail.split_first_chunk::<3>())
            .flatten();
        let value = octal.and_then(|(digits, after)| {
            let text = str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(text, 8).ok()?, after))
        });
        match value {
            Some((byte, after)) => {
                bytes.push(byte);
                rest = after;
            }
            None => bytes.push(first),
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn names_are_as_they_were_before_the_kernel_escaped_them() {
        let table = b"\
            62 31 0:50 / /home/ann/my\\040files rw shared:9 - fuse.claviger /srv/C\\043x\\134y\xff rw\n\
            nonsense\n";
        let mounts: Vec<Mounted> = parse(table).collect();
        let [mount] = mounts.as_slice() else {
            panic!("{mounts:?}");
        };
        assert_eq!(mount.mountpoint, PathBuf::from("/home/ann/my files"));
        assert_eq!(mount.kind, b"fuse.claviger");
        assert_eq!(mount.source.as_os_str().as_bytes(), b"/srv/C#x\\y\xff");
    }

    #[test]
    fn what_is_no_escape_stays() {
        for text in ["\\", "\\04", "\\999", "\\x41"] {
            assert_eq!(unescape(text.as_bytes()), PathBuf::from(text));
        }
    }
}
