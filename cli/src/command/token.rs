//! `claviger token …`.

use claviger_protocol::control::{Command, Reply};
use claviger_protocol::failure::ExitCode;

use super::unexpected;
use crate::args::Token;
use crate::print::outln;
use crate::prompter::Prompter;
use crate::{Failed, daemon, print};

pub(super) fn run(token: Token, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let Token::List { output } = token;
    let reply = daemon::run(Command::TokenList, prompter)?;
    let Reply::Tokens(tokens) = reply else {
        return Err(unexpected());
    };
    if output.json {
        print::json(&tokens)?;
        return Ok(ExitCode::Ok);
    }
    if tokens.is_empty() {
        outln!("No token is present. 'claviger doctor' says what was looked for.");
    }
    for token in &tokens {
        outln!("{}", token.uri);
        let said = format!(
            "{} ({}, serial {}), PIN: {}",
            token.label, token.model, token.serial, token.pin_state
        );
        outln!("  {said}");
    }
    Ok(ExitCode::Ok)
}
