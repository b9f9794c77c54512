//! Commands that wait for something: a path, or the answers to pings.

use std::time::Duration;

use domain::ClientId;
use tokio::time::Instant;
use tunnel::Route;

use super::requests::{Answers, refuse};
use crate::{
    command::{Answer, CommandError, PathKind, PathWanted, Pong, Waited},
    core::Core,
};

/// The commands under way.
#[derive(Debug, Default)]
pub(super) struct Watches {
    waits: Vec<Wait>,
    pings: Vec<Ping>,
}

#[derive(Debug)]
struct Wait {
    /// As it was typed: who that is may become known while waiting.
    peer: String,
    path: PathWanted,
    since: Instant,
    until: Instant,
    answers: Answers,
}

#[derive(Debug)]
struct Ping {
    peer: ClientId,
    left: u32,
    sequence: u32,
    interval: Duration,
    next: Instant,
    /// The probe under way; none while the peer has no tunnel.
    number: Option<u64>,
    sent: Instant,
    answers: Answers,
    answered: bool,
}

impl Watches {
    pub(super) fn wait(&mut self, now: Instant, peer: String, path: PathWanted, limit: Duration, answers: Answers) {
        self.waits.push(Wait { peer, path, since: now, until: now + limit, answers });
    }

    pub(super) fn ping(&mut self, now: Instant, peer: ClientId, count: u32, interval: Duration, answers: Answers) {
        let interval = interval.max(LEAST_INTERVAL);
        let ping = Ping {
            peer,
            left: count,
            sequence: 0,
            interval,
            next: now,
            number: None,
            sent: now,
            answers,
            answered: true,
        };
        self.pings.push(ping);
    }

    /// Looks whether a path is there by now.
    pub(super) fn look(&mut self, now: Instant, core: &Core) {
        self.waits.retain(|wait| {
            let peer = core.resolve(&wait.peer).ok().and_then(|id| core.peer(id));
            let path = peer.map_or(PathKind::None, |peer| peer.path);
            if wait.path.met_by(path) {
                let after = now.saturating_duration_since(wait.since).as_millis();
                let waited = Waited { path, after_ms: u64::try_from(after).unwrap_or(u64::MAX) };
                drop(wait.answers.try_send(Ok(Answer::Waited(waited))));
                return false;
            }
            if wait.until <= now {
                refuse(&wait.answers, CommandError::new(CommandError::TIMED_OUT, "there is no such path yet"));
                return false;
            }
            !wait.answers.is_closed()
        });
    }

    /// Sends what is due.
    pub(super) fn handle_deadline(&mut self, now: Instant, core: &mut Core) {
        for ping in &mut self.pings {
            ping.handle_deadline(now, core);
        }
        self.pings.retain(|ping| !ping.is_over());
        self.look(now, core);
    }

    /// A probe was answered.
    pub(super) fn handle_pong(&mut self, number: u64, rtt: Duration, route: Route) {
        for ping in self.pings.iter_mut().filter(|ping| ping.number == Some(number)) {
            let path = match route {
                Route::Direct => PathKind::Direct,
                Route::Relay => PathKind::Relay,
            };
            ping.answer(Some(rtt), path);
        }
        self.pings.retain(|ping| !ping.is_over());
    }

    pub(super) fn poll_deadline(&self) -> Option<Instant> {
        let pings = self.pings.iter().map(Ping::due);
        self.waits.iter().map(|wait| wait.until).chain(pings).min()
    }
}

impl Ping {
    fn handle_deadline(&mut self, now: Instant, core: &mut Core) {
        if !self.answered && self.sent + PATIENCE <= now {
            self.answer(None, PathKind::None);
        }
        if self.answered && self.left > 0 && self.next <= now {
            self.number = core.ping(now.into_std(), self.peer);
            self.sent = now;
            self.next = now + self.interval;
            self.answered = false;
        } else if !self.answered && self.number.is_none() && self.sent + PATIENCE > now {
            // No tunnel at first: the ping itself asked for one.
            self.number = core.ping(now.into_std(), self.peer);
        }
    }

    fn due(&self) -> Instant {
        match (self.answered, self.number) {
            (true, _) => self.next,
            (false, Some(_)) => self.sent + PATIENCE,
            (false, None) => (self.sent + PATIENCE).min(Instant::now() + LEAST_INTERVAL),
        }
    }

    fn answer(&mut self, rtt: Option<Duration>, path: PathKind) {
        self.answered = true;
        self.number = None;
        self.left -= 1;
        let rtt_ms = rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0);
        drop(self.answers.try_send(Ok(Answer::Pong(Pong { seq: self.sequence, rtt_ms, path }))));
        self.sequence += 1;
        if self.left == 0 {
            drop(self.answers.try_send(Ok(Answer::DONE)));
        }
    }

    fn is_over(&self) -> bool {
        self.left == 0 || self.answers.is_closed()
    }
}

/// How long an answer to a ping may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two pings.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);
