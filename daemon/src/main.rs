//! `clavigerd`: arguments, order of starting and ending; everything else is in the library.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use claviger_pki::auth_tok::AuthToks;
use claviger_protocol::failure::ExitCode as Code;
use claviger_protocol::inherited::close_inherited;
use claviger_protocol::paths;
use clavigerd::audit::Audit;
use clavigerd::background::{self, BackgroundError};
use clavigerd::config::Config;
use clavigerd::daemon::{Daemon, Places};
use clavigerd::instance::{Instance, InstanceError, private_folder};
use clavigerd::process::{EndSignals, harden};
use clavigerd::{control, notify};
use tracing_subscriber::EnvFilter;

/// Keeps the unlocked keys of one user's encrypted folders, and asks his tokens for more.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Start in the background, return once it serves; this is how 'claviger' starts it
    #[arg(long)]
    background: bool,
    /// Stay in the foreground, as under systemd (the default)
    #[arg(long, conflicts_with = "background")]
    foreground: bool,
    /// Say what is wrong with the configuration, if anything is, and end
    #[arg(long, conflicts_with_all = ["background", "foreground"])]
    check: bool,
    /// Leave the session of whoever started it
    #[arg(long, hide = true, conflicts_with = "background")]
    own_session: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = if args.check {
        check()
    } else if args.background {
        match background::start() {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(BackgroundError::Ended { said, code }) => {
                return ended(&said, code.unwrap_or(1));
            }
            Err(error) => Err(error).context("cannot start in the background"),
        }
    } else {
        serve(&args)
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("clavigerd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> anyhow::Result<ExitCode> {
    let user = paths::config_dir();
    Ok(
        match Config::load(paths::system_config_dir(), user.as_deref()) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => ended(&error, USAGE),
        },
    )
}

fn serve(args: &Args) -> anyhow::Result<ExitCode> {
    if args.own_session {
        nix::unistd::setsid().context("cannot start a session")?;
    }
    close_inherited().context("cannot close what it was started with")?;
    // Before any thread: a thread that runs already keeps its keyring and its signal mask.
    harden().context("cannot protect this process")?;
    let signals = EndSignals::block()?;
    let auth_toks = AuthToks::join();

    let filter = EnvFilter::try_from_env("CLAVIGER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let places = Places::of_user().context("neither HOME nor XDG_CONFIG_HOME is set")?;
    let config = match Config::load(&places.system_config, Some(&places.config)) {
        Ok(config) => config,
        Err(error) => return Ok(ended(&error, USAGE)),
    };
    let (instance, listener) = match Instance::acquire(&paths::control_socket()) {
        Err(error @ InstanceError::Running) => {
            return Ok(ended(&error, background::ALREADY_RUNNING));
        }
        acquired => acquired?,
    };
    private_folder(&places.state)?;
    let audit = Audit::open(&places.state).context("audit log")?;

    let daemon = Arc::new(Daemon::new(config, places, auth_toks, audit, instance));
    daemon.own_keys.load();
    daemon.serve_mounts()?;
    daemon.serve_kernel_if_configured();
    control::serve(&daemon, listener)?;
    notify::notify("READY=1").context("NOTIFY_SOCKET")?;
    tracing::info!(auth_toks = daemon.status().auth_toks, "clavigerd serves");

    let signal = signals.wait()?;
    tracing::info!(%signal, "clavigerd ends");
    let _ = notify::notify("STOPPING=1");
    daemon.shut_down();
    Ok(ExitCode::SUCCESS)
}

/// Exit status for an error in the configuration: that of a wrong command line.
const USAGE: u8 = Code::Usage as u8;

fn ended(why: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("clavigerd: {why}");
    ExitCode::from(code)
}
