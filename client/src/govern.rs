//! The sub-commands of owners and admins.

use std::time::Duration;

use clap::Subcommand;
use client::command::{
    AdmissionsView, Agreed, Command, Govern, MemberLine, NewKind, NewRole, RouteLine, Status, Switch,
};
use domain::{InviteId, NetworkName, NewInvite, Outsider, Prefix, Route};

/// A peer is an address, a nickname or an id.
#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    /// Show who is in a network, and as what.
    Members { network: NetworkName },
    /// Remove a member, who may come back.
    Evict { peer: String, network: NetworkName },
    /// Remove somebody for good.
    Ban { peer: String, network: NetworkName },
    /// Let somebody who is banned join again.
    Unban { peer: String, network: NetworkName },
    /// Show who waits for approval, who is banned, and what invites there are.
    Admissions { network: NetworkName },
    /// Make a link that lets somebody in without the password, also where approval is asked for.
    Invite {
        network: NetworkName,
        /// How many it lets in.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(NewInvite::MAX_USES)))]
        uses: u32,
        /// A number with its unit, such as 12h or 7d; at most 366d.
        #[arg(long, value_parser = super::duration, default_value = "7d")]
        expires: Duration,
    },
    /// Show the invites of a network that may still let somebody in.
    Invites { network: NetworkName },
    /// Make an invite worthless.
    Revoke { invite: InviteId, network: NetworkName },
    /// Let an applicant in.
    Approve { peer: String, network: NetworkName },
    /// Send an applicant away.
    Reject { peer: String, network: NetworkName },
    /// Ask for approval before anybody becomes a member, or no more.
    Approval {
        network: NetworkName,
        #[arg(value_enum)]
        wanted: Approval,
    },
    /// Take nobody in any more.
    Lock { network: NetworkName },
    /// Take people in again.
    Unlock { network: NetworkName },
    /// Give a network another name; its password stays.
    Rename { network: NetworkName, name: NetworkName },
    /// Make a member an admin, or an admin a member.
    Role {
        peer: String,
        network: NetworkName,
        #[arg(value_enum)]
        role: NewRole,
    },
    /// Say which members meet: all, or spokes hubs only, or members gateways only, and the networks behind these.
    Kind {
        network: NetworkName,
        #[arg(value_enum)]
        kind: NewKind,
    },
    /// Make a member a hub, or a spoke, in a network of the kind hub.
    Hub {
        peer: String,
        network: NetworkName,
        #[arg(value_enum)]
        hub: Switch,
    },
    /// Have a member stay seated before others when the plan allows fewer members than there are, or not.
    Keep {
        peer: String,
        network: NetworkName,
        #[arg(value_enum)]
        keep: Switch,
    },
    /// Name the networks that a member leads the others to, in a network of the kind gateway. Its own machine has to agree.
    Gateway {
        peer: String,
        network: NetworkName,
        /// Private prefixes such as 192.168.50.0/24 or fd12:3456:789a::/64; or off, and it leads nowhere any more.
        #[arg(required = true)]
        prefixes: Vec<Leads>,
    },
    /// Let this machine lead members of a network to networks behind it, or no more.
    Route {
        network: NetworkName,
        #[arg(value_enum)]
        lead: Switch,
        /// Where to, and nowhere else; by default what an owner or admin has named by now.
        prefixes: Vec<Prefix>,
    },
    /// Make another member the owner.
    Transfer { peer: String, network: NetworkName },
    /// Delete a network for all its members.
    Delete { network: NetworkName },
}

/// A prefix, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leads {
    Off,
    To(Prefix),
}

impl std::str::FromStr for Leads {
    type Err = domain::ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::To) }
    }
}

/// Whether somebody has to approve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Approval {
    Ask,
    Waive,
}

