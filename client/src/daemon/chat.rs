//! Messages: commands that send and show them, and those who wait for news of them.

use std::time::{Duration, SystemTime};

use domain::{ClientId, NetworkId, UnixMillis};
use tokio::{sync::mpsc::error::TrySendError, time::Instant};
use wire::Code;

use super::{
    Daemon, Work,
    requests::{Answers, refuse},
};
use crate::{
    command::{Answer, ChatLine, CommandError},
    core::{
        Core, NoPeer,
        chat::{Entry, State, Text},
    },
    home::{Home, HomeError},
};

/// Commands that wait for news.
#[derive(Debug, Default)]
pub(super) struct Chatting {
    waits: Vec<Wait>,
    followers: Vec<Follower>,
}

/// Until something came of messages.
#[derive(Debug)]
struct Wait {
    numbers: Vec<u64>,
    /// A peer was named, not a network.
    one: bool,
    until: Instant,
    answers: Answers,
}

#[derive(Debug)]
struct Follower {
    with: Option<ClientId>,
    /// The last change it was told of.
    told: u64,
    answers: Answers,
}

impl Daemon {
    /// Sends a message to a peer, or to everybody in a network.
    pub(super) fn chat(&mut self, at: Instant, to: &str, text: String, patience: Duration, answers: Answers) {
        let Some((peers, one)) = self.addressees(to, &answers) else { return };
        let text = match Text::new(text) {
            Ok(text) => text,
            Err(error) => return refuse(&answers, error.into()),
        };
        match self.core.chat(at.into_std(), &peers, &text) {
            Ok(numbers) => self.chatting.waits.push(Wait { numbers, one, until: at + patience.min(LONGEST), answers }),
            Err(error) => refuse(&answers, CommandError::new(CommandError::MESSAGES_FULL, error.to_string())),
        }
    }

    /// Shows the last messages.
    pub(super) fn show_chats(&mut self, with: Option<&str>, last: u32, answers: &Answers) {
        let Some(with) = self.partner(with, answers) else { return };
        let wanted = self.core.chats().rev().filter(|entry| with.is_none_or(|with| entry.peer == with));
        let mut entries: Vec<_> = wanted.take(usize::try_from(last).unwrap_or(usize::MAX)).collect();
        entries.reverse();
        let lines = entries.iter().map(|entry| line(&self.core, entry)).collect();
        let shown: Vec<_> = entries.iter().map(|entry| entry.number).collect();
        drop(answers.try_send(Ok(Answer::Chats(lines))));
        shown.into_iter().for_each(|number| self.core.note_chat_read(number));
    }

    /// Shows messages as they come, and what became of those that were sent.
    pub(super) fn follow_chats(&mut self, with: Option<&str>, answers: Answers) {
        let Some(with) = self.partner(with, &answers) else { return };
        self.chatting.followers.push(Follower { with, told: self.core.chat_changes(), answers });
    }

    pub(super) fn look_at_chats(&mut self) {
        self.chatting.look(Instant::now(), &mut self.core);
    }

    pub(super) fn keep_chats(&mut self, bytes: Vec<u8>) {
        let home = self.home.clone();
        self.work.spawn_blocking(move || Work::ChatsKept(home.save_bytes(CHATS, &bytes)));
    }

    pub(super) fn chats_kept(&mut self, kept: Result<(), HomeError>) {
        if let Err(error) = &kept {
            tracing::error!(%error, "messages could not be kept");
        }
        self.core.handle_chats_kept(super::now(), kept.is_ok());
    }

    /// At the end, whatever was under way.
    pub(super) fn keep_last_chats(&self) -> Result<(), HomeError> {
        let any = self.core.chats().next().is_some();
        if any { self.home.save_bytes(CHATS, &self.core.kept_chats()) } else { Ok(()) }
    }

