//! `claviger status`.

use claviger_protocol::control::{Command, Reply, Status, VolumeStatus};
use claviger_protocol::failure::ExitCode;

use super::unexpected;
use crate::args::Output;
use crate::print::outln;
use crate::prompter::Prompter;
use crate::{Failed, daemon, print};

pub(super) fn run(output: &Output, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let reply = daemon::run(Command::Status, prompter)?;
    let Reply::Status(status) = reply else {
        return Err(unexpected());
    };
    if output.json {
        print::json(&status)?;
    } else {
        show(&status);
    }
    Ok(ExitCode::Ok)
}

fn show(status: &Status) {
    outln!(
        "clavigerd {}, auth toks in the {}",
        status.daemon_pid,
        status.auth_toks
    );
    for module in &status.modules {
        outln!(
            "module {} runs as {}, restarted {} times",
            module.module,
            module.pid,
            module.restarts
        );
    }
    if status.volumes.is_empty() {
        outln!("No volume is open.");
    }
    for volume in &status.volumes {
        show_volume(volume);
    }
}

fn show_volume(volume: &VolumeStatus) {
    let state = if volume.unlocked {
        "unlocked"
    } else {
        "locked"
    };
    outln!("");
    outln!("{}  {state}", volume.dir);
    outln!("  volume   {}", volume.volume);
    outln!("  format   {}", volume.format.word());
    if let Some(epoch) = volume.epoch {
        outln!("  epoch    {epoch}");
    }
    if let Some(by) = &volume.opened_by {
        outln!(
            "  opened   with {} '{}' ({}, {})",
            by.kind,
            by.label,
            by.key_type,
            print::short(&by.key_id)
        );
    }
    for mount in &volume.mounts {
        outln!(
            "  mounted  at {} over {}, process {}",
            mount.mountpoint,
            mount.carrier,
            mount.pid
        );
    }
}
