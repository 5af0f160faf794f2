//! A PIV smartcard in a reader, behind PC/SC: pcscd, the virtual reader of vsmartcard, and our card
//! program in it (`../piv-card`), which runs the applet of a product.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::world::{program, tmpfs};
use crate::{User, wait_until};

/// ykcs11 looks at readers of Yubico only, by this word in their name.
const READER: &str = "Yubico YubiKey CCID (stand-in)";
/// Where vpcd listens if nothing else is asked of it: on every address, which here are those of the
/// story's network namespace.
const PORT: u16 = 0x8c7b;
/// The PIN with which these cards come.
pub const PIV_PIN: &str = "123456";

/// SELECT of the PIV applet, as opensc-tool takes APDUs.
const SELECT: &str = "00:A4:04:00:05:A0:00:00:03:08";

/// A key's place on the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PivKey {
    /// RSA-2048 in *key management*, slot 9d.
    Rsa,
    /// P-256 in the first of the *retired key management* slots, 82.
    EcP256,
}

/// A card in the reader of the story's machine.
#[derive(Debug)]
pub struct PivCard {
    card: Child,
    hand: ChildStdin,
    pcscd: Child,
}

impl PivCard {
    /// Starts pcscd with a reader, and puts a blank card in.
    ///
    /// # Panics
    /// If the card program was not built: `make test-card` does.
    pub fn insert_new() -> Self {
        let pcscd = start_pcscd();
        let reader = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let mut card = Command::new(program("piv-card"))
            .arg(reader.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .expect("it is built for this machine");
        let hand = card.stdin.take().expect("it is piped");
        let mut card = Self { card, hand, pcscd };
        card.put_back();
        card
    }

    /// Has the card make a key, and puts a certificate beside it: OpenSC and ykcs11 show no key without.
    pub fn make_key(&self, key: PivKey) {
        let folder = tempfile::tempdir().expect("there is room");
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let [public, ca, certificate] = ["public.pem", "ca.pem", "certificate.pem"].map(path);
        let (slot, algorithm) = (key.slot(), key.algorithm());
        piv_tool(&[
            "--action",
            "generate",
            "--slot",
            slot,
            "--algorithm",
            algorithm,
            "--output",
            &public,
        ]);
        let openssl = |line: &str| {
            let args: Vec<&str> = line.split(' ').collect();
            run("openssl", &args);
        };
        openssl(&format!(
            "ecparam -name prime256v1 -genkey -noout -out {ca}"
        ));
        openssl(&format!(
            "x509 -new -force_pubkey {public} -key {ca} -subj /CN=Alice -days 3650 -out {certificate}"
        ));
        piv_tool(&[
            "--action",
            "import-certificate",
            "--slot",
            slot,
            "--input",
            &certificate,
        ]);
    }

    /// Takes the card out, and waits until the reader is empty.
    pub fn take_out(&mut self) {
        self.do_by_hand("remove");
        wait_until("the reader is empty", || !card_is_in());
    }

    /// Puts the card in, and waits until the reader has it.
    pub fn put_back(&mut self) {
        self.do_by_hand("insert");
        wait_until("the reader has the card", card_is_in);
    }

    /// How many wrong PINs it stands, by its own count: VERIFY without a PIN asks for it (NIST SP
    /// 800-73-4 part 2, section 3.2.1). Whoever is logged in is logged out by that.
    pub fn tries_left(&self) -> u8 {
        // Whoever has verified the PIN gets no count: that is ended first.
        let apdus = [SELECT, "00:20:FF:80", "00:20:00:80"];
        let args = apdus.map(|apdu| ["--send-apdu", apdu]).concat();
        let said = run("opensc-tool", &args);
        let (_, status) = said
            .rsplit_once("SW1=0x63, SW2=0xC")
            .unwrap_or_else(|| panic!("no count: {said}"));
        let digit = status.get(..1).unwrap_or_default();
        u8::from_str_radix(digit, 16).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// Shows it the right PIN, from another program.
    pub fn verify_pin(&self) {
        piv_tool(&["--action", "verify-pin", "--pin", PIV_PIN]);
    }

    fn do_by_hand(&mut self, what: &str) {
        writeln!(self.hand, "{what}").expect("the card runs");
    }
}

impl Drop for PivCard {
    fn drop(&mut self) {
        for child in [&mut self.card, &mut self.pcscd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl PivKey {
    /// Its CKA_ID, the same with OpenSC and ykcs11, as a URI has it.
    pub fn id(self) -> &'static str {
        match self {
            Self::Rsa => "%03",
            Self::EcP256 => "%05",
        }
    }

    fn slot(self) -> &'static str {
        match self {
            Self::Rsa => "9d",
            Self::EcP256 => "82",
        }
    }

    fn algorithm(self) -> &'static str {
        match self {
            Self::Rsa => "RSA2048",
            Self::EcP256 => "ECCP256",
        }
    }
}

impl User {
    /// Names OpenSC in their configuration: no other library is loaded, whatever is installed.
    pub fn uses_opensc(&self) {
        self.uses_library("opensc-pkcs11.so");
    }

    /// Names ykcs11 in their configuration.
    pub fn uses_ykcs11(&self) {
        self.uses_library("libykcs11.so");
    }

    fn uses_library(&self, name: &str) {
        let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|machine| format!("/usr/lib/{machine}/{name}"))
            .into_iter()
            .find(|path| Path::new(path).is_file())
            .unwrap_or_else(|| panic!("{name} is not installed"));
        self.configure(&format!("[pkcs11]\nlibraries = [\"{library}\"]\n"));
    }
}

/// Starts a pcscd that knows this reader and no other: a story writes to the card that it finds, and the
/// machine may have one of somebody's in a reader.
fn start_pcscd() -> Child {
    let readers = Path::new("/run/readers");
    fs::create_dir(readers).expect("/run is ours");
    let driver = program("libifdvpcd.so");
    let reader = format!(
        "FRIENDLYNAME \"{READER}\"\nDEVICENAME /dev/null:0x{PORT:X}\nLIBPATH {}\nCHANNELID 0x{PORT:X}\n",
        driver.display()
    );
    fs::write(readers.join("vpcd"), reader).expect("/run is ours");
    // Where pcscd looks for drivers of what is plugged in.
    tmpfs(Path::new("/usr/lib/pcsc/drivers"));
    let pcscd = Command::new("pcscd")
        .args(["--foreground", "--critical", "--config"])
        .arg(readers)
        .stdin(Stdio::null())
        .spawn()
        .expect("pcscd is installed");
    let socket = Path::new("/run/pcscd/pcscd.comm");
    wait_until("pcscd listens", || socket.exists());
    pcscd
}

/// What pcscd says, which looks every 400 ms. The card itself fails to answer earlier, and one that is put
/// back before pcscd has looked is not noticed, and not powered.
fn card_is_in() -> bool {
    let readers = run("opensc-tool", &["--list-readers"]);
    readers.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some("Yes")
    })
}

fn piv_tool(args: &[&str]) {
    run("yubico-piv-tool", &[&["--reader", READER], args].concat());
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
