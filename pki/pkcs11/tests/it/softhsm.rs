//! A SoftHSM of our own: tokens in a temporary folder, and the module program that reaches them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use claviger_pki::cancel::Cancel;
use claviger_pki::host::{HostConfig, ModuleHost};
use claviger_pki::key::{Kem, KeyType, PublicKey};
use claviger_pki::module::{Decapsulate, Generate, Key, Locator, ModuleError, Token};
use zeroize::Zeroizing;

pub(crate) const PIN: &str = "123456";
pub(crate) const WRONG_PIN: &str = "654321";

/// Where Debian, Fedora and Arch put them.
const SOFTHSM: &[&str] = &[
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
];

/// The library under test.
pub(crate) fn softhsm_library() -> &'static str {
    let found = SOFTHSM.iter().find(|path| Path::new(path).exists());
    found.expect("SoftHSM is installed (package softhsm2)")
}

/// Removed with its tokens when dropped.
pub(crate) struct SoftHsm {
    folder: tempfile::TempDir,
    /// Further variables for the module program.
    environment: Vec<(String, String)>,
    library: String,
}

impl SoftHsm {
    /// Without tokens.
    pub(crate) fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tokens")).unwrap();
        let conf = format!(
            "directories.tokendir = {}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
            folder.path().display()
        );
        fs::write(folder.path().join("softhsm2.conf"), conf).unwrap();
        Self {
            folder,
            environment: Vec::new(),
            library: softhsm_library().into(),
        }
    }

    /// With one token, labelled `card`.
    pub(crate) fn with_token() -> Self {
        let softhsm = Self::empty();
        softhsm.add_token("card");
        softhsm
    }

    /// Reached through another library, which finds the real one in `variable`.
    pub(crate) fn through(mut self, library: &str, variable: &str) -> Self {
        self.environment
            .push((variable.into(), softhsm_library().into()));
        self.library = library.into();
        self
    }

    /// Sets a variable for the module program.
    pub(crate) fn set(&mut self, variable: &str, value: &Path) {
        self.environment
            .push((variable.into(), value.to_str().unwrap().into()));
    }

    pub(crate) fn add_token(&self, label: &str) {
        let output = Command::new("softhsm2-util")
            .args([
                "--init-token",
                "--free",
                "--label",
                label,
                "--so-pin",
                "8888",
                "--pin",
                PIN,
            ])
            .env("SOFTHSM2_CONF", self.conf())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Does something to the token labelled `card` with OpenSC's tool, as another program would.
    pub(crate) fn pkcs11_tool(&self, arguments: &[&str]) {
        let output = Command::new("pkcs11-tool")
            .args(["--module", softhsm_library(), "--token-label", "card"])
            .args(["--login", "--pin", PIN])
            .args(arguments)
            .env("SOFTHSM2_CONF", self.conf())
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs OpenSSL in the temporary folder.
    pub(crate) fn openssl(&self, arguments: &[&str]) {
        let mut command = Command::new("openssl");
        let command = command.args(arguments).current_dir(self.folder.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn conf(&self) -> PathBuf {
        self.path("softhsm2.conf")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Folders of the tokens.
    pub(crate) fn token_folders(&self) -> Vec<PathBuf> {
        fs::read_dir(self.path("tokens"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    /// Takes the only token away, as if it were pulled.
    pub(crate) fn pull(&self) {
        let [token] = &self.token_folders()[..] else {
            panic!("one token")
        };
        fs::rename(token, self.path("pulled")).unwrap();
        fs::write(self.path("pulled-from"), token.to_str().unwrap()).unwrap();
    }

    /// Puts it back.
    pub(crate) fn put_back(&self) {
        let token = fs::read_to_string(self.path("pulled-from")).unwrap();
        fs::rename(self.path("pulled"), token).unwrap();
    }

    /// How to run the module. By a script, because SoftHSM takes its folder from the environment,
    /// which the tests of one process would share.
    pub(crate) fn config(&self) -> HostConfig {
        let mut script = String::from("#!/bin/sh\n");
        let conf = (
            "SOFTHSM2_CONF".to_owned(),
            self.conf().to_str().unwrap().to_owned(),
        );
        for (name, value) in self.environment.iter().chain([&conf]) {
            script += &format!("export {name}='{value}'\n");
        }
        script += &format!("exec '{}'\n", env!("CARGO_BIN_EXE_claviger-pki-pkcs11"));
        let program = self.path("module");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        HostConfig {
            name: "pkcs11".into(),
            program,
            settings: [("library".to_owned(), self.library.clone())].into(),
            grace: Duration::from_secs(10),
        }
    }

    /// The module, not yet started.
    pub(crate) fn module(&self) -> Module {
        Module(ModuleHost::new(self.config()))
    }

    /// The module, started and logged in to the token labelled `card`.
    pub(crate) fn logged_in(&self) -> Module {
        let module = self.module();
        module.login(TOKEN, PIN).unwrap();
        module
    }
}

/// Means the token that [`SoftHsm::with_token`] makes.
pub(crate) const TOKEN: &str = "pkcs11:token=card";

/// The module program under a host, with calls as short as tests want them.
pub(crate) struct Module(pub(crate) ModuleHost);

impl Module {
    pub(crate) fn tokens(&self) -> Result<Vec<Token>, ModuleError> {
        self.0.tokens(soon(), &Cancel::never())
    }

    pub(crate) fn keys(&self, selector: &str) -> Result<Vec<Key>, ModuleError> {
        self.0.keys(selector, soon(), &Cancel::never())
    }

    pub(crate) fn login(&self, locator: &str, pin: &str) -> Result<(), ModuleError> {
        let pin = Zeroizing::new(pin.as_bytes().to_vec());
        self.0
            .login(&Locator(locator.into()), pin, soon(), &Cancel::never())
    }

    pub(crate) fn logout(&self) {
        self.0.logout(soon()).unwrap();
    }

    pub(crate) fn generate(&self, token: &str, key_type: KeyType) -> Result<Key, ModuleError> {
        let order = Generate {
            token: token.into(),
            key_type: Some(key_type),
            label: format!("test {key_type}"),
            out: None,
            pin: None,
        };
        self.0.generate(order, soon(), &Cancel::never())
    }

    /// Opens a fresh encapsulation and compares.
    pub(crate) fn use_key(&self, key: &Key) -> Result<(), ModuleError> {
        for &kem in &key.kems {
            let (encapsulation, secret) = encapsulate(&key.public_key, kem);
            let opened = self.open(key, kem, encapsulation)?;
            assert_eq!(opened.as_slice(), secret, "{kem}");
        }
        Ok(())
    }

    /// Uses a key over and over; the error that ended it.
    pub(crate) fn use_until_it_fails(&self, key: &Key) -> ModuleError {
        loop {
            if let Err(error) = self.use_key(key) {
                return error;
            }
        }
    }

    pub(crate) fn open(
        &self,
        key: &Key,
        kem: Kem,
        encapsulation: Vec<u8>,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        let call = Decapsulate {
            locator: key.locator.clone(),
            public_key: key.public_key.clone(),
            kem,
            encapsulation,
        };
        self.0.decapsulate(call, soon(), &Cancel::never())
    }
}

/// What a token is given, and what it must answer.
pub(crate) fn encapsulate(public_key: &PublicKey, kem: Kem) -> (Vec<u8>, Vec<u8>) {
    let algorithm = match kem {
        Kem::RsaOaepSha256 => return encrypt(public_key, &OAEP_SHA256_MGF1SHA256),
        Kem::RsaOaepSha1 => return encrypt(public_key, &OAEP_SHA1_MGF1SHA1),
        Kem::DhkemP256 => &agreement::ECDH_P256,
        Kem::DhkemP384 => &agreement::ECDH_P384,
    };
    let ephemeral = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new()).unwrap();
    let encapsulation = ephemeral.compute_public_key().unwrap().as_ref().to_vec();
    let peer = UnparsedPublicKey::new(algorithm, public_key.ec_point().unwrap());
    let secret = agree_ephemeral(ephemeral, peer, (), |secret| Ok(secret.to_vec())).unwrap();
    (encapsulation, secret)
}

fn encrypt(
    public_key: &PublicKey,
    algorithm: &'static aws_lc_rs::rsa::OaepAlgorithm,
) -> (Vec<u8>, Vec<u8>) {
    let mut secret = vec![0; 32];
    rand::fill(&mut secret).unwrap();
    let key = PublicEncryptingKey::from_der(public_key.spki()).unwrap();
    let key = OaepPublicEncryptingKey::new(key).unwrap();
    let mut ciphertext = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, &secret, &mut ciphertext, None)
        .unwrap();
    (ciphertext, secret)
}

/// Enough for a loaded machine.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}
