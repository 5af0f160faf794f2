//! Writes the seeds of `fuzz/corpus/`: real files and messages, small, made by the crates themselves.
//!
//! ```text
//! cargo run -p claviger-fuzz-targets --example corpus fuzz/corpus
//! ```
//!
//! Not made here: `pki_pem_key_file` (openssl), `pki_tpm_key_file` (a software TPM) and `ecryptfs_journal` (a
//! migration).

#![allow(clippy::unwrap_used, reason = "a seed that cannot be made says where")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use claviger_callout::frame::{Flags, Header, Kind};
use claviger_callout::session::Greeting;
use claviger_callout::{Requester, RequesterConfig};
use claviger_fuzz_targets::fixed::{
    DIRECTORY, ENDS, FILE, VOLUME, epoch_key, file_key, names, names_key, names_keys,
    passphrase_key, stream_key,
};
use claviger_fuzz_targets::pki::SPKI;
use claviger_pki::auth_tok::enrolled::{EnrolledKey, KeyFolder};
use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::module::{Decapsulate, Key, Locator, ModuleError, Provenance};
use claviger_pki::seed::{PassphraseKdf, RecoveryKey};
use claviger_pki::wire::{Answer, Call, FromModule, Login, ToModule, VERSION as WIRE, send};
use claviger_pki::wrap::{Context, PublicKeyRecipient, Purpose, Recipient};
use claviger_protocol::control::{
    self, Answers, Command, FromDaemon, PromptPlace, Reply, ToDaemon,
};
use claviger_protocol::keys::{FreshFile, KeyEvent, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret};
use claviger_vault::dir::{Location, Record};
use claviger_vault::ecryptfs::{self, KeyLen, LowerFile, MetadataPlace, NamesAre};
use claviger_vault::epoch::{EpochKey, EpochKeys};
use claviger_vault::ids::{DirId, Epoch, Scope};
use claviger_vault::manifest::{self, Manifest, RecipientKind, ToWrap, Wrap};
use claviger_vault::names::LowerName;
use claviger_vault::native::head::{self, Layer};
use claviger_vault::native::{Feks, Links, NativeFile, Packet, PlaceKeys, PlaceSeal};
use claviger_vault::pin::{Pin, remember};
use claviger_vault::stream::{self, StreamHeader};
use claviger_vault::symlink;
use claviger_vault::xattr::{Attributes, Owner};
use zeroize::Zeroizing;

fn main() {
    let corpus = Corpus(
        std::env::args_os()
            .nth(1)
            .expect("the folder to write to")
            .into(),
    );
    native_files(&corpus);
    volume(&corpus);
    names_of(&corpus);
    callout(&corpus);
    messages(&corpus);
    keys(&corpus);
    programs(&corpus);
    ecryptfs(&corpus);
}

/// The folder that seeds go to, one folder in it a target.
struct Corpus(PathBuf);

