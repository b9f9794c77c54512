//! What a server may make this client do: how many sockets it opens, how many punches it takes part in, and where packets go.
//!
//! An honest server keeps far below all of this. A broken or hostile one must not turn clients into a scanner or a flood.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use domain::{Candidate, ClientId, PunchId, Scope, scope};

/// Counts what was asked for lately.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Of each PREPARE in the last minute: when, and how many sockets.
    asked: VecDeque<(Instant, u16)>,
    /// Punches that are over: an order that comes again is an echo.
    over: VecDeque<PunchId>,
}

impl Limits {
    /// Whether to take part in `punch` with `sockets` fresh sockets, while `running` are under way, some with the same peer.
    pub(super) fn allow(
        &mut self,
        now: Instant,
        punch: PunchId,
        sockets: u16,
        running: impl Iterator<Item = (PunchId, ClientId, usize)> + Clone,
        peer: ClientId,
    ) -> bool {
        let open: usize = running.clone().map(|(.., count)| count).sum();
        let repeated = self.over.contains(&punch) || running.clone().any(|(one, ..)| one.number == punch.number);
        !repeated
            && running.clone().count() < MAX_PUNCHES
            && running.filter(|(_, other, _)| *other == peer).count() < MAX_PUNCHES_WITH_ONE
            && self.allow_sockets(now, sockets, open)
    }

    /// Whether to open `sockets` fresh sockets beside those that are `open`.
    pub(super) fn allow_sockets(&mut self, now: Instant, sockets: u16, open: usize) -> bool {
        while self.asked.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.asked.pop_front();
        }
        let lately: usize = self.asked.iter().map(|(_, count)| usize::from(*count)).sum();
        let allowed = self.asked.len() < MAX_PREPARATIONS
            && lately + usize::from(sockets) <= MAX_SOCKETS_LATELY
            && open + usize::from(sockets) <= MAX_SOCKETS;
        if allowed {
            self.asked.push_back((now, sockets));
        }
        allowed
    }

    /// A punch ended.
    pub(super) fn end(&mut self, punch: PunchId) {
        if self.over.len() == MAX_REMEMBERED {
            self.over.pop_front();
        }
        self.over.push_back(punch);
    }
}

/// Where this client stands, for the question what it may send to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standpoint {
    /// As reflectors see it.
    pub(super) seen: Option<IpAddr>,
    /// The server is on this very machine, so peers may be, too.
    pub(super) loopback: bool,
}

/// Whether punch packets may go to `candidate`: never to many at once, nor to this machine, nor into a private network that
/// neither the server calls local nor this client is seen in.
pub(super) fn may_send(from: Standpoint, candidate: &Candidate) -> bool {
    let Candidate { endpoint, local, .. } = *candidate;
    if endpoint.port() == 0 {
        return false;
    }
    match scope(endpoint.ip()) {
        Scope::Public => true,
        Scope::Private => local || from.seen.is_none_or(|seen| scope(seen) != Scope::Public),
        Scope::Loopback => from.loopback,
        Scope::LinkLocal | Scope::Unusable => false,
    }
}

const WINDOW: Duration = Duration::from_secs(60);
/// A network of 250 that comes up at once, with some that are tried again.
const MAX_PREPARATIONS: usize = 400;
/// One birthday a minute and all the sweeps that fit beside it, doubled.
const MAX_SOCKETS_LATELY: usize = 1024;
const MAX_SOCKETS: usize = 512;
const MAX_PUNCHES: usize = 64;
/// The last one still answers while the next one begins.
const MAX_PUNCHES_WITH_ONE: usize = 3;
const MAX_REMEMBERED: usize = 256;
