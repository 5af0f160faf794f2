//! Extended attributes: `user.` ones as the format has them, POSIX ACLs handed to the lower filesystem.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use claviger_vault::format::{Attribute, AttributeError, Attributes, Carrier, Tree};
use nix::errno::Errno;

use crate::attr::Kind;
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::Inode;
use crate::sys;
use crate::tree::Below;

/// Longest value that Linux hands over (limits.h, XATTR_SIZE_MAX).
const VALUE_MAX: usize = 65536;

/// Which of Linux's namespaces a name is in.
enum Namespace<'a> {
    /// `user.`: as the format has it.
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
                let tree = self.tree()?;
                let attributes = self.user_attributes(&*tree, &inode)?;
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
                let tree = self.tree()?;
                let attributes = self.user_attributes(&*tree, &inode)?;
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
        let tree = self.tree()?;
        let mut attributes = None;
        let mut listed: Vec<Vec<u8>> = Vec::new();
        for lower in lower
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let name = match namespace(lower) {
                Namespace::Acl(name) => name.to_bytes().to_vec(),
                Namespace::Other => continue,
                Namespace::User => {
                    let attributes = match &mut attributes {
                        Some(attributes) => attributes,
                        none => none.insert(self.user_attributes(&*tree, &inode)?),
                    };
                    match attributes.parse(lower) {
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
        let tree = self.tree()?;
        let attributes = self.user_attributes(&*tree, &inode)?;
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

    /// The attributes in `user.` of `inode`. Linux has them on files and directories only.
    fn user_attributes<'a>(
        &self,
        tree: &'a dyn Tree,
        inode: &Arc<Inode>,
    ) -> Result<Box<dyn Attributes + 'a>, OpError> {
        match inode.kind {
            Kind::DIRECTORY => {
                let dir = self.dir_of(inode)?;
                Ok(tree.attributes(Carrier::Folder(&*dir.names))?)
            }
            Kind::REGULAR => {
                let file = Below { fs: self, inode };
                Ok(tree.attributes(Carrier::File(&file))?)
            }
            _ => Err(Errno::EPERM.into()),
        }
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
    CString::new(attribute.lower.as_slice()).expect("lower names have no NUL")
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
            AttributeError::Reserved => Errno::EPERM.into(),
            AttributeError::ValueTooLong => Errno::E2BIG.into(),
            AttributeError::Foreign | AttributeError::Epoch(_) => Self::Damaged(error.to_string()),
        }
    }
}
