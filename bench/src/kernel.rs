//! Unwraps for the kernel's own eCryptfs against those for a mount of Claviger's: in one emulated machine, by
//! one daemon and one key, of the files of one lower folder, [`IN_FLIGHT`] in flight in both.

use std::{env, fs};

use anyhow::{Context, Result, ensure};
use claviger_hw_tests::Guest;

use crate::table::Table;
use crate::work::IN_FLIGHT;

const ROUNDS: usize = 5;

/// Few: what takes a token a millisecond takes an emulated processor many.
const FILES: usize = 96;

/// The key is in a file, and the kernel has written the files. When a mount is new and caches are dropped nobody
/// has opened any; that each then costs one unwrap is counted in the daemon's audit log.
const SCRIPT: &str = "
    log=info
    lower_disk
    person root
    cp /host/bench /tmp/bench
    as root claviger key generate --module openssl --type rsa2048 --label k >/tmp/said
    options=ecryptfs_sig=$(add_key root k),ecryptfs_key_bytes=32
    mount_by kernel here $options
    as root /tmp/bench work create /mnt/here/files $FILES >/tmp/said
    unmount_by kernel here
    opened_by() { # kernel|claviger
        mount_by $1 here $options
        before=$(unwraps root)
        seconds=$(as root /tmp/bench work open /mnt/here/files)
        same \"unwraps for $1\" $FILES $(($(unwraps root) - before))
        unmount_by $1 here
        echo \"opened by $1 in $seconds\"
    }
    for round in $(seq $ROUNDS); do
        case $((round % 2)) in
        0) opened_by claviger; opened_by kernel ;;
        1) opened_by kernel; opened_by claviger ;;
        esac
    done
";

/// Boots the machine, measures in it and adds the row.
pub fn measure(table: &mut Table) -> Result<()> {
    let guest = Guest::new();
    fs::copy(env::current_exe()?, guest.shared().join("bench"))?;
    let said = guest.ok(&format!("FILES={FILES} ROUNDS={ROUNDS}\n{SCRIPT}"));
    let (kernel, claviger) = (rates(&said, "kernel")?, rates(&said, "claviger")?);
    ensure!(kernel.len() == ROUNDS && claviger.len() == ROUNDS, said);
    let rounds: Vec<(f64, f64)> = kernel.into_iter().zip(claviger).collect();
    let what =
        format!("emulated: unwraps for the kernel's eCryptfs, RSA-2048, {IN_FLIGHT} in flight");
    table.add(&what, "unwraps/s", "FUSE mount", 1.0, &rounds);
    Ok(())
}

/// Files a second, round by round: of lines such as `opened by kernel in 3.25`.
fn rates(said: &str, by: &str) -> Result<Vec<f64>> {
    let begin = format!("opened by {by} in ");
    said.lines()
        .filter_map(|line| line.strip_prefix(&begin))
        .map(|seconds| {
            let seconds: f64 = seconds.parse().with_context(|| said.to_owned())?;
            Ok(FILES as f64 / seconds)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_for_whom_it_was() {
        let said =
            "opened by kernel in 2\nmke2fs\nopened by claviger in 4\nopened by kernel in 4\n";
        let files = FILES as f64;
        assert_eq!(rates(said, "kernel").unwrap(), [files / 2.0, files / 4.0]);
        assert_eq!(rates(said, "claviger").unwrap(), [files / 4.0]);
        assert!(rates("opened by kernel in no time", "kernel").is_err());
    }
}