    /// Whom a word means, and whether it is a peer that it names.
    fn addressees(&self, word: &str, answers: &Answers) -> Option<(Vec<ClientId>, bool)> {
        let network = word.parse().ok().and_then(|name| self.core.network_named(&name));
        let numbered = word.parse().ok().filter(|id: &NetworkId| self.core.networks().any(|one| one.id == *id));
        match (self.core.resolve(word), network.or(numbered)) {
            (Err(NoPeer::Unknown), Some(network)) => {
                let met = self.core.met_in(network);
                if met.is_empty() {
                    let nobody = "there is nobody in this network to talk to";
                    refuse(answers, CommandError::new(Code::PeerUnknown.name(), nobody));
                }
                Some((met, false)).filter(|(met, _)| !met.is_empty())
            }
            (_, Some(_)) => {
                let both = "a peer and a network are called so: use the id of the one that is meant";
                refuse(answers, CommandError::new(CommandError::PEER_AMBIGUOUS, both));
                None
            }
            (_, None) => self.resolve(word, answers).map(|peer| (vec![peer], true)),
        }
    }

    /// The peer whose messages are wanted, if not everybody's. Also one that is met no more, by its id.
    fn partner(&self, with: Option<&str>, answers: &Answers) -> Option<Option<ClientId>> {
        let Some(word) = with else { return Some(None) };
        let former = word.parse().ok().filter(|id: &ClientId| self.core.chats().any(|entry| entry.peer == *id));
        former.or_else(|| self.resolve(word, answers)).map(Some)
    }
}

impl Chatting {
    fn look(&mut self, now: Instant, core: &mut Core) {
        self.waits.retain(|wait| !wait.is_over(now, core));
        for follower in &mut self.followers {
            follower.look(core);
        }
        self.followers.retain(|follower| !follower.answers.is_closed());
    }

    pub(super) fn poll_deadline(&self) -> Option<Instant> {
        self.waits.iter().map(|wait| wait.until).min()
    }
}

impl Wait {
    /// Answers when there is no more to come, or not soon.
    fn is_over(&self, now: Instant, core: &Core) -> bool {
        let entries: Vec<_> = self.numbers.iter().filter_map(|number| core.chat_numbered(*number)).collect();
        let settled = |entry: &&Entry| {
            let away = || core.peer(entry.peer).is_none_or(|peer| peer.presence == domain::PeerPresence::Offline);
            let kept = core.is_chat_kept(entry.number);
            !entry.state.is_open() || kept && (self.until <= now || entry.state == State::Waiting && away())
        };
        if !entries.iter().all(settled) {
            return self.answers.is_closed();
        }
        let mut lines = entries.into_iter().map(|entry| line(core, entry));
        let answer = match lines.next() {
            Some(first) if self.one => match first.failure() {
                Some(failure) => Err(failure),
                None => Ok(Answer::Chat(Box::new(first))),
            },
            first => Ok(Answer::Chats(first.into_iter().chain(lines).collect())),
        };
        drop(self.answers.try_send(answer));
        true
    }
}

impl Follower {
    /// Tells what is new; what finds no room is told in the next turn.
    fn look(&mut self, core: &mut Core) {
        if core.chat_changes() == self.told {
            return;
        }
        let mut news: Vec<_> = core.chats().filter(|entry| entry.changed > self.told).collect();
        news.sort_unstable_by_key(|entry| entry.changed);
        let wanted = |entry: &&Entry| !entry.state.is_open() && self.with.is_none_or(|with| entry.peer == with);
        let news: Vec<_> = news.into_iter().filter(wanted).map(|e| (e.number, e.changed, line(core, e))).collect();
        for (number, changed, line) in news {
            if let Err(TrySendError::Full(_)) = self.answers.try_send(Ok(Answer::ChatNews(Box::new(line)))) {
                return;
            }
            self.told = changed;
            core.note_chat_read(number);
        }
        self.told = core.chat_changes();
    }
}

fn line(core: &Core, entry: &Entry) -> ChatLine {
    ChatLine::new(entry, core.peer(entry.peer).and_then(|peer| peer.member.nick.clone()))
}

/// What the last run kept. What does not read back is left where it is until there is something newer.
pub(super) fn restore(core: &mut Core, home: &Home, now: std::time::Instant) -> Result<(), HomeError> {
    core.handle_clock(now, wall_clock());
    if let Some(kept) = home.load_bytes(CHATS)?
        && let Err(error) = core.restore_chats(now, &kept)
    {
        tracing::warn!(%error, "the messages of the last run do not read back");
    }
    Ok(())
}

pub(super) fn wall_clock() -> UnixMillis {
    SystemTime::now().into()
}

/// A command waits no longer.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
const CHATS: &str = "chats.cbor";
