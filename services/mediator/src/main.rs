//! The executable of the service: one sub-command per role, `all` of them together, and what operators need besides.
//!
//! The roles are libraries; here they get their configuration, their seams and their life cycle. This is the only place that
//! reads the command line and the environment.

mod cli;
mod config;
mod doctor;
mod embedded;
mod lifecycle;
mod operator;
mod process;
mod roles;
mod secrets;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser as _;
use serde_json::json;
use wire::server_url::ServerUrl;

use crate::{
    cli::{All, Cli, Command, ConfigCommand},
    config::Config,
    embedded::Embedded,
    lifecycle::Roles,
    process::Process,
    roles::{Reached, Role, Together},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ran = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    ran.unwrap_or_else(|error| {
        // Nothing can be done when standard error is gone.
        let _ = writeln!(io::stderr(), "mediator: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::All(args) => all(args).await,
        Command::Gateway(args) => one(Role::Gateway, args).await,
        Command::Auth(args) => one(Role::Auth, args).await,
        Command::Network(args) => one(Role::Network, args).await,
        Command::Rendezvous(args) => one(Role::Rendezvous, args).await,
        Command::Relay(args) => one(Role::Relay, args).await,
        Command::Admin(args) => admin(args).await,
        Command::Migrate(args) => migrate(&args).await,
        Command::Doctor(args) => doctor::run(&args).await,
        Command::Config(args) => match args.command {
            ConfigCommand::Print(file) => print_config(&file),
            ConfigCommand::Check(file) => check_config(&file),
        },
    }
}

/// Every role in this process.
async fn all(args: All) -> anyhow::Result<ExitCode> {
    let Embedded { config, notes, first_run } = Embedded::prepare(&args).await?;
    telemetry::logs::init(&config.log.filter, config.log.json)?;
    let mut process = Process::start(config, "all").await?;
    let (mut roles, mut reached) = (Roles::new(), Reached::default());
    for role in Role::ALL {
        process
            .start_role(role, Together::All, &mut roles, &mut reached)
            .await
            .with_context(|| format!("the role {} cannot start", role.name()))?;
    }
    let ops = process.start_ops(&mut roles)?;
    let (control, key) = reached.control.context("the gateway listens nowhere: gateway.listen is empty")?;
    let advertised = embedded::advertised(&args, control);
    let server = ServerUrl::new(&advertised.ip().to_string(), advertised.port(), Some(key))?;
    let admin = reached.admin.context("the admin role did not start")?;
    let accounts = reached.accounts.context("the admin role did not start")?;
    let token = process.secrets.operator_token();
    embedded::settled(&process.bus).await;
    if args.json {
        print(&json!({
            "ready": true,
            "server": server.to_string(),
            "admin": format!("http://{admin}"),
            "accounts": format!("http://{accounts}"),
            "console": format!("http://{admin}/console/"),
            "metrics": format!("http://{ops}/metrics"),
            "operator_token_file": token,
        }))?;
    } else {
        let (admin, accounts) = (format!("http://{admin}"), format!("http://{accounts}/account"));
        welcome(&server, &admin, &accounts, &token, first_run, &notes)?;
    }
    for note in notes {
        tracing::warn!("{note}");
    }
    let ended = roles.run().await;
    process.close().await;
    ended
}

/// What a person sees who has just started everything.
fn welcome(
    server: &ServerUrl,
    admin: &str,
    accounts: &str,
    token: &std::path::Path,
    first_run: bool,
    notes: &[String],
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "Buri is running. On each machine:")?;
    writeln!(out)?;
    writeln!(out, "  buri --home ~/.buri daemon --server '{server}'")?;
    writeln!(out, "  buri --home ~/.buri create NETWORK --password-file -     (on the first)")?;
    writeln!(out, "  buri --home ~/.buri join NETWORK --password-file -       (on the others)")?;
    writeln!(out)?;
    writeln!(out, "Console    {admin}/console/")?;
    writeln!(out, "Admin API  {admin}/")?;
    writeln!(out, "           both with the token in {}", token.display())?;
    if first_run {
        writeln!(out, "           (made just now; only this user can read it)")?;
    }
    writeln!(out, "Accounts   {accounts}  for people; mail to them goes to the folder mail of the data")?;
    for note in notes {
        writeln!(out, "Note       {note}")?;
    }
    out.flush()
}

/// The role, or a client of it.
async fn admin(args: cli::Admin) -> anyhow::Result<ExitCode> {
    let cli::Admin { command, config, access, json } = args;
    match (command, config) {
        (Some(command), None) => tokio::task::spawn_blocking(move || operator::run(&command, &access, json))
            .await
            .context("the command broke off")?,
        (None, Some(config)) => one(Role::Admin, cli::Role { config, json }).await,
        (Some(_), Some(_)) | (None, None) => {
            writeln!(
                io::stderr(),
                "mediator: either --config FILE to run the role, or a command; see mediator admin --help"
            )?;
            Ok(ExitCode::from(2))
        }
    }
}

/// One role, on seams that others reach.
async fn one(role: Role, args: cli::Role) -> anyhow::Result<ExitCode> {
    let config = Config::read(Some(&args.config))?;
    config.require_cluster()?;
    telemetry::logs::init(&config.log.filter, config.log.json)?;
    let mut process = Process::start(config, role.name()).await?;
    let (mut roles, mut reached) = (Roles::new(), Reached::default());
    process.start_role(role, Together::One, &mut roles, &mut reached).await?;
    let ops = process.start_ops(&mut roles)?;
    if args.json {
        let server =
            reached.control.map(|(at, key)| ServerUrl::new(&at.ip().to_string(), at.port(), Some(key))).transpose()?;
        print(&json!({
            "ready": true,
            "role": role.name(),
            "server": server.map(|url| url.to_string()),
            "admin": reached.admin.map(|at| format!("http://{at}")),
            "accounts": reached.accounts.map(|at| format!("http://{at}")),
            "metrics": format!("http://{ops}/metrics"),
        }))?;
    }
    let ended = roles.run().await;
    process.close().await;
    ended
}

async fn migrate(args: &cli::Role) -> anyhow::Result<ExitCode> {
    let config = Config::read(Some(&args.config))?;
    anyhow::ensure!(!config.store.url.is_empty(), "store.url is empty");
    store::migrate(&config.store.url).await?;
    let versions = store::migrations().len();
    if args.json {
        print(&json!({ "migrated": true, "version": versions }))?;
    } else {
        writeln!(io::stdout(), "the schema is at version {versions}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_config(file: &cli::ConfigFile) -> anyhow::Result<ExitCode> {
    let text = match &file.config {
        None => config::SAMPLE.to_owned(),
        Some(path) => toml::to_string(&Config::read(Some(path))?)?,
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn check_config(file: &cli::ConfigFile) -> anyhow::Result<ExitCode> {
    Config::read(file.config.as_deref())?;
    writeln!(io::stdout(), "the configuration is valid")?;
    Ok(ExitCode::SUCCESS)
}

/// One JSON document on a line of its own.
fn print(document: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{document}")?;
    out.flush()
}