impl Corpus {
    fn seed(&self, target: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
}

fn native_files(corpus: &Corpus) {
    let packets = [Packet {
        key_sig: [9; 8],
        algorithm: 102,
        body: vec![10; 113],
    }];
    let file_key = file_key();
    let in_file_scope = Layer::File {
        file_key: &file_key,
        packets: &packets,
    };
    for (name, layer) in [
        ("volume-scope", Layer::Volume),
        ("file-scope", in_file_scope),
    ] {
        let epoch_key = epoch_key();
        let (head, fek) = head::fresh(VOLUME, FILE, (Epoch::FIRST, &epoch_key), &layer).unwrap();
        corpus.seed("vault_head", name, &head);
        corpus.seed("vault_fixed_part", name, &head[..64]);
        corpus.seed("vault_key_record", name, &head[64..256]);
        if let Some(copy) = head.get(512..512 + 2048) {
            corpus.seed("vault_sealed_packets", name, copy);
        }

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lower");
        let lower = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let place = PlaceSeal::new(
            (Epoch::FIRST, &PlaceKeys::new(names_key())),
            &FILE.0,
            &DIRECTORY,
            b"name",
            Links::One,
        );
        corpus.seed(
            "vault_place",
            "here",
            [&place.write(0, &[])[..], &[0; 128]].concat(),
        );
        let file = NativeFile::create(lower.into(), &head, Feks::first(fek), place).unwrap();
        file.write_at(0, b"first block").unwrap();
        file.write_at(3 * 4096, b"behind a hole").unwrap();
        file.sync().unwrap();
        drop(file);
        let bytes = fs::read(&path).unwrap();
        corpus.seed("vault_slot", "data", &bytes[1024..1088]);
        corpus.seed("vault_slot", "hole", &bytes[1088..1152]);
        corpus.seed("vault_file", name, bytes);
    }
    let one = packets[0].write().unwrap();
    corpus.seed("vault_packet", "one", &one);
    corpus.seed("vault_packet", "two", [&one[..], &one[..]].concat());

    let key = hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]);
    let mut shape = [0; 96];
    shape[..8].copy_from_slice(&1_u64.to_le_bytes());
    shape[8..16].copy_from_slice(&10_000_u64.to_le_bytes());
    shape[16..24].copy_from_slice(&3_u64.to_le_bytes());
    let tag = hmac::sign(&key, &shape);
    let shapes = [&shape[..], tag.as_ref(), &[0; 128]].concat();
    corpus.seed("vault_shapes", "settled", shapes);

    let header = StreamHeader {
        id: [11; 16],
        packets: packets.into(),
    };
    let mut sealed = Vec::new();
    stream::seal(&header, &stream_key(), &b"a short stream"[..], &mut sealed).unwrap();
    corpus.seed("vault_stream", "short", sealed);
}

fn volume(corpus: &Corpus) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    for (name, location) in [
        ("root", Location::ROOT),
        (
            "below",
            Location {
                parent: DirId::ROOT,
                lower_name: b"name",
            },
        ),
    ] {
        let dir = at(name);
        Record::create(File::open(&dir).unwrap(), &names_keys(), location).unwrap();
        let record = fs::read(dir.join(claviger_vault::names::RECORD)).unwrap();
        corpus.seed("vault_directory_record", name, record);
    }

    let recipient =
        |kind, label: &str, byte| manifest::Recipient::new(kind, label, [&[byte], SPKI].concat());
    let recipients = vec![
        recipient(RecipientKind::Token, "card", 1),
        recipient(RecipientKind::Recovery, "recovery key", 2),
    ];
    let wrap = |_: &manifest::Recipient, _: ToWrap<'_>| {
        Ok::<_, Infallible>(Wrap {
            algorithm: 102,
            body: vec![12; 113],
        })
    };
    let (mut manifest, first) = Manifest::create(Scope::Volume, recipients, wrap).unwrap();
    corpus.seed("vault_manifest", "one-epoch", authentic(&manifest));
    let last = manifest.recipients()[1].recipient.key_id();
    manifest.remove_recipient(&first, last, wrap).unwrap();
    corpus.seed("vault_manifest", "two-epochs", authentic(&manifest));

    let known = at("known");
    let keys = EpochKeys::new(manifest.epoch(), epoch_key());
    remember(
        &known,
        Pin::new(&manifest, keys.current(), Path::new("/home/a/my files")),
    )
    .unwrap();
    let text = fs::read(known.join(claviger_vault::pin::NAME)).unwrap();
    corpus.seed("vault_known_volumes", "one", text);
}

/// Under the fixed key, whatever key the manifest's epoch has.
fn authentic(manifest: &Manifest) -> Vec<u8> {
    let key: EpochKey = epoch_key();
    manifest.write(&key)
}

