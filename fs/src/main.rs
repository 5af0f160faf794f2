//! `claviger-fs`: mounts a volume. Started by `claviger mount`, and by mount(8) under the name
//! `mount.fuse.claviger`.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use claviger_fs::args::{Args, Dialect, Stay};
use claviger_fs::background::{self, Report};
use claviger_fs::mount;
use claviger_fs::prepare;
use claviger_protocol::Failure;
use claviger_protocol::failure;
use claviger_protocol::inherited::close_inherited;
use claviger_protocol::plain::plain;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let dialect = Dialect::of(&program);
    let report = match Args::parse(dialect, words.clone()) {
        Ok(args) => run(dialect, &args, &program, &words),
        Err(error) => Report::Failed {
            exit_code: dialect.status(failure::ExitCode::Usage),
            text: error.to_string(),
        },
    };
    match report {
        Report::Ready => ExitCode::SUCCESS,
        Report::Failed { exit_code, text } => {
            eprintln!("claviger-fs: {}", plain(&text).replace('\n', "\n  "));
            ExitCode::from(exit_code)
        }
    }
}

fn run(dialect: Dialect, args: &Args, program: &OsStr, words: &[OsString]) -> Report {
    let outcome = match args.stay {
        Stay::Background => return start(dialect, args, program, words),
        Stay::Detached => return serve_detached(dialect, args),
        Stay::Foreground => serve_here(args),
        Stay::Fake => prepare::prepare(args).map(drop),
    };
    match outcome {
        Ok(()) => Report::Ready,
        Err(failure) => failed(dialect, &failure),
    }
}

/// Starts the process that serves the mount; returns when that answers, or why it does not.
fn start(dialect: Dialect, args: &Args, program: &OsStr, words: &[OsString]) -> Report {
    let log = match background::open_log(args.options.log.as_deref()) {
        Ok(log) => log,
        Err((path, error)) => {
            let text = format!("log file {}: {error}", path.display());
            return failed(dialect, &Failure::Permission(text));
        }
    };
    let report = background::start(program, words, log);
    report.unwrap_or_else(|error| {
        let text = format!("starting in the background: {error}");
        failed(dialect, &Failure::Internal(text))
    })
}

fn serve_here(args: &Args) -> Result<(), Failure> {
    log_to_stderr();
    mount::serve(prepare::prepare(args)?, || ())
}

/// Serves; whoever waits hears of a bad beginning by the report, and the log of a bad end.
fn serve_detached(dialect: Dialect, args: &Args) -> Report {
    log_to_stderr();
    if let Err(error) = close_inherited() {
        tracing::warn!(%error, "files of whoever started this stay open");
    }
    let tell = |report: &Report| {
        if let Err(error) = background::report(report) {
            tracing::debug!(%error, "nobody waits for the report");
        }
    };
    let served = prepare::prepare(args).and_then(|prepared| {
        let detached = background::detach();
        detached.map_err(|error| Failure::Internal(format!("entering /: {error}")))?;
        mount::serve(prepared, || tell(&Report::Ready))
    });
    match served {
        Ok(()) => Report::Ready,
        Err(failure) => {
            let report = failed(dialect, &failure);
            tell(&report);
            report
        }
    }
}

fn failed(dialect: Dialect, failure: &Failure) -> Report {
    Report::Failed {
        exit_code: dialect.status(failure.exit_code()),
        text: failure.to_string(),
    }
}

/// `CLAVIGER_LOG` chooses what is logged, as `RUST_LOG` does elsewhere; `info` if it does not.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("CLAVIGER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}
