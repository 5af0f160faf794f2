//! What was measured, as a table and as JSON.

use std::fmt;

use serde::Serialize;

/// All rows.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    rows: Vec<Row>,
}

/// One figure: ours, the one it is compared with, and the aim.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub what: String,
    /// `MB/s`, `files/s`, `unwraps/s`: more is better.
    pub unit: &'static str,
    /// Ours: the median.
    pub ours: f64,
    /// What it is compared with.
    pub against: &'static str,
    /// Its median, in the same run.
    pub theirs: f64,
    /// Median of ours / theirs, round by round.
    pub ratio: f64,
    /// The least ratio we aim at.
    pub aim: f64,
}

impl Table {
    /// Adds a row from rounds of (ours, theirs).
    pub fn add(
        &mut self,
        what: &str,
        unit: &'static str,
        against: &'static str,
        aim: f64,
        rounds: &[(f64, f64)],
    ) {
        let row = Row {
            what: what.into(),
            unit,
            ours: median(rounds.iter().map(|(ours, _)| *ours)),
            against,
            theirs: median(rounds.iter().map(|(_, theirs)| *theirs)),
            ratio: median(rounds.iter().map(|(ours, theirs)| ours / theirs)),
            aim,
        };
        eprintln!("{row}");
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| what | unit | Claviger | compared with | ratio | aim |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            unit,
            ours,
            against,
            theirs,
            ratio,
            aim,
        } = self;
        let met = if ratio >= aim { "" } else { " **missed**" };
        write!(
            f,
            "| {what} | {unit} | {ours:.0} | {against} {theirs:.0} | {ratio:.2} | {aim:.2}{met} |"
        )
    }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle.saturating_sub(1)..=middle) {
        Some([low, high]) if values.len().is_multiple_of(2) => (low + high) / 2.0,
        _ => values.get(middle).copied().unwrap_or(f64::NAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }
}
