//! Callout's round trip against a bare SEQPACKET ping: callout's own example measures both in one run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::table::Table;

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
    let bare = micros(&said, "bare SEQPACKET")?;
    for way in [
        "netlink, submit",
        "unix, submit",
        "netlink, call",
        "unix, call",
    ] {
        let what = format!("callout round trip, encrypted, 4 KiB: {way}");
        let ours = micros(&said, way)?;
        table.add(&what, "/s", "bare ping", AIM, &[(1e6 / ours, 1e6 / bare)]);
    }
    Ok(())
}

/// The median of the row `way` for 4096 bytes: `name, 16 wide | bytes | microseconds | ratio`.
fn micros(said: &str, way: &str) -> Result<f64> {
    said.lines()
        .filter(|line| line.starts_with(way))
        .map(|line| line.split_whitespace().rev())
        .find_map(|mut words| {
            let (_ratio, micros, bytes) = (words.next()?, words.next()?, words.next()?);
            (bytes == "4096").then(|| micros.parse().ok())?
        })
        .with_context(|| format!("no row '{way}' in:\n{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_its_name_and_size() {
        let said = "unix, call            64      16.4    2.50\nunix, call          4096      20.6    2.78\n";
        assert_eq!(micros(said, "unix, call").unwrap(), 20.6);
        assert!(micros(said, "pigeon").is_err());
    }
}
