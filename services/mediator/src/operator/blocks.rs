//! `admin blocks`: what is held against whom.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::commands::{Method, Page, Request, path};

/// Whom a block is about.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// New clients from these addresses.
    Prefix,
    /// One client.
    Client,
    /// All clients of an account.
    Account,
    /// Whoever joins a network.
    Network,
}

/// How much is held against it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Degree {
    /// It takes longer.
    Slow,
    /// It takes work.
    Challenge,
    /// It is not possible.
    Refuse,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Blocks {
    /// List those that count.
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Show one.
    Show { block: String },
    /// Hold something against somebody. Every block ends by itself.
    Create {
        kind: Kind,
        /// A prefix like 192.0.2.0/24, or an id.
        target: String,
        degree: Degree,
        /// What the affected are told: one line.
        #[arg(long, required_unless_present = "dry_run")]
        reason: Option<String>,
        /// How long it counts, like 2h: a day without it, and at most a day on addresses.
        #[arg(long = "for", value_name = "TIME")]
        lifetime: Option<String>,
        /// Only tell whom it would touch.
        #[arg(long)]
        dry_run: bool,
        /// The number of clients online, when they are more than one in a hundred.
        #[arg(long, value_name = "N")]
        confirm: Option<u64>,
    },
    /// Change how much one holds against somebody, why, or how long it counts.
    Change {
        block: String,
        #[command(flatten)]
        change: Changes,
    },
    /// Lift one.
    Lift { block: String },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Changes {
    #[arg(long)]
    degree: Option<Degree>,
    /// What the affected are told: one line.
    #[arg(long)]
    reason: Option<String>,
    /// How long it counts from now on, like 2h.
    #[arg(long = "for", value_name = "TIME")]
    lifetime: Option<String>,
    /// The number of clients online, when they are more than one in a hundred.
    #[arg(long, value_name = "N")]
    confirm: Option<u64>,
}

impl Blocks {
    pub(super) fn request(&self) -> anyhow::Result<Request> {
        Ok(match self {
            Self::List { page } => Request::list(path(&["blocks"]), page),
            Self::Show { block } => Request::get(path(&["blocks", block])),
            Self::Create { kind, target, degree, dry_run: true, .. } => Request::get(path(&["blocks", "dry-run"]))
                .query("kind", Some(&word(*kind)))
                .query("target", Some(target))
                .query("degree", Some(&word(*degree))),
            Self::Create { kind, target, degree, reason, lifetime, confirm, dry_run: false } => {
                let body = json!({
                    "kind": word(*kind),
                    "target": target,
                    "degree": word(*degree),
                    "reason": reason,
                    "lifetime_s": seconds(lifetime.as_ref())?,
                    "confirm": confirm,
                });
                Request::new(Method::Post, path(&["blocks"])).body(body)
            }
            Self::Change { block, change } => {
                Request::versioned(Method::Patch, path(&["blocks", block])).body(change.document()?)
            }
            Self::Lift { block } => Request::versioned(Method::Delete, path(&["blocks", block])),
        })
    }
}

impl Changes {
    fn document(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "degree": self.degree.map(word),
            "reason": self.reason,
            "lifetime_s": seconds(self.lifetime.as_ref())?,
            "confirm": self.confirm,
        }))
    }
}

fn seconds(time: Option<&String>) -> anyhow::Result<Option<u64>> {
    let parsed = |time: &String| {
        domain::human_duration::parse(time)
            .map(|time| time.as_secs())
            .ok_or_else(|| anyhow::anyhow!("--for {time}: a number and s, min, h or d expected"))
    };
    time.map(parsed).transpose()
}

/// The word that is written.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        blocks: Blocks,
    }

    #[test]
    fn every_command_is_its_request() {
        let of = |words: &str| {
            let line = Line::try_parse_from(std::iter::once("blocks").chain(words.split(' '))).unwrap();
            let request = line.blocks.request().unwrap();
            (request.method.name(), request.target(), request.body.unwrap_or_default(), request.version_of)
        };
        let (method, target, body, version) = of("create prefix 192.0.2.0/24 challenge --reason spam --for 2h");
        assert_eq!((method, target.as_str(), version), ("POST", "/v1/blocks", None));
        let expected = json!({
            "kind": "prefix", "target": "192.0.2.0/24", "degree": "challenge", "reason": "spam", "lifetime_s": 7_200,
            "confirm": null,
        });
        assert_eq!(body, expected);
        let (method, target, body, _) = of("create prefix 192.0.2.0/24 refuse --dry-run");
        let query = "/v1/blocks/dry-run?kind=prefix&target=192.0.2.0%2F24&degree=refuse";
        assert_eq!((method, target.as_str(), body), ("GET", query, Value::Null));
        let (method, target, body, version) = of("change 07 --degree slow --confirm 3");
        assert_eq!((method, target.as_str(), version.as_deref()), ("PATCH", "/v1/blocks/07", Some("/v1/blocks/07")));
        assert_eq!(body, json!({ "degree": "slow", "reason": null, "lifetime_s": null, "confirm": 3 }));
        assert_eq!(of("lift 07").0, "DELETE");
        for bad in ["create prefix 192.0.2.0/24 refuse", "change 07", "create person 07 slow --reason x"] {
            assert!(Line::try_parse_from(std::iter::once("blocks").chain(bad.split(' '))).is_err(), "{bad}");
        }
        let nonsense = Line::try_parse_from(["blocks", "change", "07", "--for", "soon"]).unwrap();
        assert!(nonsense.blocks.request().is_err());
    }
}
