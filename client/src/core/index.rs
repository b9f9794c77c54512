//! Where a peer is found by what a datagram or packet shows, and when it is due.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use domain::ClientId;
use wire::{fanout::SharedKeyId, relay::Slot};

use super::peer::Peer;
use crate::sockets::SocketId;

/// Finds peers without looking at all of them.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) addresses: BTreeMap<IpAddr, ClientId>,
    pub(super) endpoints: BTreeMap<SocketAddr, ClientId>,
    pub(super) slots: BTreeMap<(SocketAddr, Slot), ClientId>,
    /// Whose key it is that copies are sealed with.
    pub(super) keys: BTreeMap<SharedKeyId, ClientId>,
    pub(super) deadlines: BTreeSet<(Instant, ClientId)>,
    /// What is in the other tables, by peer.
    entries: BTreeMap<ClientId, Entry>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    endpoints: Vec<SocketAddr>,
    slots: Vec<(SocketAddr, Slot)>,
    keys: Vec<SharedKeyId>,
    sockets: Vec<SocketId>,
    deadline: Option<Instant>,
}

impl Index {
    /// Notes where a peer is to be found from now on. Returns the sockets that no longer lead to it.
    pub(super) fn update(&mut self, now: Instant, id: ClientId, peer: &Peer, online: bool) -> Vec<SocketId> {
        let entry = self.entries.entry(id).or_default();
        let deadline = peer.poll_deadline(now, online);
        if entry.deadline != deadline {
            if let Some(old) = entry.deadline {
                self.deadlines.remove(&(old, id));
            }
            self.deadlines.extend(deadline.map(|due| (due, id)));
            entry.deadline = deadline;
        }
        if !peer.addresses().eq(entry.endpoints.iter().copied()) {
            for old in entry.endpoints.drain(..) {
                self.endpoints.remove(&old);
            }
            entry.endpoints.extend(peer.addresses());
            self.endpoints.extend(entry.endpoints.iter().map(|endpoint| (*endpoint, id)));
        }
        if !peer.slots().eq(entry.slots.iter().copied()) {
            for old in entry.slots.drain(..) {
                self.slots.remove(&old);
            }
            entry.slots.extend(peer.slots());
            self.slots.extend(entry.slots.iter().map(|slot| (*slot, id)));
        }
        if !peer.heard_keys().eq(entry.keys.iter().copied()) {
            for old in entry.keys.drain(..) {
                self.keys.remove(&old);
            }
            entry.keys.extend(peer.heard_keys());
            self.keys.extend(entry.keys.iter().map(|key| (*key, id)));
        }
        if peer.sockets().eq(entry.sockets.iter().copied()) {
            return Vec::new();
        }
        let before = std::mem::replace(&mut entry.sockets, peer.sockets().collect());
        before.into_iter().filter(|socket| !entry.sockets.contains(socket)).collect()
    }

    /// Looks at a peer no earlier than `due`.
    pub(super) fn postpone(&mut self, id: ClientId, due: Instant) {
        if let Some(entry) = self.entries.get_mut(&id)
            && let Some(old) = entry.deadline.replace(due)
        {
            self.deadlines.remove(&(old, id));
            self.deadlines.insert((due, id));
        }
    }

    /// Forgets a peer. Returns the sockets that led to it.
    pub(super) fn forget(&mut self, id: ClientId) -> Vec<SocketId> {
        let Some(entry) = self.entries.remove(&id) else { return Vec::new() };
        self.endpoints.retain(|_, owner| *owner != id);
        self.slots.retain(|_, owner| *owner != id);
        self.keys.retain(|_, owner| *owner != id);
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        entry.sockets
    }
}
