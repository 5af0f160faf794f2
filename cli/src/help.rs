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

/// All of it, with the table of exit codes.
pub(crate) fn long() -> String {
    let codes = ExitCode::TABLE
        .iter()
        .map(|(code, meaning)| format!("\n{:>4}  {meaning}", *code as u8));
    let codes: String = codes.collect();
    format!("{FIRST_SESSION}\n\n{FILES}\n\nExit codes:{codes}")
}
