//! `buri chat`.

use std::{io::Read as _, time::Duration};

use clap::Args;
use client::{
    command::{ChatLine, ChatState, Command, CommandError, Direction},
    core::chat::{MAX_TEXT, Text},
    refusal::utc,
};

use crate::{failed, terminal::shown, word};

/// With a TEXT, sends a message of up to 2,000 bytes through the tunnel to a peer, or to everybody in a network, and prints
/// what becomes of it: delivered (it is on the peer's disk), sent (the peer has not said so; a client without chat never does),
/// waiting (for a peer that is not there, a week at most), failed or expired with a code. Without a TEXT, shows the last messages.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An address, a nickname or an id; or the name or id of a network.
    to: Option<String>,
    /// What to say, or - for standard input. Before words that begin with -, write --.
    #[arg(requires = "to")]
    text: Vec<String>,
    /// Show the last messages, with one peer or all. They count as read then.
    #[arg(long, conflicts_with_all = ["text", "follow"])]
    history: bool,
    /// Show messages as they come, and what becomes of those that are sent, until ended.
    #[arg(long, conflicts_with = "text")]
    follow: bool,
    /// How many to show.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    last: u32,
    /// How long to wait until a message to a peer that is there is delivered.
    #[arg(long, value_name = "TIME", value_parser = crate::duration, default_value = "5s")]
    wait: Duration,
}

impl Arguments {
    pub(crate) fn command(self) -> Result<Command, CommandError> {
        let text = self.text.join(" ");
        match self.to {
            with if self.follow => Ok(Command::FollowChats { with }),
            Some(to) if !self.text.is_empty() => {
                let text = if text == "-" { read_text()? } else { text };
                // What is far too long would not fit through the socket.
                Text::new(text.as_str())?;
                Ok(Command::Chat { to, text, patience_ms: crate::millis(self.wait) })
            }
            with => Ok(Command::Chats { with, last: self.last }),
        }
    }
}

/// What is on standard input, without one line end.
fn read_text() -> Result<String, CommandError> {
    let mut bytes = Vec::new();
    let enough = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX).saturating_add(3);
    let read = std::io::stdin().take(enough).read_to_end(&mut bytes);
    read.map_err(|error| failed(format!("the message cannot be read: {error}")))?;
    let text = bytes.strip_suffix(b"\n").map_or(bytes.as_slice(), |line| line.strip_suffix(b"\r").unwrap_or(line));
    let text = String::from_utf8(text.to_vec());
    text.map_err(|_| CommandError::new(CommandError::MESSAGE_INVALID, "a message is text in UTF-8, not too long"))
}

/// What became of a message that was just sent.
pub(crate) fn outcome_text(line: &ChatLine) -> String {
    match (&line.reason, line.state) {
        (Some(reason), state) => format!("{} ({reason})", word(&state)),
        (None, ChatState::Waiting) => "waiting: it goes out when the peer is there".to_owned(),
        (None, ChatState::Sent) => "sent: the peer has not said yet that it has it".to_owned(),
        (None, state) => word(&state),
    }
}

/// The same for each member of a network.
pub(crate) fn outcomes_text(lines: &[ChatLine]) -> String {
    let lines = lines.iter().map(|line| format!("{:<32} {}", name(line), outcome_text(line)));
    lines.collect::<Vec<_>>().join("\n")
}

pub(crate) fn history_text(lines: &[ChatLine]) -> String {
    lines.iter().map(line_text).collect::<Vec<_>>().join("\n")
}

/// One message.
pub(crate) fn line_text(line: &ChatLine) -> String {
    let (at, name, text) = (utc(line.at_ms), name(line), shown(&line.text));
    match line.direction {
        Direction::In => format!("{at}  {name}: {text}"),
        Direction::Out => format!("{at}  to {name} ({}): {text}", word(&line.state)),
    }
}

fn name(line: &ChatLine) -> String {
    line.nick.as_ref().map_or_else(|| line.peer.to_string(), |nick| nick.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use domain::{ClientId, MessageId, UnixMillis};

    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_it_says() {
        let line = ChatLine {
            id: MessageId::from_bytes([7; 16]),
            peer: ClientId::from_bytes([1; 16]),
            nick: Some("anna".parse().unwrap()),
            direction: Direction::In,
            text: "hi\u{1b}[2J".to_owned(),
            state: ChatState::Received,
            reason: None,
            sent_ms: UnixMillis(0),
            at_ms: UnixMillis(60_000),
            unread: true,
        };
        assert_eq!(line_text(&line), "1970-01-01 00:01 UTC  anna: hi\\u{1b}[2J");
        let failed = ChatLine {
            direction: Direction::Out,
            state: ChatState::Failed,
            reason: Some("peer-unknown".into()),
            nick: None,
            ..line.clone()
        };
        assert_eq!(outcome_text(&failed), "failed (peer-unknown)");
        assert!(line_text(&failed).ends_with(&format!("to {} (failed): hi\\u{{1b}}[2J", line.peer)));
        let shown = serde_json::to_value(&line).unwrap();
        let expected = serde_json::json!({
            "id": "07".repeat(16), "peer": "01".repeat(16), "nick": "anna", "direction": "in", "text": "hi\u{1b}[2J",
            "state": "received", "sent_ms": 0, "at_ms": 60_000, "unread": true,
        });
        assert_eq!(shown, expected);
    }
}
