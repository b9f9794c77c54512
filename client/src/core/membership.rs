//! Who is a member, by what the deployment signed: a removal holds between peers while no server answers.
//!
//! The server's word comes first: whoever it names in a network at a revision was a member then. Two statements add to that
//! where a client is away from the servers, both signed by the deployment, whose keys a client learns at its logins and keeps:
//!
//! - **Removals** name who is a member no more, up to a revision of the network, which is the epoch that everything here is
//!   compared by. Servers send them whenever members come or go. Clients pass the newest on over living tunnels, to peers that
//!   may not have it from a server: in answer to what a peer says that it has, when its session breaks, when their own does.
//! - A **ticket** says that this client was a member at a revision. It is shown to each peer with a new tunnel, and asked of
//!   the server anew when half its day is over.
//!
//! Of a peer is known up to which revision it was a member: the server's word or its own ticket, whichever is newer.
//!
//! - Removed after that: it is a member of that network no more, at once, for old tunnels and new ones. With no other common
//!   network the tunnel ends. Its own word does not bring it back; newer removals that do not name it, or a server, do.
//! - The removals begin later than that, because more left than they name: it may have been removed unseen. It has a minute to
//!   show a newer ticket if its tunnel lives, and none if it is new; until then no packets pass.
//! - Otherwise it is a member.
//!
//! So a network of which nobody was removed stays as it is through any outage, restarts included, whatever has expired: age
//! alone ends nothing. A ticket that has expired is no *new* evidence, and that is all. Nobody can make others believe what
//! the deployment did not sign, and an older statement than the one at hand changes nothing. A removal reaches a client away
//! from the servers as soon as anybody who knows of it has a tunnel to it; until then it cannot know, and whoever was removed can
//! keep talking to it. Time is the server's, as told at the last login, so that a wrong clock here does no harm.
//!
//! Bounds: a peer gets one signature check in ten seconds, sixteen at once; 32 removals are named and 4,096 remembered for each
//! network; what one peer lacks it is sent eight times at most, ever more rarely.

mod gossip;
#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use domain::{
    ClientId, MAX_MEMBERSHIP_KEYS, MembershipKey, MembershipTicket, NetworkId, Removals, Revision, Signed,
    TICKET_LIFETIME, UnixMillis,
};
use minicbor::{Decode, Encode};
use rand::Rng as _;
use wire::Code;

use super::{Core, Output, view::Acquaintance};
use gossip::Gossip;

/// What is proven, and to whom it is told.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    keys: Vec<MembershipKey>,
    known: BTreeMap<NetworkId, Known>,
    /// The server's, and when it said so.
    clock: Option<(Instant, UnixMillis)>,
    /// When the server is asked.
    due: BTreeMap<NetworkId, Instant>,
    /// It was, and is not again before.
    asked: BTreeMap<NetworkId, Instant>,
    gossip: Gossip,
}

/// Of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Known {
    #[n(0)]
    removals: Option<Signed<Removals>>,
    /// This client's own.
    #[n(1)]
    ticket: Option<Signed<MembershipTicket>>,
    /// With which revision somebody was removed last.
    #[n(2)]
    removed: BTreeMap<ClientId, Revision>,
    /// Who was removed with this revision or before it may not be in `removed`.
    #[n(3)]
    floor: Revision,
    /// The newest tickets that peers showed.
    #[n(4)]
    shown: BTreeMap<ClientId, Revision>,
}

/// What is kept over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedMemberships {
    #[n(0)]
    keys: Vec<MembershipKey>,
    #[n(1)]
    known: BTreeMap<NetworkId, Known>,
    #[n(2)]
    clock: UnixMillis,
}

/// What becomes of a peer in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Member,
    /// It may have been removed, unseen.
    Unproven,
    Removed,
}

impl Memberships {
    /// A session began.
    pub(super) fn handle_session(&mut self, now: Instant, time: UnixMillis, keys: &[MembershipKey]) {
        // It does not go back by what clocks of servers differ; by more, what is remembered was a mistake.
        let known = self.time(now);
        let time = if known > time.plus(TICKET_LIFETIME) { time } else { time.max(known) };
        self.clock = Some((now, time));
        self.asked.clear();
        if keys.is_empty() || self.keys == keys {
            return;
        }
        if !self.keys.is_empty() && !keys.iter().any(|key| self.keys.contains(key)) {
            tracing::warn!("the server signs memberships with keys that were never announced; its word is taken");
        }
        self.keys = keys.iter().copied().take(MAX_MEMBERSHIP_KEYS).collect();
    }