fn names_of(corpus: &Corpus) {
    let names = names();
    let lower = names.encrypt(b"a name").unwrap();
    corpus.seed("vault_name", "short", lower.as_bytes());
    let LowerName::Long { name, content, .. } = names.encrypt(&[b'x'; 200]).unwrap() else {
        panic!("200 bytes are a long name");
    };
    let long = [name.as_bytes(), b"/", &content].concat();
    corpus.seed("vault_long_name", "long", long);
    let target = symlink::seal(&names, b"../some/where").unwrap();
    corpus.seed("vault_symlink", "relative", target);
    let keys = names_keys();
    let attributes = Attributes::new(&keys, Owner::File(FILE));
    let attribute = attributes.candidates(b"user.colour").unwrap().remove(0);
    let value = attributes.seal(&attribute, b"red").unwrap();
    let both = [attribute.lower.as_slice(), b"\0", &value].concat();
    corpus.seed("vault_attribute", "user", both);
}

fn callout(corpus: &Corpus) {
    for kind in Kind::ALL {
        let header = Header {
            kind,
            flags: Flags::SEALED,
            sequence: 7,
            port: 0,
        };
        let name = format!("{kind:?}").to_lowercase();
        corpus.seed(
            "callout_frame",
            &name,
            header.datagram(b"a body of some octets"),
        );
    }
    let (_, helo) = Greeting::start(&ENDS).unwrap();
    corpus.seed("callout_greeting", "helo", helo);
    // Laid over a genuine message.
    corpus.seed("callout_answer", "genuine", [0; 50]);
    corpus.seed("callout_session", "genuine", [0; 56]);

    let folder = tempfile::tempdir().unwrap();
    let mut config = RequesterConfig::new(folder.path(), "org.example.shout/1");
    config.about = BTreeMap::from([("volume".into(), VOLUME.to_string())]);
    let requester = Requester::start(config, std::sync::Arc::new(())).unwrap();
    let entry = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_file() && fs::read_to_string(path).is_ok())
        .unwrap();
    corpus.seed("callout_rendezvous", "requester", fs::read(entry).unwrap());
    drop(requester);
}

fn messages(corpus: &Corpus) {
    let requests = [
        (
            "names",
            KeyRequest::Names {
                volume: VOLUME,
                lower_root: b"/home/a/Private".into(),
            },
        ),
        (
            "unwrap",
            KeyRequest::UnwrapFek {
                volume: VOLUME,
                header: vec![13; 512],
                lower_path: b"dir/file".into(),
                pid: 4711,
            },
        ),
        (
            "acknowledge",
            KeyRequest::Acknowledge {
                event: KeyEvent::Lock { volume: VOLUME },
                lost: vec![b"dir/file".into()],
            },
        ),
    ];
    for (name, request) in &requests {
        corpus.seed(
            "protocol_key_request",
            name,
            postcard::to_stdvec(request).unwrap(),
        );
    }
    let secret = || Secret::new(vec![14; 32]);
    let replies = [
        (
            "names",
            KeyReply::Names {
                current: Epoch(2),
                minimum: Epoch(1),
                scope: Scope::Volume,
                keys: vec![(Epoch(1), secret()), (Epoch(2), secret())],
            },
        ),
        (
            "feks",
            KeyReply::Feks {
                feks: vec![secret()],
                newest: 0,
                epoch: Epoch(1),
            },
        ),
        (
            "fresh",
            KeyReply::Fresh(vec![FreshFile {
                epoch: Epoch(1),
                header: vec![15; 512],
                fek: secret(),
            }]),
        ),
        ("failed", KeyReply::Failed(Failure::Locked)),
    ];
    for (name, reply) in &replies {
        corpus.seed(
            "protocol_key_reply",
            name,
            postcard::to_stdvec(reply).unwrap(),
        );
    }
    let event = KeyEvent::NewEpoch {
        volume: VOLUME,
        epoch: Epoch(2),
    };
    corpus.seed(
        "protocol_key_event",
        "new-epoch",
        postcard::to_stdvec(&event).unwrap(),
    );

    let framed = |body: Vec<u8>| {
        let length = u32::try_from(body.len()).unwrap();
        [&length.to_le_bytes()[..], &body].concat()
    };
    let command = ToDaemon::Command {
        answers: Answers::Terminal,
        version: control::VERSION,
        prompt_place: PromptPlace::default(),
        command: Command::Init {
            dir: "/home/a/Private".into(),
            scope: Scope::File,
            recipients: vec![control::KeyRef::Uri("pkcs11:token=Card".into())],
            passphrase: Some(secret()),
            recovery: control::Recovery::Make,
        },
    };
    let answer = ToDaemon::Answer(Some(secret()));
    for (name, message) in [("init", &command), ("answer", &answer)] {
        let body = postcard::to_stdvec(message).unwrap();
        corpus.seed("protocol_to_daemon", name, framed(body));
    }
    let done = FromDaemon::Done(Ok(Reply::Unlocked {
        volume: VOLUME,
        by: None,
        changes: vec!["recipient added".into()],
    }));
    let prompt = FromDaemon::Prompt(control::Prompt {
        kind: control::PromptKind::Pin,
        text: "PIN of Card".into(),
    });
    for (name, message) in [("unlocked", &done), ("prompt", &prompt)] {
        let body = postcard::to_stdvec(message).unwrap();
        corpus.seed("protocol_from_daemon", name, framed(body));
    }
}