impl Subcommands {
    /// What the daemon is asked.
    pub(crate) fn command(self) -> Command {
        let (network, wish) = match self {
            Self::Members { network } => return Command::Members { network },
            Self::Admissions { network } => return Command::Admissions { network },
            Self::Invite { network, uses, expires } => {
                let lifetime_s = u32::try_from(expires.as_secs()).unwrap_or(u32::MAX);
                return Command::Invite { network, uses, lifetime_s };
            }
            Self::Invites { network } => return Command::Admissions { network },
            Self::Revoke { invite, network } => (network, Govern::Revoke { invite }),
            Self::Evict { peer, network } => (network, Govern::Evict { peer }),
            Self::Ban { peer, network } => (network, Govern::Ban { peer }),
            Self::Unban { peer, network } => (network, Govern::Unban { peer }),
            Self::Approve { peer, network } => (network, Govern::Approve { peer }),
            Self::Reject { peer, network } => (network, Govern::Reject { peer }),
            Self::Approval { network, wanted: Approval::Ask } => (network, Govern::AskApproval),
            Self::Approval { network, wanted: Approval::Waive } => (network, Govern::WaiveApproval),
            Self::Lock { network } => (network, Govern::Lock),
            Self::Unlock { network } => (network, Govern::Unlock),
            Self::Rename { network, name } => (network, Govern::Rename { name }),
            Self::Role { peer, network, role } => (network, Govern::Role { peer, role }),
            Self::Kind { network, kind } => (network, Govern::Kind { kind }),
            Self::Hub { peer, network, hub } => (network, Govern::Hub { peer, hub }),
            Self::Keep { peer, network, keep } => (network, Govern::Keep { peer, keep }),
            Self::Gateway { peer, network, prefixes } => {
                let prefixes = prefixes.into_iter().filter_map(|leads| match leads {
                    Leads::Off => None,
                    Leads::To(prefix) => Some(prefix),
                });
                (network, Govern::Gateway { peer, prefixes: prefixes.collect() })
            }
            Self::Route { network, lead, prefixes } => return Command::Route { network, lead, prefixes },
            Self::Transfer { peer, network } => (network, Govern::Transfer { peer }),
            Self::Delete { network } => (network, Govern::Delete),
        };
        Command::Govern { network, wish }
    }
}

pub(crate) fn members_text(members: &[MemberLine]) -> String {
    let lines = members.iter().map(|member| {
        let nick = member.nick.as_ref().map_or("-", |nick| nick.as_str());
        let hub = if member.hub { "a hub" } else { "" };
        let own = if member.own { "this machine" } else { "" };
        let seat = if member.seated { "" } else { " no seat" };
        let kept = if member.kept { " kept" } else { "" };
        let leads = member.routes.iter().map(|Route { prefix, agreed }| {
            if *agreed { format!(" leads to {prefix}") } else { format!(" is to lead to {prefix}") }
        });
        let leads: String = leads.collect();
        format!("{} {:<7} {nick:<32} {hub:<5} {own}{seat}{kept}{leads}", member.id, super::word(&member.role))
            .trim_end()
            .to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The networks behind members, for the status.
pub(crate) fn routes_text(status: &Status) -> String {
    let line = |RouteLine { network, gateway, prefix, state, detail }: &RouteLine| {
        let by = if *gateway == status.id { "this machine".to_owned() } else { gateway.to_string() };
        let detail = detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        format!("\nroute     {prefix} by {by}, {network}: {}{detail}", state.text())
    };
    status.routes.iter().map(line).collect()
}

pub(crate) fn agreed_text(agreed: &Agreed) -> String {
    if agreed.agreed.is_empty() {
        return "this machine leads nowhere".to_owned();
    }
    let prefixes: Vec<_> = agreed.agreed.iter().map(Prefix::to_string).collect();
    format!("this machine leads to {} and nowhere else", prefixes.join(", "))
}

pub(crate) fn admissions_text(lists: &AdmissionsView) -> String {
    let line = |what: &str, outsider: &Outsider| {
        let nick = outsider.nick.as_ref().map_or("-", |nick| nick.as_str());
        format!("{} {what:<7} {nick}", outsider.client)
    };
    let waiting = lists.applicants.iter().map(|outsider| line("waits", outsider));
    let banned = lists.bans.iter().map(|outsider| line("banned", outsider));
    let invites = lists
        .invites
        .iter()
        .map(|invite| format!("{} invite  {} of {} uses left", invite.id, invite.remaining, invite.uses));
    let lines: Vec<_> = waiting.chain(banned).chain(invites).collect();
    if lines.is_empty() {
        "nobody waits, nobody is banned, and there are no invites".to_owned()
    } else {
        lines.join("\n")
    }
}
