//! Callout's round trip against a bare SEQPACKET ping: callout's own example measures both in one run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::table::Table;

/// Bytes of a request for the FEKs of a file, which carries the head of its lower file, and of the answer, as
/// the example has them.
const OUT: &str = "4700";
const BACK: &str = "64";

/// At most three times the bare ping.
const AIM: f64 = 1.0 / 3.0;

/// Measures over both carriers and adds the rows.
pub fn measure(table: &mut Table) -> Result<()> {
    let program = Path::new("/run/programs/examples/ping");
    let output = Command::new(program)
        .output()
        .with_context(|| program.display().to_string())?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said = String::from_utf8(output.stdout)?;
    for (cores, where_) in [(1, "one core"), (2, "two cores")] {
        let bare = micros(&said, "bare SEQPACKET", cores)?;
        for way in [
            "netlink, submit",
            "unix, submit",
            "netlink, call",
            "unix, call",
        ] {
            let what = format!("callout round trip, encrypted, as of an open, {where_}: {way}");
            let ours = micros(&said, way, cores)?;
            table.add(&what, "/s", "bare ping", AIM, &[(1e6 / ours, 1e6 / bare)]);
        }
    }
    Ok(())
}

/// The median of one row: `name, 16 wide | cores | bytes out | bytes back | microseconds | ratio`.
fn micros(said: &str, way: &str, cores: u32) -> Result<f64> {
    let start = [&cores.to_string(), OUT, BACK];
    said.lines()
        .filter_map(|line| line.strip_prefix(way))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find_map(|words| words.strip_prefix(&start)?.first()?.parse().ok())
        .with_context(|| format!("no row '{way}' on {cores} cores in:\n{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_its_name_cores_and_size() {
        let said = "unix, call            1      64      64      11.9    2.56\n\
                    unix, call            1    4700      64      15.7    3.00\n\
                    unix, call            2    4700      64      23.1    1.86\n";
        assert_eq!(micros(said, "unix, call", 1).unwrap(), 15.7);
        assert_eq!(micros(said, "unix, call", 2).unwrap(), 23.1);
        assert!(micros(said, "pigeon", 1).is_err());
    }
}