    pub(super) fn restore(&mut self, now: Instant, saved: SavedMemberships) {
        self.keys = saved.keys;
        self.known = saved.known;
        self.clock = Some((now, saved.clock));
    }

    pub(super) fn save(&self) -> SavedMemberships {
        let clock = self.clock.map_or(UnixMillis(0), |(_, time)| time);
        SavedMemberships { keys: self.keys.clone(), known: self.known.clone(), clock }
    }

    /// The tunnel to a peer is up.
    pub(super) fn handle_established(&mut self, now: Instant, peer: ClientId) {
        self.gossip.handle_established(now, peer);
    }

    /// A peer is away from the servers, or seems so.
    pub(super) fn handle_away(&mut self, now: Instant, peer: ClientId) {
        self.gossip.handle_away(now, peer);
    }

    /// This client is.
    pub(super) fn handle_alone(&mut self, now: Instant) {
        self.gossip.handle_news(now);
    }

    /// A peer is none any more.
    pub(super) fn forget(&mut self, peer: ClientId) {
        self.gossip.forget(peer);
    }

    /// At least so late is it at the server.
    fn time(&self, now: Instant) -> UnixMillis {
        self.clock.map_or(UnixMillis(0), |(told, time)| time.plus(now.saturating_duration_since(told)))
    }

    /// Who is no member of any of the networks is taken out. `told` is what the server said last of each network.
    pub(super) fn filter(&self, peers: &mut BTreeMap<ClientId, Acquaintance>, told: impl Fn(NetworkId) -> Revision) {
        peers.retain(|client, about| {
            about.networks.retain(|network| self.verdict(*network, *client, told(*network)) != Verdict::Removed);
            !about.networks.is_empty()
        });
    }

    fn verdict(&self, network: NetworkId, client: ClientId, told: Revision) -> Verdict {
        let Some(known) = self.known.get(&network) else { return Verdict::Member };
        let vouched = known.shown.get(&client).copied().unwrap_or_default().max(told);
        if known.removed.get(&client).is_some_and(|removed| *removed > vouched) {
            Verdict::Removed
        } else if known.floor > vouched {
            Verdict::Unproven
        } else {
            Verdict::Member
        }
    }

    /// Of which revision the removals of a network are.
    fn revision(&self, network: NetworkId) -> Revision {
        let removals = self.known.get(&network).and_then(|known| known.removals.as_ref());
        removals.map_or(Revision::ZERO, |removals| removals.claim().revision)
    }

    /// Takes removals that are newer than those at hand and signed.
    fn take_removals(&mut self, signed: &Signed<Removals>) -> bool {
        let claimed = signed.claim();
        if claimed.revision <= self.revision(claimed.network) {
            return false;
        }
        let Ok(removals) = signed.verify(&self.keys) else { return false };
        let before = self.revision(removals.network);
        let known = self.known.entry(removals.network).or_default();
        // Above its floor the newer list is complete: who is not in it came back.
        known.removed.retain(|_, removed| *removed <= removals.floor);
        known.removed.extend(removals.removed.iter().map(|one| (one.client, one.revision)));
        while known.removed.len() > MAX_REMOVED {
            let oldest = known.removed.iter().min_by_key(|(_, revision)| **revision).map(|(client, _)| *client);
            let forgotten = oldest.and_then(|client| known.removed.remove(&client));
            known.floor = known.floor.max(forgotten.unwrap_or_default());
        }
        if removals.floor > before || known.removals.is_none() {
            known.floor = known.floor.max(removals.floor);
        }
        known.removals = Some(signed.clone());
        true
    }

    /// Takes this client's own ticket.
    fn take_own(&mut self, own: ClientId, signed: &Signed<MembershipTicket>) {
        if let Ok(ticket) = signed.verify(&self.keys)
            && ticket.client == own
        {
            self.known.entry(ticket.network).or_default().ticket = Some(signed.clone());
        }
    }

    /// Takes the ticket that `client` shows for `network`; tells whether it proves anything new.
    fn take_shown(
        &mut self,
        now: Instant,
        network: NetworkId,
        client: ClientId,
        signed: &Signed<MembershipTicket>,
    ) -> bool {
        let claimed = signed.claim();
        let newest = self.known.get(&network).and_then(|known| known.shown.get(&client)).copied();
        let new = (claimed.network, claimed.client) == (network, client)
            && claimed.revision > newest.unwrap_or_default()
            && claimed.expires > self.time(now);
        if !new || !self.gossip.may_check(now, client) {
            return false;
        }
        let Ok(ticket) = signed.verify(&self.keys) else { return false };
        let shown = &mut self.known.entry(network).or_default().shown;
        if shown.len() >= MAX_SHOWN && !shown.contains_key(&client) {
            shown.pop_first();
        }
        shown.insert(client, ticket.revision);
        true
    }

