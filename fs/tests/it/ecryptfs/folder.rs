//! A mounted folder of eCryptfs, whose keys are in this process, and those that a kernel wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use claviger_fs::filesystem::VolumeFs;
use claviger_fs::kernel::Kernel;
use claviger_fs::keys::{KeySource, Ticket, Unwrap, UnwrapDone};
use claviger_fs::mount::ended;
use claviger_protocol::Failure;
use claviger_vault::ecryptfs::{
    EcryptfsFormat, EcryptfsKeys, EcryptfsTree, Fek, MountOptions, NamesAre, NewEcryptfs, Packet,
    PassphraseKey, Salt,
};
use claviger_vault::format::{NewFile, Tree};
use fuser::BackgroundSession;

use crate::model::{Operation, Subject};
use crate::mounted::{Age, serve};

/// A key for tests.
pub(super) fn passphrase_key(passphrase: &str) -> PassphraseKey {
    PassphraseKey::derive(passphrase.as_bytes(), Salt::DEFAULT).unwrap()
}

/// A folder and its mount.
pub(super) struct Folder {
    keys: Arc<Keys>,
    fs: Arc<VolumeFs>,
    session: Option<(BackgroundSession, Kernel)>,
    lower: PathBuf,
    upper: PathBuf,
}

/// The keys of a folder: what a daemon would do with them.
struct Keys {
    options: Mutex<MountOptions>,
    keys: Vec<PassphraseKey>,
    tree: Mutex<Option<Arc<dyn Tree>>>,
    feks_are: Mutex<FeksAre>,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// What an unwrap brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FeksAre {
    Genuine,
    Invented,
}

impl Folder {
    /// A new folder at `lower`, of passphrase "content", and "names" for names if they are encrypted.
    pub(super) fn fresh(lower: &Path, change: impl FnOnce(&mut MountOptions)) -> Self {
        fs::create_dir(lower).unwrap();
        Self::over(lower, change)
    }

    /// The same in a folder that is there.
    pub(super) fn over(lower: &Path, change: impl FnOnce(&mut MountOptions)) -> Self {
        let content = passphrase_key("content");
        let mut options = MountOptions {
            sigs: vec![content.sig()],
            ..MountOptions::default()
        };
        change(&mut options);
        Self::mount(lower, options, vec![content, passphrase_key("names")])
    }

    /// Mounts the folder at `lower`.
    pub(super) fn mount(lower: &Path, options: MountOptions, keys: Vec<PassphraseKey>) -> Self {
        let keys = Arc::new(Keys {
            options: Mutex::new(options),
            keys,
            tree: Mutex::default(),
            feks_are: Mutex::new(FeksAre::Genuine),
            meanwhile: Mutex::default(),
        });
        keys.unlock();
        let upper = PathBuf::from("/mnt/upper");
        fs::create_dir_all(&upper).unwrap();
        let (fs, session) = mount(&keys, lower, &upper);
        Self {
            keys,
            fs,
            session: Some(session),
            lower: lower.into(),
            upper,
        }
    }

    pub(super) fn remount_with(&mut self, change: impl FnOnce(&mut MountOptions)) {
        change(&mut self.keys.options.lock().unwrap());
        self.keys.unlock();
        self.remount();
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.upper.join(name)
    }

    /// From now on unwraps bring such FEKs.
    pub(super) fn unwraps_bring(&self, feks_are: FeksAre) {
        *self.keys.feks_are.lock().unwrap() = feks_are;
    }

    /// The next time that a new file is wanted, this happens before there is one.
    pub(super) fn meanwhile(&self, work: impl FnOnce() + Send + 'static) {
        *self.keys.meanwhile.lock().unwrap() = Some(Box::new(work));
    }

    /// How much is in it.
    pub(super) fn count(&self) -> usize {
        super::walk(&self.upper).len()
    }

    fn unmount(&mut self) {
        if let Some((session, _)) = self.session.take() {
            ended(session.umount_and_join()).unwrap();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.unmount();
    }
}

impl Subject for Folder {
    fn root(&self) -> &Path {
        &self.upper
    }

    fn fs(&self) -> &Arc<VolumeFs> {
        &self.fs
    }

    fn kernel(&self) -> &Kernel {
        &self.session.as_ref().unwrap().1
    }

    fn remount(&mut self) {
        self.unmount();
        let (fs, session) = mount(&self.keys, &self.lower, &self.upper);
        self.fs = fs;
        self.session = Some(session);
    }

    fn lock(&self) {
        *self.keys.tree.lock().unwrap() = None;
    }

    fn unlock(&self) {
        self.keys.unlock();
    }

