//! `mediator admin webhooks ...`: programs that are told what happens.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::commands::{Method, Page, Request, path};

#[derive(Debug, Subcommand)]
pub(crate) enum Webhooks {
    /// List them, and how they do.
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Show one.
    Show { webhook: String },
    /// Make one, whose secret is shown once.
    Create {
        /// Where events are posted to.
        #[arg(value_name = "URL")]
        to: String,
        /// For people.
        #[arg(long, default_value = "made on the command line")]
        name: String,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Change what one is told, and where.
    Change {
        webhook: String,
        /// Where events are posted to.
        #[arg(long, value_name = "URL")]
        to: Option<String>,
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Tell one nothing for now.
    Pause { webhook: String },
    /// Tell one again, beginning with what it was not told yet.
    Resume { webhook: String },
    /// Delete one, and what it was not told.
    Delete { webhook: String },
    /// Send one an event that never happened.
    Test { webhook: String },
    /// Make another secret, which is shown once; the one before counts, too, for a while.
    Rotate { webhook: String },
    /// List what one was told lately, and what was given up.
    Deliveries {
        webhook: String,
        /// Only those that are taken, retrying, replaying or dead.
        #[arg(long)]
        state: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Send one event again, or without EVENT all that were given up.
    Replay { webhook: String, event: Option<String> },
}

/// What a webhook is told.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// Only these kinds, like member.joined or member.*; without it all.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Option<Vec<String>>,
    /// Only what is about these networks, or those accounts.
    #[arg(long, value_delimiter = ',')]
    network: Option<Vec<String>>,
    #[arg(long, value_delimiter = ',')]
    account: Option<Vec<String>>,
}

impl Webhooks {
    pub(crate) fn request(&self) -> Request {
        let of = |webhook: &str| path(&["webhooks", webhook]);
        let paused = |webhook: &str, paused: bool| {
            Request::versioned(Method::Patch, of(webhook)).body(json!({ "paused": paused }))
        };
        match self {
            Self::List { page } => Request::list(path(&["webhooks"]), page),
            Self::Show { webhook } => Request::get(of(webhook)),
            Self::Create { to, name, wanted } => {
                Request::new(Method::Post, path(&["webhooks"])).body(wanted.document(Some(name), Some(to)))
            }
            Self::Change { webhook, to, name, wanted } => {
                Request::versioned(Method::Patch, of(webhook)).body(wanted.document(name.as_ref(), to.as_ref()))
            }
            Self::Pause { webhook } => paused(webhook, true),
            Self::Resume { webhook } => paused(webhook, false),
            Self::Delete { webhook } => Request::versioned(Method::Delete, of(webhook)),
            Self::Test { webhook } => Request::new(Method::Post, path(&["webhooks", webhook, "test"])),
            Self::Rotate { webhook } => {
                let mut secret = Request::new(Method::Post, path(&["webhooks", webhook, "secret"]));
                secret.version_of = Some(of(webhook));
                secret
            }
            Self::Deliveries { webhook, state, page } => {
                Request::list(path(&["webhooks", webhook, "deliveries"]), page).query("state", state.as_ref())
            }
            Self::Replay { webhook, event: None } => Request::new(Method::Post, path(&["webhooks", webhook, "replay"])),
            Self::Replay { webhook, event: Some(event) } => {
                Request::new(Method::Post, path(&["webhooks", webhook, "deliveries", event, "replay"]))
            }
        }
    }
}

impl Wanted {
    /// What is named, and nothing else.
    fn document(&self, name: Option<&String>, url: Option<&String>) -> Value {
        let lists = [("kinds", &self.kind), ("networks", &self.network), ("accounts", &self.account)];
        let lists = lists.into_iter().filter_map(|(field, list)| Some((field.to_owned(), json!(list.as_ref()?))));
        let texts = [("name", name), ("url", url)];
        let texts = texts.into_iter().filter_map(|(field, text)| Some((field.to_owned(), json!(text?))));
        lists.chain(texts).collect::<Map<_, _>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_sent() {
        let none = Wanted { kind: None, network: None, account: None };
        assert_eq!(none.document(None, None), json!({}));
        let some = Wanted { kind: Some(vec!["member.*".into()]), ..none };
        let url = "https://example.test/".to_owned();
        assert_eq!(some.document(None, Some(&url)), json!({ "kinds": ["member.*"], "url": url }));
        let again = Webhooks::Replay { webhook: "a".into(), event: Some("b/c".into()) };
        assert_eq!(again.request().target(), "/v1/webhooks/a/deliveries/b%2Fc/replay");
    }
}