fn keys(corpus: &Corpus) {
    let key = PublicKey::from_spki(SPKI).unwrap();
    corpus.seed("pki_spki", "p256", SPKI);
    corpus.seed("pki_pem", "p256", key.to_pem());
    let rsa = PublicKey::from_rsa(&[0xC5; 256], &[1, 0, 1]).unwrap();
    corpus.seed("pki_spki", "rsa2048", rsa.spki());
    corpus.seed("pki_pem", "rsa2048", rsa.to_pem());
    let recipient = PublicKeyRecipient::new(key.clone(), Kem::DhkemP256).unwrap();
    let context = Context {
        volume: VOLUME.0,
        epoch: 1,
        purpose: Purpose::EpochKey,
        file: None,
    };
    let wrapped = recipient.wrap(&context, &[16; 32]).unwrap();
    let body = [&[wrapped.algorithm()][..], &wrapped.write()].concat();
    corpus.seed("pki_wrapped", "p256", body);
    let recovery = RecoveryKey::generate().expose_text();
    corpus.seed("pki_recovery_key", "text", recovery.as_bytes());
    corpus.seed("pki_passphrase", "phc", PassphraseKdf::fresh().to_string());

    let found = Key {
        locator: Locator("pkcs11:token=Card;id=%01".into()),
        public_key: key.clone(),
        label: "card of Ada".into(),
        kems: vec![Kem::DhkemP256],
        provenance: Provenance::InToken,
    };
    let enrolled = EnrolledKey::new("pkcs11".into(), found.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    KeyFolder::new(folder.path().into())
        .store(&enrolled)
        .unwrap();
    let name = format!("{}.toml", key.key_id());
    let text = fs::read_to_string(folder.path().join(&name)).unwrap();
    corpus.seed("pki_key_file", "card", format!("{name}\n{text}"));
    // Version, then module and locator, each with its length before it.
    let mut tok = vec![1, 6];
    tok.extend(b"pkcs11");
    tok.push(u8::try_from(found.locator.0.len()).unwrap());
    tok.extend(found.locator.0.as_bytes());
    corpus.seed("pki_auth_tok", "card", tok);

    let calls = [
        (
            "hello",
            ToModule::Hello {
                version: WIRE,
                settings: BTreeMap::from([("library".into(), "/usr/lib/card.so".into())]),
            },
        ),
        (
            "login",
            ToModule::Call {
                id: 1,
                time_ms: 1000,
                call: Call::Login(Login {
                    locator: found.locator.clone(),
                    pin: Zeroizing::new(b"123456".to_vec()),
                }),
            },
        ),
        (
            "decapsulate",
            ToModule::Call {
                id: 2,
                time_ms: 1000,
                call: Call::Decapsulate(Decapsulate {
                    locator: found.locator.clone(),
                    public_key: key,
                    kem: Kem::DhkemP256,
                    encapsulation: wrapped.encapsulation,
                }),
            },
        ),
        ("cancel", ToModule::Cancel { id: 2 }),
    ];
    for (name, call) in &calls {
        let mut bytes = Vec::new();
        send(&mut bytes, call).unwrap();
        corpus.seed("pki_to_module", name, bytes);
    }
    let answers = [
        ("keys", Ok(Answer::Keys(vec![found]))),
        ("secret", Ok(Answer::Secret(Zeroizing::new(vec![17; 32])))),
        ("absent", Err(ModuleError::Absent("Card".into()))),
    ];
    for (name, result) in answers {
        let answer = FromModule::Answer { id: 2, result };
        let mut bytes = Vec::new();
        send(&mut bytes, &answer).unwrap();
        corpus.seed("pki_from_module", name, bytes);
    }
    for (name, uri) in [
        (
            "key",
            "pkcs11:token=My%20Card;serial=00a1;id=%03;type=private",
        ),
        (
            "query",
            "pkcs11:slot-id=3;library-version=2.40?module-path=/usr/lib/card.so&x=y",
        ),
    ] {
        corpus.seed("pki_uri", name, uri);
    }
    corpus.seed(
        "pki_module_file",
        "softhsm",
        "# SoftHSM\nmodule: /usr/lib/softhsm/libsofthsm2.so\npriority: 5\nenable-in: claviger, p11tool\n",
    );
    let certificate = include_bytes!("../../pki/pkcs11/tests/data/certificate.der");
    corpus.seed("pki_certificate", "p256", certificate);
    let locator = format!("tpm:srk=000b{};file=/home/a/key.tss", "0f".repeat(32));
    corpus.seed("pki_tpm_locator", "srk", locator);
}

fn programs(corpus: &Corpus) {
    corpus.seed(
        "programs_mount_options",
        "some",
        "ro,noexec,allow_other,transport=unix,fsname=/home/a/Private,log=/tmp/log",
    );
    let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                  62 31 0:50 / /home/a/my\\040files rw,nosuid - fuse.claviger /home/a/Private rw\n";
    corpus.seed("programs_mountinfo", "two", mounts);
    corpus.seed("programs_own_mounts", "two", mounts);
    corpus.seed("programs_directory_entries", "three", directory_entries());
    let status = fs::read("/proc/self/status").unwrap();
    corpus.seed("programs_proc_status", "own", status);
    corpus.seed("programs_report", "ready", "ready\n");
    corpus.seed("programs_report", "failed", "failed 10\nno folder /x\n");
    let uri = "pkcs11:token=Card?pin-source=file:/run/pin&module-name=x";
    corpus.seed("programs_pin_source", "file", uri);
    let config = "[pkcs11]\nlibraries = [\"/usr/lib/card.so\"]\n[tpm]\ntcti = \"swtpm:port=1\"\n\
                  [modules.vendor]\nprogram = \"/opt/vendor\"\nsettings = { reader = \"front\" }\n\
                  [prompts]\npinentry = \"pinentry-tty\"\ntimeout-s = 60\n\
                  [policy]\nfinal-try = \"ask\"\ntoken-timeout-s = 30\n";
    corpus.seed("programs_daemon_config", "all", config);
    corpus.seed("programs_pinentry_answer", "pin", "D 12%2534\nOK\n");
    corpus.seed(
        "programs_pinentry_answer",
        "declined",
        "ERR 83886179 Operation cancelled\n",
    );
}

/// As `struct linux_dirent64` has it (getdents64(2)).
fn directory_entries() -> Vec<u8> {
    let mut records = Vec::new();
    for (number, name) in ["a", "bcdefghij", ".claviger.dir"].iter().enumerate() {
        let len = (19 + name.len() + 1).next_multiple_of(8);
        let start = records.len();
        records.extend(number.to_ne_bytes());
        records.extend((number + 1).to_ne_bytes());
        records.extend(u16::try_from(len).unwrap().to_ne_bytes());
        records.push(8);
        records.extend(name.as_bytes());
        records.resize(start + len, 0);
    }
    records
}

/// Folders of eCryptfs. What keyrings and wrapped-passphrase files hold, a real kernel and ecryptfs-utils
/// wrote.
fn ecryptfs(corpus: &Corpus) {
    let key = passphrase_key();
    for (name, place) in [
        ("header", MetadataPlace::Header),
        ("xattr", MetadataPlace::Xattr),
    ] {
        let fek = ecryptfs::Fek::random(KeyLen::Aes256);
        let rsa = ecryptfs::Packet::PublicKey(ecryptfs::Tag1 {
            key_sig: ecryptfs::KeySig([9; 8]),
            wrapped_fek: vec![10; 256],
        });
        let packets = vec![ecryptfs::Packet::wrap(&fek, &key), rsa];
        let written: Vec<u8> = packets.iter().flat_map(ecryptfs::Packet::write).collect();
        corpus.seed("ecryptfs_packets", name, written);
        corpus.seed("ecryptfs_session_key", name, fek.session_key());
        let header = ecryptfs::Header::fresh(packets, place, NamesAre::Encrypted).unwrap();
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("lower");
        let lower = File::create_new(&path).unwrap();
        drop(lower);
        let lower = File::options().read(true).write(true).open(&path).unwrap();
        let file = LowerFile::create(lower.into(), &header, &fek).unwrap();
        file.write_at(0, &[b'x'; 5000]).unwrap();
        if place == MetadataPlace::Header {
            let whole = fs::read(&path).unwrap();
            corpus.seed("ecryptfs_header", name, &whole[..4096]);
            corpus.seed("ecryptfs_file", name, whole);
        } else {
            let value = std::process::Command::new("getfattr")
                .args(["--only-values", "--absolute-names", "-n", "user.ecryptfs"])
                .arg(&path)
                .output();
            corpus.seed("ecryptfs_xattr_header", name, value.unwrap().stdout);
        }
    }
    let name = ecryptfs::name::encrypt(b"letter.txt", &key, KeyLen::Aes128).unwrap();
    corpus.seed("ecryptfs_name", "letter", name);
    let target = ecryptfs::name::encrypt_target(b"../d/letter.txt", &key, KeyLen::Aes256).unwrap();
    corpus.seed("ecryptfs_target", "letter", target);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/tests/data/ecryptfs");
    for (target, name, from) in [
        (
            "ecryptfs_auth_tok",
            "passphrase",
            "authtok.f2291ce4c3069633.bin",
        ),
        ("ecryptfs_auth_tok", "rsa", "authtok.fd591e1468c3ea8a.bin"),
        (
            "ecryptfs_wrapped_passphrase",
            "version-1",
            "wrapped-passphrase-1",
        ),
        (
            "ecryptfs_wrapped_passphrase",
            "version-2",
            "wrapped-passphrase-2",
        ),
    ] {
        corpus.seed(target, name, fs::read(data.join(from)).unwrap());
    }
    // Tag 66, as Linux 6.1 sent it (`docs/protocol-ecryptfs.md`).
    let wrap = "66000000012e00000000260000004210303031313232333334343535363661611307ea99826984d9a985ef11cfda2c4265fa096f";
    let wrap = data_encoding::HEXLOWER.decode(wrap.as_bytes()).unwrap();
    corpus.seed("ecryptfs_device", "wrap", wrap);
}