    /// Whether the server has something newer for this client, as far as can be told here.
    fn lacks(&self, now: Instant, network: NetworkId, composition: Revision) -> bool {
        let Some(known) = self.known.get(&network) else { return true };
        let fresh = |ticket: &Signed<MembershipTicket>| {
            let ticket = ticket.claim();
            ticket.expires > self.time(now).plus(TICKET_LIFETIME / 2) && ticket.revision >= known.floor
        };
        !known.ticket.as_ref().is_some_and(fresh) || self.revision(network) < composition
    }
}

impl Core {
    /// The answer to [`Output::WantMembership`].
    pub fn handle_membership(&mut self, now: Instant, ticket: &Signed<MembershipTicket>, removals: &Signed<Removals>) {
        if self.view.networks().contains_key(&ticket.claim().network) {
            self.memberships.take_own(self.own, ticket);
            self.memberships.gossip.handle_ticket(now);
            self.note_change(now);
        }
        self.handle_removals(now, removals);
    }

    /// The server says who is a member no more.
    pub(super) fn handle_removals(&mut self, now: Instant, removals: &Signed<Removals>) {
        if self.view.networks().contains_key(&removals.claim().network) && self.memberships.take_removals(removals) {
            self.handle_newer_removals(now);
        }
    }

    /// What is wrong with this client's own membership.
    #[must_use]
    pub(super) fn membership_warning(&self, network: NetworkId) -> Option<Code> {
        let told = self.view.networks().get(&network)?.revision();
        let removed = self.memberships.verdict(network, self.own, told) == Verdict::Removed;
        removed.then_some(Code::MembershipEnded)
    }

    /// Whether packets pass between this client and the peers, as of now.
    pub(super) fn judge(&mut self, now: Instant) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(peer) = self.peers.get(&id) else { continue };
            let networks = self.view.networks();
            let proven = peer.about.networks.iter().any(|network| {
                let told = networks.get(network).map_or(Revision::ZERO, super::view::Network::revision);
                self.memberships.verdict(*network, id, told) == Verdict::Member
            });
            if self.with(now, id, |peer, turn| peer.handle_standing(turn.now, proven)) == Some(true) {
                self.memberships.gossip.handle_doubt(now, id);
            } else if proven {
                self.memberships.gossip.handle_proof(id);
            }
        }
    }

    /// Looks which networks lack a ticket, and has the server asked, each after a while of its own.
    pub(super) fn tend_memberships(&mut self, now: Instant) {
        let networks = self.view.networks();
        self.memberships.known.retain(|network, _| networks.contains_key(network));
        self.memberships.due.retain(|network, _| networks.contains_key(network));
        if !self.online || self.memberships.keys.is_empty() {
            return;
        }
        for (&network, about) in networks {
            let rests = self.memberships.asked.get(&network).is_some_and(|until| now < *until);
            // Who has no seat gets no ticket.
            if rests || about.unseated || !self.memberships.lacks(now, network, about.composition()) {
                continue;
            }
            let has = self.memberships.known.get(&network).is_some_and(|known| known.ticket.is_some());
            let (least, most) = if has { RENEWAL } else { FIRST };
            let due = now + self.random.random_range(least..most);
            self.memberships.due.entry(network).or_insert(due);
        }
    }

    pub(super) fn handle_membership_deadline(&mut self, now: Instant) {
        let due: Vec<_> = self.memberships.due.iter().filter(|(_, due)| **due <= now).map(|(id, _)| *id).collect();
        for network in due {
            self.memberships.due.remove(&network);
            if self.online {
                self.memberships.asked.insert(network, now + AGAIN);
                self.outputs.push_back(Output::WantMembership(network));
            }
        }
        self.tell_memberships(now);
    }

    pub(super) fn poll_membership_deadline(&self) -> Option<Instant> {
        [self.memberships.due.values().min().copied(), self.memberships.gossip.poll_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle_newer_removals(&mut self, now: Instant) {
        self.note_change(now);
        self.reconcile(now);
        self.memberships.gossip.handle_news(now);
        self.tend_memberships(now);
    }

    /// To be kept soon.
    fn note_change(&mut self, now: Instant) {
        self.save.get_or_insert(now + super::SAVE_AFTER);
    }
}

/// As many as a network may have members.
const MAX_REMOVED: usize = 4096;
const MAX_SHOWN: usize = 4096;
/// Before the server is asked for a first ticket, and for a newer one.
const FIRST: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const RENEWAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));
/// Between two questions about one network.
const AGAIN: Duration = Duration::from_secs(60);
