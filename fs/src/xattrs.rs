//! Extended attributes: `user.` ones encrypted, POSIX ACLs handed to the lower filesystem.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use claviger_vault::native::{FileError, FixedPart};
use claviger_vault::xattr::{Attribute, AttributeError, Attributes, Owner};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::uio::pread;

use crate::attr::Kind;
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::Inode;
use crate::lower::open_regular;
use crate::sys;

/// Longest value that Linux hands over (limits.h, XATTR_SIZE_MAX).
const VALUE_MAX: usize = 65536;

/// Length of the fixed part of a native file.
const FIXED_LEN: usize = 64;

/// Which of Linux's namespaces a name is in.
enum Namespace<'a> {
    /// `user.`: encrypted.
    User,
    /// The two names of POSIX ACLs, whose content the lower kernel has to read.
    Acl(&'a CStr),
    /// `security.` and all else: never there. What the kernel asks for before each write
    /// (`security.capability`) costs nothing this way.
    Other,
}

/// How an attribute is told: by its length, or as a whole.
pub(crate) enum XattrReply {
    Length(u32),
    Value(Vec<u8>),
    TooSmall,
}

impl XattrReply {
    /// For a caller that has `room` bytes; none asks for the length.
    pub(crate) fn of(value: Vec<u8>, room: u32) -> Self {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        match room {
            0 => Self::Length(length),
            room if length <= room => Self::Value(value),
            _ => Self::TooSmall,
        }
    }
}

