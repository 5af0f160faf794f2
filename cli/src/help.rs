//! What `--help` and claviger(1) say besides the options.

use claviger_protocol::failure::ExitCode;

/// How to begin.
pub(crate) const FIRST_SESSION: &str = "\
To begin:
  claviger doctor         what this machine lacks
  claviger token list     what is plugged in
  claviger key generate --module pkcs11 --label card \\
      --token pkcs11:token=LABEL
  claviger init --recipient card ~/Private
  mkdir ~/private && claviger mount ~/Private ~/private
  claviger lock ~/private";

// Lines short enough for a man page, which does not know that they are columns.
const FILES: &str = "\
Files:
  ~/.config/claviger/config.toml, /etc/claviger/config.toml
      configuration
  ~/.config/claviger/keys/
      enrolled keys: their public halves, and where they are
  ~/.local/state/claviger/known_volumes
      what was seen of volumes: an older state is refused
  ~/.local/state/claviger/audit.log
      a line for each key that was unwrapped
  ~/.local/state/claviger/daemon.log, fs.log
      CLAVIGER_LOG says how much: info, debug
  DIR/.claviger/volume.toml
      a volume's manifest, which names its recipients";

const CONFIGURATION: &str = "\
Configuration:
  Read by the daemon when it starts; after a change: claviger stop.
  A key of the user's file replaces the same key of the machine's.
  [pkcs11] libraries = [PATH, ...]
      PKCS#11 libraries; default: those that p11-kit knows
  [tpm] tcti = TCTI
      how the TPM is reached; default: device:/dev/tpmrm0
  [modules.NAME] program = PATH, settings = { KEY = VALUE }
      another program for a module of ours (pkcs11, tpm, openssl)
  [prompts] pinentry = PROGRAM, timeout-s = 60
      who asks where no terminal waits, and for how long
  [policy] final-try = \"ask\" or \"never\", token-timeout-s = 30
      whether the last try of a PIN may be spent, by a person who
      agreed; how long one token operation may take
  [ecryptfs] kernel = false, timeout-s = 3, uids = [], pkcs1_v15 = false
      serve the kernel's own eCryptfs; how long it waits; root's
      daemon: for whom besides; read what pkcs11-helper wrapped";

const KNOWN_VOLUMES: &str = "\
Known volumes:
  What was seen of each volume is a line of known_volumes: its id, the
  highest epoch and generation, a commitment to its key, its recipients,
  its folder. /etc/claviger/known_volumes, which is only read, counts
  too. A volume that is older than its line, or in the folder of another
  one, is refused before a PIN is asked for, one that has another key
  after: exit code 13. If it is so on purpose, a backup that you put
  back say, accept it anew:
    1. claviger lock DIR
    2. delete the line that the error is about: that of this volume's
       id, which claviger inspect DIR prints, or of the volume that the
       folder held
    3. claviger unlock DIR: the prompt says that the volume is unknown;
       it is remembered as it is now
  Do not, if you do not know why it changed: whoever can write the
  folder may have put back a state in which a recipient whom you removed
  still opens it.";

const PIN_SOURCE: &str = "\
PINs from files:
  --pin-fd N gives PINs and passphrases to one command. The URI of a key
  in a PKCS#11 token may name a file instead, for good:
    claviger key add 'pkcs11:token=T?pin-source=file:/PATH'
  It holds the PIN, is yours or root's, and readable to nobody else. A
  refused PIN is not sent again until the file changes, or the daemon is
  started anew; the final try is never spent from it.";

const AUDIT_LOG: &str = "\
Audit log:
  A JSON object a line: time, event (unlock, lock, unwrap, init,
  recipients, seal, unseal), uid, pid, program, program_verified (false:
  the requester says who it is), volume, lower_path (the name in the
  lower folder), key, module (epoch-key: no token was needed), result,
  duration_ms. No secrets. Over 16 MiB it is moved to audit.log.1.";

/// All of it, with the table of exit codes.
pub(crate) fn long() -> String {
    let codes = ExitCode::TABLE
        .iter()
        .map(|(code, meaning)| format!("\n{:>4}  {meaning}", *code as u8));
    let codes: String = codes.collect();
    let sections = [
        FIRST_SESSION,
        FILES,
        CONFIGURATION,
        KNOWN_VOLUMES,
        PIN_SOURCE,
        AUDIT_LOG,
    ];
    format!("{}\n\nExit codes:{codes}", sections.join("\n\n"))
}
