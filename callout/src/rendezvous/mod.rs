//! Who finds whom: a requester publishes one small file, responders watch the folder.
//!
//! `<folder>/<instance>.toml`, put in place by rename, its owner being the requester's uid:
//!
//! ```toml
//! version = 1
//! instance = "5f0c…"              # 32 hexadecimal digits, as in the file's name
//! service = "org.example.ask/1"   # what is asked; for the responder's eyes
//! netlink = 3512874112            # port id; absent if not offered
//! socket = "5f0c….sock"           # name of a unix socket in the same folder; absent if not offered
//!
//! [namespaces]                    # device and inode of /proc/self/ns/*
//! net = [4, 4026531840]
//! pid = [4, 4026531836]
//!
//! [about]                         # whatever the service wants told before anything is asked
//! mountpoint = "/home/ann/private"
//! ```

mod look;
mod publish;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::Instance;

pub use look::{Published, published};
pub(crate) use publish::{Publication, prepare_folder};
pub(crate) use watch::{Found, Watch};

/// Largest entry read.
const ENTRY_MAX: u64 = 16 * 1024;

const SUFFIX: &str = "toml";

/// What a requester tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) instance: Instance,
    pub(crate) service: String,
    pub(crate) about: BTreeMap<String, String>,
    pub(crate) namespaces: Namespaces,
    /// Port id of the netlink socket that takes HELOs.
    pub(crate) netlink: Option<u32>,
    /// Name, in the entry's folder, of the socket that takes HELOs.
    pub(crate) socket: Option<String>,
}

/// Namespaces that netlink does not cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    /// Device and inode.
    net: (u64, u64),
    /// Device and inode.
    pid: (u64, u64),
}

impl Namespaces {
    /// This process's.
    pub(crate) fn own() -> io::Result<Self> {
        let of = |name: &str| -> io::Result<(u64, u64)> {
            let metadata = fs::metadata(format!("/proc/self/ns/{name}"))?;
            Ok((metadata.dev(), metadata.ino()))
        };
        Ok(Self {
            net: of("net")?,
            pid: of("pid")?,
        })
    }
}

#[cfg(test)]
impl Namespaces {
    pub(crate) fn from_inodes(net: u64, pid: u64) -> Self {
        Self {
            net: (4, net),
            pid: (4, pid),
        }
    }
}

/// The file's fields. Unknown ones are passed over, so that later versions may add some.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    instance: String,
    service: String,
    netlink: Option<u32>,
    socket: Option<String>,
    namespaces: Namespaces,
    #[serde(default)]
    about: BTreeMap<String, String>,
}

const VERSION: u32 = 1;

impl Entry {
    pub(crate) fn parse(text: &str) -> Result<Self, BadEntry> {
        let file: File = toml::from_str(text).map_err(|_| BadEntry::Syntax)?;
        if file.version != VERSION {
            return Err(BadEntry::Version(file.version));
        }
        if file
            .socket
            .as_deref()
            .is_some_and(|name| !is_plain_name(name))
        {
            return Err(BadEntry::Socket);
        }
        Ok(Self {
            instance: file.instance.parse().map_err(|_| BadEntry::Instance)?,
            service: file.service,
            about: file.about,
            namespaces: file.namespaces,
            netlink: file.netlink,
            socket: file.socket,
        })
    }

    pub(crate) fn write(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&File {
            version: VERSION,
            instance: self.instance.to_string(),
            service: self.service.clone(),
            netlink: self.netlink,
            socket: self.socket.clone(),
            namespaces: self.namespaces,
            about: self.about.clone(),
        })
    }
}

/// The socket lies in the entry's own folder: a name that leads elsewhere is refused.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".."
}

/// Why a file is not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadEntry {
    #[error("not TOML with the fields of an entry")]
    Syntax,
    #[error("unknown version {0}")]
    Version(u32),
    #[error("instance id is malformed or not the file's name")]
    Instance,
    #[error("socket name leads out of the folder")]
    Socket,
    #[error("larger than {ENTRY_MAX} bytes")]
    TooLarge,
    #[error("not a regular file that only its owner may write")]
    Writable,
    #[error("owned by uid {0}, which is not trusted")]
    Owner(u32),
    #[error("cannot be read: {0}")]
    Unreadable(io::ErrorKind),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry {
        Entry {
            instance: Instance::from_bytes([0xab; 16]),
            service: "org.example.ask/1".to_owned(),
            about: BTreeMap::from([("colour".to_owned(), "blue \"and\" green".to_owned())]),
            namespaces: Namespaces::from_inodes(1, 2),
            netlink: Some(u32::MAX),
            socket: Some("x.sock".to_owned()),
        }
    }

    #[test]
    fn what_is_written_is_what_is_parsed() {
        for entry in [
            entry(),
            Entry {
                netlink: None,
                socket: None,
                ..entry()
            },
        ] {
            assert_eq!(Entry::parse(&entry.write().unwrap()), Ok(entry));
        }
    }

    #[test]
    fn entries_of_another_version_and_sockets_elsewhere_are_refused() {
        let text = entry().write().unwrap();
        let newer = text.replace("version = 1", "version = 2");
        assert_eq!(Entry::parse(&newer), Err(BadEntry::Version(2)));
        for socket in ["../x.sock", "/tmp/x.sock", "..", ""] {
            let elsewhere = text.replace("x.sock", socket);
            assert_eq!(Entry::parse(&elsewhere), Err(BadEntry::Socket), "{socket}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser(text in ".{0,200}") {
            let _ = Entry::parse(&text);
        }
    }
}
