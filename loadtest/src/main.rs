//! Load for a deployment of its own: seeded scenarios, figures as a table or JSON, thresholds that make it fail.

mod child;
mod control;
mod deployment;
mod forwarder;
mod hostile;
mod html;
mod iroh;
mod joiner;
mod joins;
mod legs;
mod link;
mod lists;
mod measure;
mod nat;
mod relay;
mod report;
mod scenario;
mod server;
mod session;
mod stamp;
mod svg;
mod threshold;
mod traffic;
mod turn;
mod turn_server;
mod udp;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Measures what the service costs.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pairs send through a relay and, in turns, through bare forwarders: what a relayed datagram costs.
    Relay(relay::Relay),
    /// Many clients log in and stay: what a login costs, and what an idle session weighs.
    Control(control::Control),
    /// Clients join networks by password: how many a second.
    Joins(joins::Joins),
    /// Many clients and networks are registered: how soon the admin API answers with a page of each list.
    Lists(lists::Lists),
    /// Pairs behind the NATs of a population, simulated: how many of them talk directly, and how soon.
    Nat(nat::Nat),
    /// Forwards until standard input ends.
    #[command(hide = true)]
    Forward { kind: server::Kind },
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be done when standard error is gone.
            let _ = writeln!(io::stderr(), "loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Relay(args) => return relay::run(args),
        Command::Nat(args) => return nat::run(args),
        Command::Control(args) => tokio::runtime::Runtime::new()?.block_on(control::run(args))?,
        Command::Joins(args) => tokio::runtime::Runtime::new()?.block_on(joins::run(args))?,
        Command::Lists(args) => tokio::runtime::Runtime::new()?.block_on(lists::run(args))?,
        Command::Forward { kind } => forwarder::run(*kind)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One line, or several, on standard output.
fn print(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}
