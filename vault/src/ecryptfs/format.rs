//! eCryptfs, as mounts use it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::attributes::PlainAttributes;
use super::clear::{ClearFile, EncryptedView};
use super::error::EcryptfsError;
use super::fek::Fek;
use super::file::LowerFile;
use super::header::{Header, MetadataPlace, NamesAre};
use super::mount_options::{MountOptions, PlainFiles, View};
use super::name::{self, EncryptedName};
use super::packet::Packet;
use super::passphrase::PassphraseKey;
use crate::dir::Location;
use crate::format::{
    Attributes, Begun, Carrier, Content, Edition, FileKeys, Folder, Format, FormatError, KeysMark,
    LowerObject, NewFile, Ranges, Settles, Sized, Tree,
};
use crate::ids::{DirId, Epoch};
use crate::names::{LowerName, NAME_MAX, NameError, NamesKeys, check_upper};
use crate::native::{Access, Links};
use crate::tree::EntryError;

/// eCryptfs in one folder.
#[derive(Clone, Debug)]
pub struct EcryptfsFormat {
    /// How it is mounted.
    pub options: MountOptions,
}

/// An open folder: how it is mounted, and the key that encrypts names, if any does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EcryptfsTree {
    options: Arc<MountOptions>,
    fnek: Option<Arc<PassphraseKey>>,
}

/// The FEK of an existing file.
#[derive(Debug)]
pub struct EcryptfsKeys(pub Fek);

/// What a new file starts with.
#[derive(Debug)]
pub struct NewEcryptfs {
    /// The FEK.
    pub fek: Fek,
    /// What wraps it, to each recipient.
    pub packets: Vec<Packet>,
    /// Where its header goes.
    pub place: MetadataPlace,
    /// What its header says of names.
    pub names: NamesAre,
}

impl EcryptfsTree {
    /// A folder mounted by `options`, with the FNEK that they name.
    ///
    /// # Errors
    /// [`EcryptfsError::NoKey`] if `fnek` is not the key that they name.
    pub fn new(options: MountOptions, fnek: Option<PassphraseKey>) -> Result<Self, EcryptfsError> {
        let given = fnek.as_ref().map(PassphraseKey::sig);
        if given != options.fnek {
            return Err(EcryptfsError::NoKey(options.fnek.into_iter().collect()));
        }
        Ok(Self {
            options: Arc::new(options),
            fnek: fnek.map(Arc::new),
        })
    }

    /// The size that the header of a lower file tells.
    fn file_size(&self, object: &dyn LowerObject) -> Result<u64, EcryptfsError> {
        let file = object.open()?;
        match self.options.view {
            View::Content => Header::read_size(file.as_fd()),
            View::Encrypted => Ok(EncryptedView::new(file, self.options.plain_files)?.size()),
        }
    }
}

impl Format for EcryptfsFormat {
    fn name_max(&self) -> u32 {
        match self.options.fnek {
            Some(_) => name::MAX_LEN as u32,
            None => NAME_MAX as u32,
        }
    }

    fn hidden_in_root(&self) -> u32 {
        0
    }

