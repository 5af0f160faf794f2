//! A lower folder, and a mount of it that asks for keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use claviger_protocol::control::{
    Command as Order, GenerateKey, KeyInfo, KeyRef, LockTarget, Needed, OtherKeys, PasswordKey,
    RecipientInfo, Reply, UnlockEcryptfs,
};
use claviger_protocol::keys::{
    EcryptfsReply, EcryptfsRequest, FreshFek, KeyReply, KeyRequest, SigBytes,
};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ecryptfs::{Fek, Header, KeySig, Packet, PassphraseKey, Salt, folder_id};

use crate::harness::{Cli, KERNELS_FOLDERS, Mount, User};

pub const PASSPHRASE: &str = "golden passphrase one";

/// Of [`PASSPHRASE`] for content.
pub const SIG: &str = "f2291ce4c3069633";

/// Of [`PASSPHRASE`] for names.
pub const FNEK: &str = "9e677d297b65a19b";

pub fn data(name: &str) -> PathBuf {
    Path::new(KERNELS_FOLDERS).join(name)
}

pub fn sig(hex: &str) -> SigBytes {
    KeySig::from_hex(hex.as_bytes().try_into().unwrap())
        .unwrap()
        .0
}

/// What a CLI makes of a passphrase.
pub fn password(passphrase: &str, salt: Salt) -> PasswordKey {
    let key = PassphraseKey::derive(passphrase.as_bytes(), salt).unwrap();
    PasswordKey {
        salt: salt.0,
        key: Secret::new(key.expose().to_vec()),
    }
}

/// A lower folder.
pub struct Lower {
    pub dir: PathBuf,
}

impl Lower {
    /// An empty one.
    pub fn empty(user: &User) -> Self {
        let dir = user.home.join("lower");
        fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    /// One that a kernel wrote.
    pub fn of_kernel(user: &User, name: &str) -> Self {
        let lower = Self::empty(user);
        let unpacked = Command::new("tar")
            .args(["--no-same-owner", "--xattrs", "--xattrs-include=user.*"])
            .arg("-xzf")
            .arg(data(name).join("lower.tar.gz"))
            .arg("-C")
            .arg(&lower.dir)
            .status()
            .unwrap();
        assert!(unpacked.success());
        lower
    }

    /// To be unlocked by nothing that is given.
    pub fn order(&self) -> UnlockEcryptfs {
        UnlockEcryptfs {
            dir: self.dir.clone(),
            passwords: Vec::new(),
            keys: Vec::new(),
            sigs: Vec::new(),
            fnek: None,
            needed: Needed::All,
            others: OtherKeys::InKeyring,
        }
    }

    /// To be unlocked by [`PASSPHRASE`].
    pub fn by_passphrase(&self) -> UnlockEcryptfs {
        UnlockEcryptfs {
            passwords: vec![password(PASSPHRASE, Salt::DEFAULT)],
            ..self.order()
        }
    }

    /// To be unlocked by an RSA key.
    pub fn by_key(&self, key: &KeyInfo) -> UnlockEcryptfs {
        UnlockEcryptfs {
            keys: vec![KeyRef::Id(key.key_id.clone())],
            ..self.order()
        }
    }

    pub fn lock(&self, user: &User) {
        let target = LockTarget::Volume(self.dir.clone());
        user.cli().run(Order::Lock(target)).unwrap();
    }

    pub fn mount(&self, user: &User) -> Folder {
        Folder(user.mount(folder_id(&self.dir)))
    }
}

/// Unlocks it: who opened it, and the recipients of its new files.
pub fn unlock(
    cli: &Cli<'_>,
    order: UnlockEcryptfs,
) -> Result<(Vec<RecipientInfo>, Vec<SigBytes>), Failure> {
    match cli.run(Order::EcryptfsUnlock(order))? {
        Reply::EcryptfsUnlocked { by, sigs, .. } => Ok((by, sigs)),
        other => panic!("{other:?}"),
    }
}

/// An RSA key in a token.
pub fn rsa_key(user: &User, module: &str) -> KeyInfo {
    let order = Order::KeyGenerate(GenerateKey {
        module: module.into(),
        key_type: Some("rsa2048".into()),
        token: (module == "pkcs11").then(|| "pkcs11:token=card".into()),
        label: Some("rsa".into()),
        out: (module != "pkcs11").then(|| user.home.join("rsa.pem")),
        pin: None,
    });
    match user.cli().run(order).unwrap() {
        Reply::Key(key) => key,
        other => panic!("{other:?}"),
    }
}

/// A mount of a folder.
pub struct Folder(pub Mount);

impl Folder {
    fn ask(&self, request: EcryptfsRequest) -> Result<EcryptfsReply, Failure> {
        let folder = self.0.volume;
        match self.0.ask(&KeyRequest::Ecryptfs { folder, request }) {
            KeyReply::Ecryptfs(reply) => Ok(reply),
            KeyReply::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    pub fn names(&self, fnek: Option<SigBytes>) -> Result<Option<Secret>, Failure> {
        match self.ask(EcryptfsRequest::Names { fnek })? {
            EcryptfsReply::Names(key) => Ok(key),
            other => panic!("{other:?}"),
        }
    }

    pub fn fek(&self, packets: &[u8]) -> Result<Secret, Failure> {
        match self.ask(EcryptfsRequest::Fek {
            packets: packets.to_vec(),
            lower_path: b"lower-name".to_vec(),
            pid: std::process::id(),
        })? {
            EcryptfsReply::Fek(fek) => Ok(fek),
            other => panic!("{other:?}"),
        }
    }

    pub fn fresh(&self, recipients: &[SigBytes], key_len: u8) -> Result<FreshFek, Failure> {
        let mut feks = self.fresh_many(recipients, key_len, 1)?;
        Ok(feks.pop().unwrap())
    }

    pub fn fresh_many(
        &self,
        recipients: &[SigBytes],
        key_len: u8,
        count: u16,
    ) -> Result<Vec<FreshFek>, Failure> {
        match self.ask(EcryptfsRequest::Fresh {
            recipients: recipients.to_vec(),
            key_len,
            count,
        })? {
            EcryptfsReply::Fresh(feks) => Ok(feks),
            other => panic!("{other:?}"),
        }
    }
}

/// The packets of a lower file.
pub fn packets(header: &Header) -> Vec<u8> {
    header.packets.iter().flat_map(Packet::write).collect()
}

/// A FEK, as files are opened with it.
pub fn as_fek(secret: &Secret) -> Fek {
    Fek::of_bytes(secret.expose()).unwrap()
}