impl VolumeFs {
    pub(crate) fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, OpError> {
        let inode = self.inode(ino)?;
        match namespace(name) {
            Namespace::Other => Err(Errno::ENODATA.into()),
            Namespace::Acl(_) if inode.kind == Kind::SYMLINK => Err(Errno::ENODATA.into()),
            Namespace::Acl(name) => {
                let held = self.hold(&inode)?;
                match read(|value| sys::get_xattr(&held.proc_path(), name, value)) {
                    // The kernel takes any other error than this for a refusal of access.
                    Err(Errno::EOPNOTSUPP) => Err(Errno::ENODATA.into()),
                    read => Ok(read?),
                }
            }
            Namespace::User => {
                let names = self.names()?;
                let attributes = Attributes::new(&names, self.xattr_owner(&inode)?);
                let held = self.hold(&inode)?;
                let path = held.proc_path();
                for attribute in attributes.candidates(name)? {
                    let lower = c_name(&attribute);
                    match read(|value| sys::get_xattr(&path, &lower, value)) {
                        Ok(sealed) => return Ok(attributes.open(&attribute, &sealed)?),
                        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Err(Errno::ENODATA.into())
            }
        }
    }

    pub(crate) fn setxattr(
        &self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), OpError> {
        let inode = self.inode(ino)?;
        match namespace(name) {
            Namespace::Other => Err(Errno::EOPNOTSUPP.into()),
            Namespace::Acl(name) => {
                let held = self.hold(&inode)?;
                Ok(sys::set_xattr(&held.proc_path(), name, value, flags)?)
            }
            Namespace::User => {
                let names = self.names()?;
                let attributes = Attributes::new(&names, self.xattr_owner(&inode)?);
                let held = self.hold(&inode)?;
                let path = held.proc_path();
                let candidates = attributes.candidates(name)?;
                let (newest, older) = candidates.split_first().ok_or(Errno::EINVAL)?;
                let older: Vec<CString> = older.iter().map(c_name).collect();
                let has_older = older
                    .iter()
                    .any(|lower| sys::get_xattr(&path, lower, &mut []).is_ok());
                // Set under an earlier epoch's name it is there, whatever the newest name says.
                let flags = match flags {
                    libc::XATTR_CREATE if has_older => return Err(Errno::EEXIST.into()),
                    libc::XATTR_REPLACE if has_older => 0,
                    flags => flags,
                };
                let sealed = attributes.seal(newest, value)?;
                sys::set_xattr(&path, &c_name(newest), &sealed, flags)?;
                for lower in older {
                    match sys::remove_xattr(&path, &lower) {
                        Ok(()) | Err(Errno::ENODATA) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Ok(())
            }
        }
    }

    /// The names, each ended by a NUL.
    pub(crate) fn listxattr(&self, ino: u64) -> Result<Vec<u8>, OpError> {
        let inode = self.inode(ino)?;
        let held = self.hold(&inode)?;
        let lower = match read(|names| sys::list_xattrs(&held.proc_path(), names)) {
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            lower => lower?,
        };
        let names = self.names()?;
        let mut owner = None;
        let mut listed: Vec<Vec<u8>> = Vec::new();
        for lower in lower
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let name = match namespace(lower) {
                Namespace::Acl(name) => name.to_bytes().to_vec(),
                Namespace::Other => continue,
                Namespace::User => {
                    let owner = match owner {
                        Some(owner) => owner,
                        None => *owner.insert(self.xattr_owner(&inode)?),
                    };
                    match Attributes::new(&names, owner).parse(lower) {
                        Ok(Some(attribute)) => attribute.name,
                        Ok(None) => continue,
                        Err(error) => {
                            let file = inode.shown_path();
                            let lower = lower.escape_ascii();
                            tracing::warn!(file, %lower, %error, "attribute left out");
                            continue;
                        }
                    }
                }
            };
            if !listed.contains(&name) {
                listed.push(name);
            }
        }
        Ok(listed
            .into_iter()
            .flat_map(|name| name.into_iter().chain([0]))
            .collect())
    }

    pub(crate) fn removexattr(&self, ino: u64, name: &[u8]) -> Result<(), OpError> {
        let inode = self.inode(ino)?;
        let held = match namespace(name) {
            Namespace::Other => return Err(Errno::ENODATA.into()),
            _ => self.hold(&inode)?,
        };
        let path = held.proc_path();
        if let Namespace::Acl(name) = namespace(name) {
            return Ok(sys::remove_xattr(&path, name)?);
        }
        let names = self.names()?;
        let attributes = Attributes::new(&names, self.xattr_owner(&inode)?);
        let mut removed = Err(Errno::ENODATA);
        for attribute in attributes.candidates(name)? {
            match sys::remove_xattr(&path, &c_name(&attribute)) {
                Ok(()) => removed = Ok(()),
                Err(Errno::ENODATA) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(removed?)
    }

    /// What attributes of `inode` are bound to. Linux has `user.` ones on nothing else.
    fn xattr_owner(&self, inode: &Arc<Inode>) -> Result<Owner, OpError> {
        match inode.kind {
            Kind::DIRECTORY => Ok(Owner::Directory(self.dir_of(inode)?.names.dir())),
            Kind::REGULAR => Ok(Owner::File(self.fixed_part(inode)?.file)),
            _ => Err(Errno::EPERM.into()),
        }
    }

    fn fixed_part(&self, inode: &Arc<Inode>) -> Result<FixedPart, OpError> {
        if let Some(fixed) = inode.open.fixed()? {
            return Ok(fixed);
        }
        let lower = self.at(inode, |dir, name| {
            Ok(open_regular(dir, name, OFlag::O_RDONLY)?)
        })?;
        self.same(inode, &nix::sys::stat::fstat(&lower)?)?;
        let mut fixed = [0; FIXED_LEN];
        if pread(&lower, &mut fixed, 0)? < FIXED_LEN {
            return Err(FileError::NeverReachedDisk.into());
        }
        Ok(FixedPart::parse(&fixed)?)
    }
}

fn namespace(name: &[u8]) -> Namespace<'static> {
    match name {
        b"system.posix_acl_access" => Namespace::Acl(c"system.posix_acl_access"),
        b"system.posix_acl_default" => Namespace::Acl(c"system.posix_acl_default"),
        name if name.starts_with(b"user.") => Namespace::User,
        _ => Namespace::Other,
    }
}

fn c_name(attribute: &Attribute) -> CString {
    CString::new(attribute.lower.as_str()).expect("lower names are ASCII without NUL")
}

/// Reads a value of unknown length.
fn read(mut into: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 1024];
    loop {
        match into(&mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(value);
            }
            Err(Errno::ERANGE) if value.len() < VALUE_MAX => value.resize(VALUE_MAX, 0),
            Err(errno) => return Err(errno),
        }
    }
}

impl From<AttributeError> for OpError {
    fn from(error: AttributeError) -> Self {
        match error {
            // As Linux has it for names of its own limits.
            AttributeError::Name => Errno::ERANGE.into(),
            AttributeError::ValueTooLong => Errno::E2BIG.into(),
            AttributeError::Foreign | AttributeError::Epoch(_) => Self::Damaged(error.to_string()),
        }
    }
}
