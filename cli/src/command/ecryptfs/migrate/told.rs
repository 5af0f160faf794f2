//! What is said at the end of a migration.

use std::path::Path;

use claviger_protocol::failure::ExitCode;
use nix::errno::Errno;
use serde_json::{Value, json};

use super::trees::Tree;
use crate::args::Migrate;
use crate::migrate::{Aspect, Remark, Stopped, Summary, Verdict};
use crate::print::outln;
use crate::shell_word::shown;
use crate::{Failed, print};

/// What can be done after any stop.
const GOES_ON: &str = "What has been copied stays: the same command goes on from there";

/// Prints what a migration came to.
pub(super) fn summary(
    summary: &Summary,
    old: &Tree,
    new: &Tree,
    order: &Migrate,
) -> Result<ExitCode, Failed> {
    if order.output.json {
        print::json(&as_json(summary, old, new))?;
    } else {
        as_text(summary, old, new);
    }
    Ok(match summary.verdict() {
        Verdict::Complete => ExitCode::Ok,
        Verdict::Incomplete => ExitCode::Incomplete,
        Verdict::Different => ExitCode::Damage,
    })
}

fn as_text(summary: &Summary, old: &Tree, new: &Tree) {
    list("not as in OLD", &summary.differences);
    list("not copied", &summary.left);
    list("copied, but not kept", &summary.losses);
    if !summary.only_in_new.is_empty() {
        outln!("in NEW only, and left there:");
        let lines = summary.only_in_new.iter().map(|path| text(path));
        lines.for_each(|path| outln!("  {path}"));
    }
    let (from, to) = (shown(&old.given), shown(&new.given));
    let verified = summary.verified;
    let counted = format!("{} files, {} bytes", verified.files, verified.bytes);
    match summary.verdict() {
        Verdict::Complete => {
            outln!("{from} is complete in {to}: {counted}, verified");
            outln!(
                "Nothing in {from} was changed. Look at {to}; then remove the old one yourself:"
            );
            outln!("  rm -rf {}", shown(&old.name));
        }
        Verdict::Incomplete => {
            outln!(
                "{from} is NOT complete in {to}: {counted} verified, {} not copied",
                summary.left.len()
            );
            outln!("Keep {from}. {GOES_ON}");
        }
        Verdict::Different => {
            outln!(
                "{to} is NOT as {from}: {} differences in {counted}",
                summary.differences.len()
            );
            outln!(
                "Keep {from}. The same command copies again what has changed there; what is damaged in {to} has to be removed first"
            );
        }
    }
}

fn list(heading: &str, remarks: &[Remark]) {
    if !remarks.is_empty() {
        outln!("{heading}:");
    }
    for Remark { path, of, why } in remarks {
        let said = match of {
            Aspect::Presence => format!("{}: {why}", text(path)),
            of => format!("{}: {of}: {why}", text(path)),
        };
        outln!("  {said}");
    }
}

fn as_json(summary: &Summary, old: &Tree, new: &Tree) -> Value {
    let remarks = |remarks: &[Remark]| -> Vec<Value> {
        let objects = remarks.iter().map(|Remark { path, of, why }| {
            json!({ "path": text(path), "of": of.to_string(), "why": why })
        });
        objects.collect()
    };
    let only_in_new = summary.only_in_new.iter().map(|path| text(path));
    json!({
        "old": text(&old.given),
        "new": text(&new.given),
        "verdict": match summary.verdict() {
            Verdict::Complete => "complete",
            Verdict::Incomplete => "incomplete",
            Verdict::Different => "different",
        },
        "directories": summary.verified.directories,
        "files": summary.verified.files,
        "others": summary.verified.others,
        "bytes": summary.verified.bytes,
        "differences": remarks(&summary.differences),
        "not_copied": remarks(&summary.left),
        "not_kept": remarks(&summary.losses),
        "only_in_new": only_in_new.collect::<Vec<_>>(),
    })
}

/// The root of a tree is `.`.
fn text(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => ".".into(),
        false => path.to_string_lossy().into_owned(),
    }
}

/// A migration that did not come to its end.
pub(super) fn stopped(stopped: Stopped, order: &Migrate) -> Failed {
    let what = stopped.to_string();
    let of_errno = |errno| match errno {
        Errno::ENOKEY => ExitCode::Locked,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => ExitCode::Permission,
        _ => ExitCode::Internal,
    };
    match stopped {
        Stopped::Interrupted => Failed::new(ExitCode::Declined, what).advise(GOES_ON),
        Stopped::Old { errno, .. } | Stopped::New { errno, .. } => {
            Failed::new(of_errno(errno), what).advise(GOES_ON)
        }
        Stopped::Foreign(_) => Failed::usage(what)
            .advise("Move it away; then the same command goes on. Nothing is put over it"),
        Stopped::NotEmpty(_) => Failed::usage(what).advise(format!(
            "Nothing was changed. Make an empty folder in {} and name that",
            order.new.display()
        )),
        Stopped::OfAnother(of) => Failed::usage(what).advise(format!(
            "Complete it first: claviger ecryptfs migrate {} {}",
            shown(&of),
            shown(&order.new)
        )),
        Stopped::Running => Failed::new(ExitCode::Busy, what),
        Stopped::OldIsUnfinished => Failed::usage(what).advise("Complete that one first"),
        Stopped::OldIsEmpty => Failed::usage(what),
        Stopped::NoRoom { needed, free } => {
            let lacking = needed.saturating_sub(free);
            let advice = format!("Free {lacking} bytes there: the same command goes on then");
            Failed::new(ExitCode::Internal, what).advise(advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command, Ecryptfs};

    #[test]
    fn who_has_no_room_is_told_how_much_to_free() {
        let cli = Cli::parse_from(["claviger", "ecryptfs", "migrate", "old", "new"]);
        let Command::Ecryptfs(Ecryptfs::Migrate(order)) = cli.command else {
            panic!("it is one");
        };
        let no_room = Stopped::NoRoom {
            needed: 100,
            free: 60,
        };
        assert_eq!(
            stopped(no_room, &order).to_string(),
            "claviger: 100 bytes are to be copied, and NEW has room for 60\n  \
             Free 40 bytes there: the same command goes on then"
        );
    }
}