    fn begin(&self, lower: OwnedFd, access: Access) -> Result<Begun, FormatError> {
        if self.options.view == View::Encrypted {
            let view = EncryptedView::new(lower, self.options.plain_files)?;
            return Ok(Begun::Open(Box::new(view)));
        }
        match Header::read(lower.as_fd()) {
            Ok(header) => Ok(Begun::Sealed {
                head: header.packets.iter().flat_map(Packet::write).collect(),
                lower,
            }),
            Err(EcryptfsError::NeverWritten) => Ok(match access {
                Access::ReadOnly => Begun::Open(Box::new(ClearFile::new(lower, access))),
                Access::ReadWrite => Begun::Empty(lower),
            }),
            Err(EcryptfsError::NotEcryptfs)
                if self.options.plain_files == PlainFiles::PassedThrough =>
            {
                Ok(Begun::Open(Box::new(ClearFile::new(lower, access))))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Tree for EcryptfsTree {
    fn folder(
        &self,
        _dir: BorrowedFd<'_>,
        _at: Location<'_>,
    ) -> Result<Box<dyn Folder>, FormatError> {
        Ok(Box::new(self.clone()))
    }

    /// As the kernel, a file that is not of eCryptfs has the size that it has below.
    fn size(&self, kind: Sized, lower_len: u64, object: &dyn LowerObject) -> u64 {
        let size = match kind {
            Sized::File => self.file_size(object).ok(),
            Sized::Symlink => object
                .link_target()
                .ok()
                .and_then(|target| self.open_target(&target).ok())
                .map(|target| target.len() as u64),
        };
        size.unwrap_or(lower_len)
    }

    fn attributes<'a>(
        &'a self,
        _carrier: Carrier<'_>,
    ) -> Result<Box<dyn Attributes + 'a>, FormatError> {
        Ok(Box::new(PlainAttributes))
    }

    fn names_keys(&self) -> Option<&NamesKeys> {
        None
    }
}

/// Every folder is the same: names are encrypted without regard to where they are.
impl Folder for EcryptfsTree {
    fn id(&self) -> DirId {
        DirId::ROOT
    }

    fn encrypt(&self, name: &[u8]) -> Result<LowerName, FormatError> {
        check_upper(name)?;
        let lower = match &self.fnek {
            Some(fnek) => name::encrypt(name, fnek, self.options.names_key_len())?.into_bytes(),
            None => name.to_vec(),
        };
        Ok(LowerName::Short(lower))
    }

    fn upper_name(
        &self,
        _dir: BorrowedFd<'_>,
        lower: &[u8],
    ) -> Option<Result<Vec<u8>, EntryError>> {
        let foreign = |_| EntryError::Name(NameError::Foreign);
        match (lower, &self.fnek) {
            (b"." | b"..", _) => None,
            (lower, None) => Some(Ok(lower.to_vec())),
            (lower, Some(fnek)) => Some(match EncryptedName::parse(lower) {
                None => Err(EntryError::Foreign),
                Some(name) => name.and_then(|name| name.decrypt(fnek)).map_err(foreign),
            }),
        }
    }

    fn seal_target(&self, target: &[u8]) -> Result<Vec<u8>, FormatError> {
        match &self.fnek {
            Some(fnek) => {
                let len = self.options.names_key_len();
                Ok(name::encrypt_target(target, fnek, len)?.into_bytes())
            }
            None => Ok(target.to_vec()),
        }
    }

    fn open_target(&self, lower: &[u8]) -> Result<Vec<u8>, FormatError> {
        let Some(fnek) = &self.fnek else {
            return Ok(lower.to_vec());
        };
        match EncryptedName::parse(lower) {
            Some(target) => Ok(target?.decrypt_target(fnek)?),
            None => Err(FormatError::Damaged("symlink target is in clear".into())),
        }
    }
}

impl FileKeys for EcryptfsKeys {
    fn mark(&self) -> KeysMark {
        KeysMark::of([self.0.expose()])
    }

    fn open(
        self: Box<Self>,
        lower: OwnedFd,
        access: Access,
        _tree: &dyn Tree,
        _at: Option<Location<'_>>,
    ) -> Result<Box<dyn Content>, FormatError> {
        let header = Header::read(lower.as_fd())?;
        let file = LowerFile::open(lower, &header, &self.0, access)?;
        Ok(Box::new(file))
    }
}

impl NewFile for NewEcryptfs {
    fn epoch(&self) -> Option<Epoch> {
        None
    }

    fn mark(&self) -> KeysMark {
        KeysMark::of([self.fek.expose()])
    }

    fn create(
        self: Box<Self>,
        lower: OwnedFd,
        _tree: &dyn Tree,
        _at: Location<'_>,
        _links: Links,
    ) -> Result<Box<dyn Content>, FormatError> {
        let header = Header::fresh(self.packets, self.place, self.names)?;
        let file = LowerFile::create(lower, &header, &self.fek)?;
        Ok(Box::new(file))
    }
}

impl Content for LowerFile {
    fn size(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, FormatError> {
        Ok(self.read_at(offset, out)?)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), FormatError> {
        Ok(self.write_at(offset, data)?)
    }

    fn truncate(&self, size: u64) -> Result<(), FormatError> {
        Ok(self.truncate(size)?)
    }

    fn sync(&self) -> Result<(), FormatError> {
        Ok(self.sync()?)
    }

    fn edition(&self) -> Option<Edition> {
        None
    }

    fn settles(&self) -> Option<&dyn Settles> {
        None
    }

    fn ranges(&self) -> Option<&dyn Ranges> {
        None
    }
}
