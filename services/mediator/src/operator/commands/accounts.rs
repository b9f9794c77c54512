//! `mediator admin accounts ...`.

use clap::Subcommand;
use serde_json::json;

use super::{Method, Page, Request, path};

#[derive(Debug, Subcommand)]
pub(crate) enum Accounts {
    /// List them.
    List {
        /// Only those whose id begins so.
        #[arg(long, value_name = "DIGITS", conflicts_with = "email")]
        id: Option<String>,
        /// Only those of the person with this e-mail address.
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show one, with its people, clients and networks.
    Show { account: String },
    /// Give everything that is kept about one.
    Export { account: String },
    /// Put one, its clients and its networks on another plan.
    Plan {
        account: String,
        plan: String,
        /// Only tell who would lose a seat.
        #[arg(long)]
        dry_run: bool,
    },
    /// Let the people of one only look.
    Suspend { account: String },
    /// Let them act again.
    Resume { account: String },
    /// Make somebody in one its owner.
    Transfer { account: String, person: String },
    /// Take a client out of one.
    Detach { account: String, client: String },
    /// Forget one, and the people who are in no other. There is no way back.
    Erase { account: String },
}

impl Accounts {
    pub(super) fn request(&self) -> Request {
        let put = |account: &str, what, body| Request::new(Method::Put, path(&["accounts", account, what])).body(body);
        match self {
            Self::List { id, email, page } => {
                Request::list(path(&["accounts"]), page).query("id", id.as_ref()).query("email", email.as_ref())
            }
            Self::Show { account } => Request::get(path(&["accounts", account])),
            Self::Export { account } => Request::get(path(&["accounts", account, "export"])),
            Self::Plan { account, plan, dry_run } => {
                put(account, "plan", json!({ "plan": plan })).query("dry_run", Some(&dry_run.to_string()))
            }
            Self::Suspend { account } => put(account, "standing", json!({ "suspended": true })),
            Self::Resume { account } => put(account, "standing", json!({ "suspended": false })),
            Self::Transfer { account, person } => put(account, "owner", json!({ "person": person })),
            Self::Detach { account, client } => {
                Request::new(Method::Delete, path(&["accounts", account, "clients", client]))
            }
            Self::Erase { account } => Request::new(Method::Delete, path(&["accounts", account])),
        }
    }
}
