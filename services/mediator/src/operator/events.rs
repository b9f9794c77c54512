//! `mediator admin events ...`: what happens, a line each, for as long as somebody wants to know.

use std::{
    io::{self, BufRead as _, Read, Write as _},
    process::ExitCode,
    thread::sleep,
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    commands::{Request, path},
    http::{HttpError, Server, Streamed},
    show,
};

/// Before a stream that ended is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// The longest line of a stream.
const LONGEST_LINE: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// List what can happen.
    Kinds,
    /// Tell what happens, from now on and until the command is ended.
    Follow(Follow),
}

#[derive(Debug, Args)]
pub(crate) struct Follow {
    /// Only these kinds, like member.joined or member.*.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// Only what is about this network.
    #[arg(long)]
    network: Option<String>,
    /// Only what is about this client.
    #[arg(long)]
    client: Option<String>,
    /// Begin after the event with this number; 0: with the oldest that is kept.
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    most: Option<u64>,
}

impl Events {
    pub(crate) fn request(&self) -> Request {
        match self {
            Self::Kinds => Request::get(path(&["events", "kinds"])),
            Self::Follow(follow) => follow.request(follow.after),
        }
    }
}

impl Follow {
    fn request(&self, after: Option<u64>) -> Request {
        let kinds = Some(self.kind.join(",")).filter(|kinds| !kinds.is_empty());
        Request::get(path(&["events"]))
            .query("kind", kinds.as_ref())
            .query("network", self.network.as_ref())
            .query("client", self.client.as_ref())
            .query("after", after.map(|after| after.to_string()).as_ref())
    }
}

/// Prints events until there are enough, or somebody ends the command. A stream that breaks off is asked for again.
pub(crate) fn follow(server: &Server, wanted: &Follow, json: bool) -> anyhow::Result<ExitCode> {
    let (mut after, mut left) = (wanted.after, wanted.most);
    let mut reached = false;
    loop {
        match server.open(&wanted.request(after)) {
            Ok(Streamed::Refused(answer)) if !reached || matches!(answer.status, 400..=428) => {
                return super::refused(&answer, json);
            }
            Ok(Streamed::Refused(_)) => {}
            Err(error) if !reached => return Err(error.into()),
            Err(_) => {}
            Ok(Streamed::Open(stream)) => {
                reached = true;
                for message in Messages::new(stream) {
                    // What breaks off goes on after the last event that was whole.
                    let Ok(message) = message else { break };
                    after = message.id.or(after);
                    let Some(data) = &message.data else { continue };
                    if message.name == "end" {
                        if data["code"] == "unauthorized" {
                            anyhow::bail!("the token is not valid any more");
                        }
                        break;
                    }
                    let mut out = io::stdout().lock();
                    if json {
                        writeln!(out, "{data}")?;
                    } else {
                        writeln!(out, "{}", line(&message.name, data))?;
                    }
                    out.flush()?;
                    left = left.map(|left| left.saturating_sub(1));
                    if left == Some(0) {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
            }
        }
        sleep(AGAIN);
    }
}

/// An event for people.
fn line(name: &str, event: &Value) -> String {
    let at = event["at_ms"].as_u64().map_or_else(String::new, show::instant);
    let subjects = ["client", "peer", "network", "account", "relay", "percent", "after", "oldest"];
    let about = subjects.iter().filter(|subject| !event[**subject].is_null());
    let about: Vec<String> =
        about.map(|subject| format!("{subject}={}", show::word(subject, &event[*subject]))).collect();
    format!("{at}  {}  {}", show::printable(name), about.join(" "))
}

/// One message of a stream.
#[derive(Debug, Default, PartialEq)]
struct Message {
    id: Option<u64>,
    name: String,
    data: Option<Value>,
}

/// The messages of a stream.
struct Messages<R>(io::BufReader<R>);

impl<R: Read> Messages<R> {
    fn new(stream: R) -> Self {
        Self(io::BufReader::new(stream))
    }

    /// `None` at the end.
    fn message(&mut self) -> Result<Option<Message>, HttpError> {
        let mut message = Message::default();
        loop {
            let mut line = String::new();
            let read = self.0.by_ref().take(LONGEST_LINE).read_line(&mut line).map_err(HttpError::Broken)?;
            if read == 0 {
                return Ok(None);
            }
            let line = line.strip_suffix('\n').ok_or(HttpError::Malformed)?.trim_end_matches('\r');
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => return Ok(Some(message)),
                "id" => message.id = Some(value.parse().map_err(|_| HttpError::Malformed)?),
                "event" => value.clone_into(&mut message.name),
                "data" => message.data = Some(serde_json::from_str(value).map_err(|_| HttpError::Malformed)?),
                // Comments, and how soon to come back.
                _ => {}
            }
        }
    }
}

impl<R: Read> Iterator for Messages<R> {
    type Item = Result<Message, HttpError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.message().transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_are_read_whole_or_not_at_all() {
        let text = "retry: 2000\nid: 7\n\n: alive\n\nid: 8\nevent: client.online\ndata: {\"a\":1}\n\nid: 9\nda";
        let mut messages = Messages::new(text.as_bytes());
        let first = messages.next().unwrap().unwrap();
        assert_eq!((first.id, first.data), (Some(7), None));
        assert_eq!(messages.next().unwrap().unwrap(), Message::default());
        let event = Message { id: Some(8), name: "client.online".into(), data: Some(json!({ "a": 1 })) };
        assert_eq!(messages.next().unwrap().unwrap(), event);
        assert!(messages.next().unwrap().is_err(), "the last one broke off");
    }

    #[test]
    fn an_event_is_a_line_and_obeys_nobody() {
        let text =
            line("member.joined", &json!({ "at_ms": 1_795_287_600_000_u64, "client": "ab\u{1b}", "network": null }));
        assert_eq!(text, "2026-11-21 19:00:00  member.joined  client=ab\u{fffd}");
    }
}
