//! What there is to say, and which request each command is.

mod accounts;

use accounts::Accounts;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{blocks::Blocks, events::Events, webhooks::Webhooks};

/// A request to the API.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    path: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<Value>,
    /// The answer comes in pages.
    pub(crate) is_list: bool,
    /// So many items of them.
    pub(crate) most: usize,
    /// The object whose version is named as the one that is changed.
    pub(crate) version_of: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// What operators ask and order.
#[derive(Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// Who is registered.
    #[command(subcommand)]
    Clients(Clients),
    /// People who share a plan, clients and networks.
    #[command(subcommand)]
    Accounts(Accounts),
    /// Networks, who is in them, and who is not let in.
    #[command(subcommand)]
    Networks(Networks),
    /// What there is to have.
    #[command(subcommand)]
    Plans(Plans),
    /// What is held against whom, and until when.
    #[command(subcommand)]
    Blocks(Blocks),
    /// Who is online.
    #[command(subcommand)]
    Sessions(Sessions),
    /// The relays that live.
    #[command(subcommand)]
    Relays(Relays),
    /// Why two clients are connected as they are.
    #[command(subcommand)]
    Pairs(Pairs),
    /// What was relayed for whom.
    #[command(subcommand)]
    Usage(Usage),
    /// Who may use the API.
    #[command(subcommand)]
    Tokens(Tokens),
    /// Who asked for what, and what became of it.
    #[command(subcommand)]
    Audit(Audit),
    /// What happens.
    #[command(subcommand)]
    Events(Events),
    /// Programs that are told what happens.
    #[command(subcommand)]
    Webhooks(Webhooks),
}

