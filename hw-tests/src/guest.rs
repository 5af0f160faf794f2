//! A machine with Debian's stock kernel, in QEMU, for what namespaces cannot give: a kernel module.
//!
//! Emulated (TCG): no nested virtualisation is counted on. What it boots is made by
//! `hw-tests/kernel/build`; what the scripts may use is in `hw-tests/kernel/functions.sh`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::wait_until;

/// Where the initramfs lies in memory. QEMU's own place for it is the top of memory, where the ACPI tables
/// of a TPM go too, one over the other.
const INITRAMFS_AT: &str = "0x10000000";

/// A machine that has not been switched on.
#[derive(Debug)]
pub struct Guest {
    folder: TempDir,
    tpm: Option<Child>,
    longest: Duration,
}

/// What a script came to.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` if the machine went down before its end.
    pub code: Option<i32>,
    /// Standard output and error.
    pub output: String,
    /// The kernel's console.
    pub console: String,
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// Two processors, 1 GiB, a disk of 64 MiB with ext4.
    pub fn new() -> Self {
        let guest = Self {
            folder: tempfile::tempdir().expect("there is room"),
            tpm: None,
            longest: Duration::from_secs(300),
        };
        fs::create_dir(guest.shared()).expect("it is ours");
        let disk = guest.file("disk");
        run(Command::new("truncate").args(["-s", "64M"]).arg(&disk));
        // Inodes of 256 bytes have room for times in nanoseconds.
        run(Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-I", "256"])
            .arg(&disk));
        guest
    }

    /// With a TPM 2.0, which is swtpm.
    #[must_use]
    pub fn with_tpm(mut self) -> Self {
        let state = self.file("tpm");
        fs::create_dir(&state).expect("it is ours");
        let control = format!("type=unixio,path={}", self.file("tpm-socket").display());
        let tpm = Command::new("swtpm")
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", state.display()))
            .args(["--ctrl", &control])
            .stdout(Stdio::null())
            .spawn()
            .expect("swtpm is installed");
        self.tpm = Some(tpm);
        wait_until("swtpm listens", || self.file("tpm-socket").exists());
        self
    }

    /// With an RSA key of so many bits in `/host/NAME.pem`, made here: an emulated processor takes seconds.
    #[must_use]
    pub fn with_rsa_key(self, name: &str, bits: u32) -> Self {
        let file = self.shared().join(name).with_extension("pem");
        run(Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt"])
            .arg(format!("rsa_keygen_bits:{bits}"))
            .arg("-out")
            .arg(file)
            // Dots, for people who wait.
            .stderr(Stdio::null()));
        self
    }

    /// The folder that the guest sees as `/host`.
    pub fn shared(&self) -> PathBuf {
        self.file("shared")
    }

    /// Switches it on, runs `script` as root under `sh -eu`, and switches it off.
    ///
    /// # Panics
    /// If it is still on after five minutes.
    pub fn run(&self, script: &str) -> Ran {
        fs::write(self.shared().join("script"), script).expect("it is ours");
        let mut machine = self.switch_on();
        let begun = Instant::now();
        let ended = loop {
            match machine.try_wait().expect("it is ours") {
                Some(status) => break Some(status),
                None if begun.elapsed() > self.longest => break None,
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        if ended.is_none() {
            machine.kill().expect("it is ours");
            machine.wait().expect("it is ours");
        }
        let read = |path: PathBuf| {
            let bytes = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let ran = Ran {
            code: read(self.shared().join("exit-code")).trim().parse().ok(),
            output: read(self.shared().join("output")),
            console: read(self.file("console")),
        };
        let status = ended.unwrap_or_else(|| panic!("still on after {:?}: {ran}", self.longest));
        assert!(
            status.success(),
            "QEMU: {status} (signal {:?})",
            status.signal()
        );
        ran
    }

    /// Runs a script that succeeds; what it printed.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        let ran = self.run(script);
        assert_eq!(ran.code, Some(0), "{ran}");
        ran.output
    }

    fn switch_on(&self) -> Child {
        let built = built();
        let (kernel, initramfs) = (built.join("vmlinux"), built.join("initramfs"));
        let size = fs::metadata(&initramfs).unwrap_or_else(|error| {
            panic!(
                "{}: {error}: run 'hw-tests/kernel/build' first",
                initramfs.display()
            )
        });
        let size = size.len();
        let path = |path: &Path| path.display().to_string();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1024",
        ]);
        qemu.args(["-nodefaults", "-no-reboot", "-display", "none"]);
        qemu.args(["-serial", &format!("file:{}", path(&self.file("console")))]);
        qemu.arg("-kernel").arg(kernel);
        // Not -initrd, which leaves no choice of the place. The kernel must neither move there nor give
        // the memory away: it learns of an initramfs from its command line too late to reserve it.
        let loader = format!(
            "loader,file={},addr={INITRAMFS_AT},force-raw=on",
            path(&initramfs)
        );
        qemu.args(["-device", &loader]);
        let pages = size.next_multiple_of(4096);
        qemu.arg("-append").arg(format!(
            "console=ttyS0 loglevel=5 panic=-1 nokaslr initrdmem={INITRAMFS_AT},{size} memmap={pages}${INITRAMFS_AT}"
        ));
        let shared = path(&self.shared());
        qemu.args([
            "-fsdev",
            &format!("local,id=host,path={shared},security_model=none"),
        ]);
        qemu.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        let disk = path(&self.file("disk"));
        qemu.args([
            "-drive",
            &format!("file={disk},format=raw,if=virtio,cache=unsafe"),
        ]);
        if self.tpm.is_some() {
            let socket = path(&self.file("tpm-socket"));
            qemu.args(["-chardev", &format!("socket,id=tpm,path={socket}")]);
            qemu.args([
                "-tpmdev",
                "emulator,id=tpm0,chardev=tpm",
                "-device",
                "tpm-crb,tpmdev=tpm0",
            ]);
        }
        qemu.stdin(Stdio::null());
        qemu.spawn().expect("QEMU is installed")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(tpm) = &mut self.tpm {
            let _ = tpm.kill();
            let _ = tpm.wait();
        }
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            code,
            output,
            console,
        } = self;
        write!(
            f,
            "the script exited with {code:?}\n--- output\n{output}--- console\n{console}---"
        )
    }
}

/// `target/kernel`, whatever the profile of this program.
fn built() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kernel")
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
