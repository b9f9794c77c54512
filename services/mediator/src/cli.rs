//! The command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::operator::{Access, OperatorCommand};

/// The cloud behind a zero-configuration virtual LAN: every role, alone or all together.
#[derive(Debug, Parser)]
#[command(name = "mediator", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every role in this process; nothing else needs to be installed.
    All(All),
    /// Run the role that holds the control connections of clients.
    Gateway(Role),
    /// Run the role that knows who is who.
    Auth(Role),
    /// Run the role that owns networks, members and addresses.
    Network(Role),
    /// Run the role that drives NAT traversal.
    Rendezvous(Role),
    /// Run the role that forwards for pairs without a direct path.
    Relay(Role),
    /// Ask the API for operators, or, without a command, run the role that serves it.
    Admin(Admin),
    /// Bring the database to the schema of this version.
    Migrate(Role),
    /// Check a running deployment as an on-call engineer would.
    Doctor(Doctor),
    /// Show or check a configuration.
    Config(ConfigArgs),
}

#[derive(Debug, Args)]
pub(crate) struct All {
    /// Where the database and the secrets are kept; made when missing.
    #[arg(long, value_name = "DIR", default_value = "buri-data")]
    pub(crate) data: PathBuf,
    /// Replaces the defaults, field by field.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Addresses to listen on; the first two of each family carry the reflectors.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub(crate) bind: Vec<IpAddr>,
    /// The same addresses as clients see them; default: as bound.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub(crate) public: Vec<IpAddr>,
    /// Print one JSON line when ready.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Role {
    /// The configuration of the deployment.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Print one JSON line when ready.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Two things of one name: what serves the API, and what asks it.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    #[command(subcommand)]
    pub(crate) command: Option<OperatorCommand>,
    /// The configuration of the deployment, for the role.
    #[arg(long, value_name = "FILE", required = false)]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) access: Access,
    /// Print one JSON document.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The configuration of the deployment; default: the one `all` wrote into its data folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the whole configuration with its defaults, commented.
    Print(ConfigFile),
    /// Say whether a configuration is valid, and why not.
    Check(ConfigFile),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// Default: the defaults.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