#[derive(Debug, Args)]
pub(crate) struct Page {
    /// How many, at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    most: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Clients {
    /// List them.
    List {
        /// Only those whose id begins so.
        #[arg(long, value_name = "DIGITS")]
        id: Option<String>,
        /// Only those whose nickname begins so.
        #[arg(long)]
        nick: Option<String>,
        /// Only the one with this virtual address.
        #[arg(long)]
        address: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show one, with its session, its networks, and what was relayed for it.
    Show { client: String },
    /// Put one on another plan.
    Plan { client: String, plan: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Networks {
    /// List them.
    List {
        /// Only those whose name begins so.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show one, who waits to come in, and who must not.
    Show { network: String },
    /// List the members of one.
    Members {
        network: String,
        #[command(flatten)]
        page: Page,
    },
    /// Give one another name.
    Rename { network: String, name: String },
    /// Let nobody in.
    Lock { network: String },
    /// Let people in again.
    Unlock { network: String },
    /// Give one another owner, who is a member.
    Transfer { network: String, client: String },
    /// Delete one. There is no way back.
    Delete { network: String },
    /// Remove a member, who may come back.
    Remove { network: String, client: String },
    /// Keep a client out.
    Ban { network: String, client: String },
    /// Lift a ban.
    Unban { network: String, client: String },
    /// List the invites of one.
    Invites { network: String },
    /// Revoke an invite.
    Revoke { network: String, invite: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plans {
    /// List them.
    List,
    /// Show one.
    Show { plan: String },
    /// Make one.
    Create {
        plan: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Change what one allows.
    Change {
        plan: String,
        #[command(flatten)]
        limits: Limits,
        /// Only tell who would lose a seat.
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete one that nobody has.
    Delete { plan: String },
}

#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// Members of one network.
    #[arg(long, value_name = "N")]
    members: u32,
    /// Networks of one client.
    #[arg(long, value_name = "N", default_value_t = 256)]
    networks: u32,
    /// Bytes a second through a relay; without it no limit.
    #[arg(long, value_name = "BYTES")]
    relay_rate: Option<u64>,
    /// Bytes a month through relays; without it no limit.
    #[arg(long, value_name = "BYTES")]
    relay_quota: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List them.
    List {
        #[command(flatten)]
        page: Page,
    },
    /// End that of a client, which may come back.
    End { client: String },
    /// End all that agree with what is named.
    EndMany {
        /// Those at this gateway.
        #[arg(long)]
        gateway: Option<String>,
        /// Those of members of this network.
        #[arg(long)]
        network: Option<String>,
        /// Only tell what would be done.
        #[arg(long)]
        dry_run: bool,
        /// The number of sessions, when they are more than one in a hundred.
        #[arg(long, value_name = "N")]
        confirm: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Relays {
    /// List them with their load.
    List,
    /// Have one emptied without losing a packet.
    Drain { relay: String },
    /// Have one take pairs again.
    Resume { relay: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pairs {
    /// Show the record of a pair.
    Show { a: String, b: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Usage {
    /// List what was relayed in a month, by payer.
    List {
        /// Like 2026-11; without it this one.
        #[arg(long)]
        month: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show the months of a payer.
    Show { payer: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// List them.
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Make one, which is shown once.
    Create {
        /// For people.
        #[arg(long, default_value = "made on the command line")]
        name: String,
        /// What it may do.
        #[arg(long, value_name = "SCOPE", value_delimiter = ',', required = true)]
        scope: Vec<String>,
        /// How long it lives, like 30d.
        #[arg(long, value_name = "TIME", default_value = "30d")]
        expires: String,
    },
    /// Revoke one, at once and for good.
    Revoke { token: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List entries, newest first.
    List {
        /// Only what this token asked for; or root.
        #[arg(long)]
        who: Option<String>,
        /// Only this operation.
        #[arg(long)]
        action: Option<String>,
        /// Only what was about this path.
        #[arg(long)]
        object: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Give all entries, oldest first, a JSON document a line.
    Export {
        /// Only entries after this one.
        #[arg(long, value_name = "SEQUENCE")]
        after: Option<u64>,
    },
    /// Check the chain; fails when it is broken.
    Verify {
        /// Begin after this entry, which must have --digest.
        #[arg(long, value_name = "SEQUENCE", requires = "digest")]
        after: Option<u64>,
        #[arg(long, requires = "after")]
        digest: Option<String>,
    },
}

impl OperatorCommand {
    pub(crate) fn request(&self) -> anyhow::Result<Request> {
        Ok(match self {
            Self::Clients(command) => command.request(),
            Self::Accounts(command) => command.request(),
            Self::Networks(command) => command.request(),
            Self::Plans(command) => command.request(),
            Self::Blocks(command) => command.request()?,
            Self::Sessions(command) => command.request(),
            Self::Relays(command) => command.request(),
            Self::Pairs(Pairs::Show { a, b }) => Request::get(path(&["pairs", a, b])),
            Self::Usage(command) => command.request(),
            Self::Tokens(command) => command.request()?,
            Self::Audit(command) => command.request(),
            Self::Events(command) => command.request(),
            Self::Webhooks(command) => command.request(),
        })
    }

    /// The answer is a document a line.
    pub(crate) const fn is_stream(&self) -> bool {
        matches!(self, Self::Audit(Audit::Export { .. }))
    }

    pub(crate) const fn is_verification(&self) -> bool {
        matches!(self, Self::Audit(Audit::Verify { .. }))
    }
}

impl Clients {
    fn request(&self) -> Request {
        match self {
            Self::List { id, nick, address, page } => Request::list(path(&["clients"]), page)
                .query("id", id.as_ref())
                .query("nick", nick.as_ref())
                .query("address", address.as_ref()),
            Self::Show { client } => Request::get(path(&["clients", client])),
            Self::Plan { client, plan } => {
                Request::versioned(Method::Put, path(&["clients", client, "plan"])).body(json!({ "plan": plan }))
            }
        }
    }
}

impl Networks {
    fn request(&self) -> Request {
        let change = |network: &str, terms| Request::versioned(Method::Patch, path(&["networks", network])).body(terms);
        match self {
            Self::List { name, page } => Request::list(path(&["networks"]), page).query("name", name.as_ref()),
            Self::Show { network } => Request::get(path(&["networks", network])),
            Self::Members { network, page } => Request::list(path(&["networks", network, "members"]), page),
            Self::Rename { network, name } => change(network, json!({ "name": name })),
            Self::Lock { network } => change(network, json!({ "locked": true })),
            Self::Unlock { network } => change(network, json!({ "locked": false })),
            Self::Transfer { network, client } => change(network, json!({ "owner": client })),
            Self::Delete { network } => Request::versioned(Method::Delete, path(&["networks", network])),
            Self::Remove { network, client } => {
                Request::new(Method::Delete, path(&["networks", network, "members", client]))
            }
            Self::Ban { network, client } => Request::new(Method::Put, path(&["networks", network, "bans", client])),
            Self::Unban { network, client } => {
                Request::new(Method::Delete, path(&["networks", network, "bans", client]))
            }
            Self::Invites { network } => Request::get(path(&["networks", network, "invites"])),
            Self::Revoke { network, invite } => {
                Request::new(Method::Delete, path(&["networks", network, "invites", invite]))
            }
        }
    }
}

impl Plans {
    fn request(&self) -> Request {
        match self {
            Self::List => Request::get(path(&["plans"])),
            Self::Show { plan } => Request::get(path(&["plans", plan])),
            Self::Create { plan, limits } => {
                let mut body = limits.document();
                body["name"] = json!(plan);
                Request::new(Method::Post, path(&["plans"])).body(body)
            }
            Self::Change { plan, limits, dry_run } => Request::versioned(Method::Put, path(&["plans", plan]))
                .query("dry_run", Some(&dry_run.to_string()))
                .body(limits.document()),
            Self::Delete { plan } => Request::versioned(Method::Delete, path(&["plans", plan])),
        }
    }
}

impl Limits {
    fn document(&self) -> Value {
        json!({
            "members_per_network": self.members,
            "networks_per_client": self.networks,
            "relay_bytes_per_second": self.relay_rate,
            "relay_bytes_per_month": self.relay_quota,
        })
    }
}

impl Sessions {
    fn request(&self) -> Request {
        match self {
            Self::List { page } => Request::list(path(&["sessions"]), page),
            Self::End { client } => Request::new(Method::Delete, path(&["sessions", client])),
            Self::EndMany { gateway, network, dry_run, confirm } => {
                Request::new(Method::Post, path(&["sessions", "end"]))
                    .query("dry_run", Some(&dry_run.to_string()))
                    .body(json!({ "gateway": gateway, "network": network, "confirm": confirm }))
            }
        }
    }
}

impl Relays {
    fn request(&self) -> Request {
        match self {
            Self::List => Request::get(path(&["relays"])),
            Self::Drain { relay } => Request::new(Method::Post, path(&["relays", relay, "drain"])),
            Self::Resume { relay } => Request::new(Method::Post, path(&["relays", relay, "resume"])),
        }
    }
}

impl Usage {
    fn request(&self) -> Request {
        match self {
            Self::List { month, page } => Request::list(path(&["usage"]), page).query("month", month.as_ref()),
            Self::Show { payer } => Request::get(path(&["usage", payer])),
        }
    }
}

impl Tokens {
    fn request(&self) -> anyhow::Result<Request> {
        Ok(match self {
            Self::List { page } => Request::list(path(&["tokens"]), page),
            Self::Create { name, scope, expires } => {
                let lifetime = domain::human_duration::parse(expires)
                    .ok_or_else(|| anyhow::anyhow!("--expires {expires}: a number and s, min, h or d expected"))?;
                let body = json!({ "name": name, "scopes": scope, "lifetime_s": lifetime.as_secs() });
                Request::new(Method::Post, path(&["tokens"])).body(body)
            }
            Self::Revoke { token } => Request::new(Method::Delete, path(&["tokens", token])),
        })
    }
}

impl Audit {
    fn request(&self) -> Request {
        match self {
            Self::List { who, action, object, page } => Request::list(path(&["audit"]), page)
                .query("who", who.as_ref())
                .query("action", action.as_ref())
                .query("object", object.as_ref()),
            Self::Export { after } => {
                Request::get(path(&["audit", "export"])).query("after", after.map(|after| after.to_string()).as_ref())
            }
            Self::Verify { after, digest } => Request::get(path(&["audit", "verify"]))
                .query("after", after.map(|after| after.to_string()).as_ref())
                .query("digest", digest.as_ref()),
        }
    }
}

impl Request {
    pub(crate) fn new(method: Method, path: String) -> Self {
        let (query, headers) = (Vec::new(), Vec::new());
        Self { method, path, query, headers, body: None, is_list: false, most: 0, version_of: None }
    }

    pub(crate) fn get(path: String) -> Self {
        Self::new(Method::Get, path)
    }

    pub(crate) fn list(path: String, page: &Page) -> Self {
        let most = usize::try_from(page.most).unwrap_or(usize::MAX);
        Self { is_list: true, most, ..Self::new(Method::Get, path) }
    }

    /// A change of what is there now.
    pub(crate) fn versioned(method: Method, path: String) -> Self {
        Self { version_of: Some(path.clone()), ..Self::new(method, path) }
    }

    pub(crate) fn query(mut self, name: &'static str, value: Option<&String>) -> Self {
        self.query.extend(value.map(|value| (name, value.clone())));
        self
    }

    pub(crate) fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// The path and the query.
    pub(crate) fn target(&self) -> String {
        let mut target = self.path.clone();
        for (nth, (name, value)) in self.query.iter().enumerate() {
            target.push(if nth == 0 { '?' } else { '&' });
            target += &format!("{name}={}", encoded(value));
        }
        target
    }
}

impl Method {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

pub(crate) fn path(parts: &[&str]) -> String {
    parts.iter().fold("/v1".to_owned(), |path, part| path + "/" + &encoded(part))
}

/// Percent-encodes everything but the unreserved characters (RFC 3986, section 2.3).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nasty_names_stay_in_their_place() {
        let request =
            Request::get(path(&["plans", "../a?b#c%\r\n\u{1f41f}"])).query("nick", Some(&"a&b= c".to_owned()));
        let target = request.target();
        assert_eq!(target, "/v1/plans/..%2Fa%3Fb%23c%25%0D%0A%F0%9F%90%9F?nick=a%26b%3D%20c");
    }
}