    /// The format has no holes, and where it encrypts names they cannot be long.
    fn can(&self, operation: &Operation) -> bool {
        let holes = matches!(
            operation,
            Operation::Allocate { .. } | Operation::Seek { .. }
        );
        !holes && operation.longest_name() <= 143
    }
}

fn mount(
    keys: &Arc<Keys>,
    lower: &Path,
    upper: &Path,
) -> (Arc<VolumeFs>, (BackgroundSession, Kernel)) {
    let options = keys.options.lock().unwrap().clone();
    let format = Arc::new(EcryptfsFormat { options });
    let source = Arc::clone(keys) as Arc<dyn KeySource>;
    serve(format, source, lower, upper, Age::Present)
}

impl Keys {
    fn unlock(&self) {
        let options = self.options.lock().unwrap().clone();
        let fnek = options.fnek.map(|sig| {
            let found = self.keys.iter().find(|key| key.sig() == sig);
            PassphraseKey::handed_on(&mut found.unwrap().expose().clone(), Salt::DEFAULT)
        });
        let tree = EcryptfsTree::new(options, fnek).unwrap();
        *self.tree.lock().unwrap() = Some(Arc::new(tree));
    }

    fn fek(&self, packets: &[u8]) -> Result<Fek, Failure> {
        if *self.feks_are.lock().unwrap() == FeksAre::Invented {
            return Ok(Fek::random(self.options.lock().unwrap().key_len));
        }
        let packets = Packet::parse_all(packets).unwrap();
        for packet in packets.iter().rev() {
            let key = self.keys.iter().find(|key| key.sig() == packet.key_sig());
            if let (Packet::Passphrase(packet), Some(key)) = (packet, key) {
                let fek = packet.unwrap(key);
                return fek.map_err(|error| Failure::Unsupported(error.to_string()));
            }
        }
        Err(Failure::NotARecipient("no key of the file is here".into()))
    }
}

impl KeySource for Keys {
    fn tree(&self) -> Option<Arc<dyn Tree>> {
        self.tree.lock().unwrap().clone()
    }

    fn fresh(&self, _uid: u32) -> Result<Box<dyn NewFile>, Failure> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        let options = self.options.lock().unwrap();
        let fek = Fek::random(options.key_len);
        let wrap = |sig| {
            let key = self.keys.iter().find(|key| key.sig() == sig)?;
            Some(Packet::wrap(&fek, key))
        };
        let packets: Option<Vec<_>> = options.sigs.iter().map(|sig| wrap(*sig)).collect();
        let absent = || Failure::NotARecipient("a recipient's key is not here".into());
        Ok(Box::new(NewEcryptfs {
            packets: packets.ok_or_else(absent)?,
            fek,
            place: options.place,
            names: match options.fnek {
                Some(_) => NamesAre::Encrypted,
                None => NamesAre::Plain,
            },
        }))
    }

    fn unwrap(&self, request: Unwrap, done: UnwrapDone) -> Ticket {
        done(
            self.fek(&request.head)
                .map(|fek| Box::new(EcryptfsKeys(fek)) as _),
        );
        Ticket(0)
    }

    fn cancel(&self, _ticket: Ticket) {}
}

/// A folder that a real kernel wrote.
pub(super) struct Vector {
    pub(super) lower: PathBuf,
    name: String,
    conf: BTreeMap<String, String>,
}

impl Vector {
    pub(super) fn unpack(name: &str, lower: &Path) -> Self {
        fs::create_dir(lower).unwrap();
        let unpacked = Command::new("tar")
            .args([
                "--no-same-owner",
                "--xattrs",
                "--xattrs-include=user.*",
                "-xzf",
            ])
            .arg(data().join(name).join("lower.tar.gz"))
            .arg("-C")
            .arg(lower)
            .status()
            .unwrap();
        assert!(unpacked.success());
        let conf = fs::read_to_string(data().join(name).join("conf.txt")).unwrap();
        let conf = conf.lines().filter_map(|line| line.split_once('='));
        Self {
            lower: lower.into(),
            name: name.into(),
            conf: conf
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        }
    }

    /// The kernel's.
    pub(super) fn options(&self) -> MountOptions {
        let mut options = MountOptions::default();
        let all = self.conf["options"].split(',');
        // One folder is of a cipher that no mount would be made with.
        let all = all.filter(|option| *option != "ecryptfs_cipher=blowfish");
        all.for_each(|option| options.set(option).unwrap());
        options
    }

    /// Those of its passphrases, for content and for names; none of a folder of an RSA key.
    pub(super) fn keys(&self) -> Vec<PassphraseKey> {
        let wanted = [
            ("passphrase1", Salt::DEFAULT),
            ("passphrase2", Salt::DEFAULT),
            ("passphrase1", Salt::NAMES),
        ];
        let keys = wanted.into_iter().filter_map(|(name, salt)| {
            let passphrase = self.conf.get(name)?.as_bytes();
            Some(PassphraseKey::derive(passphrase, salt).unwrap())
        });
        keys.collect()
    }

    /// What the kernel showed.
    pub(super) fn plain(&self) -> String {
        fs::read_to_string(data().join(&self.name).join("plain.txt")).unwrap()
    }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/tests/data/ecryptfs")
}
