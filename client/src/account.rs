//! `buri account`: the commands about the account that this machine belongs to.

use clap::Subcommand;
use client::command::{AccountStatus, AccountWish, Command};

#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    /// Make this machine part of the account that made the code.
    Attach { code: String },
    /// Take this machine out of its account.
    Detach,
    /// Show to which account this machine belongs.
    Status,
}

impl Subcommands {
    pub(crate) fn command(self) -> Command {
        let wish = match self {
            Self::Attach { code } => AccountWish::Attach(code),
            Self::Detach => AccountWish::Detach,
            Self::Status => AccountWish::Status,
        };
        Command::Account { wish }
    }
}

/// What people see of it.
pub(crate) fn status_text(status: &AccountStatus) -> String {
    match (&status.account, &status.plan) {
        (Some(account), Some(plan)) => format!("account {account}, plan {plan}"),
        _ => "this machine belongs to no account".to_owned(),
    }
}
