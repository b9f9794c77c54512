//! What clients and operators ask.

use contract::{
    network::{
        AnotherRelay, ChangesSince, Connect, Networks, NetworksPage, Refusal, Sessions, SessionsPage, Snapped, Snapshot,
    },
    rendezvous::{PairWanted, Wanted},
};
use domain::{ClientId, Member, NetworkChange};
use store::Peer;

use crate::{
    Role,
    announce::{mark, wanted},
    internal, operators,
};

/// The prefix of a deployment, see `domain::UlaPrefix`.
const PREFIX6: u8 = 48;

/// Members in one answer, by weight: a member takes at most 272 bytes and a message of the bus holds a mebibyte.
const MAX_MEMBERS: usize = 3_500;

/// Rows in one page for operators.
const MAX_ROWS: u16 = 500;

impl Role {
    pub(crate) async fn snapshot(&self, call: Snapshot) -> Result<Snapped, Refusal> {
        let snapshot =
            self.seams.networks.snapshot(call.client, &call.known).await.map_err(|error| internal(&error))?;
        let networks: Vec<_> = snapshot.networks.iter().map(|change| change.network).collect();
        let mut changes = fitting(snapshot.networks, MAX_MEMBERS);
        self.seams.metrics.snapshots_cut.inc_by((networks.len() - changes.len()) as u64);
        self.fill_presence(&mut changes).await;
        let prefix4 = self.seams.pool.net().prefix_len();
        Ok(Snapped {
            addresses: snapshot.addresses,
            changes,
            networks,
            prefix4,
            prefix6: PREFIX6,
            membership_keys: self.signer.keys().to_vec(),
        })
    }

    pub(crate) async fn changes_since(&self, call: ChangesSince) -> Result<NetworkChange, Refusal> {
        let change = self.seams.networks.changes_since(call.network, call.client, call.revision).await;
        match change.map_err(|error| internal(&error))? {
            Some(change) => Ok(self.with_presence(change).await),
            None => Err(Refusal::NotAMember),
        }
    }

    /// A pair that is wanted now, if both are online.
    pub(crate) async fn connect(&self, Connect { client, peer }: Connect) -> Result<(), Refusal> {
        self.want(client, peer, |peer| wanted(client, peer, Wanted::Demanded)).await
    }

    /// A pair that wants another relay, if both are online.
    pub(crate) async fn another_relay(&self, call: AnotherRelay) -> Result<(), Refusal> {
        let AnotherRelay { client, peer, leaves } = call;
        self.want(client, peer, |peer| PairWanted { leaves, ..wanted(client, peer, Wanted::Relay) }).await
    }

    async fn want(
        &self,
        client: ClientId,
        peer: ClientId,
        pair: impl FnOnce(&Peer) -> PairWanted,
    ) -> Result<(), Refusal> {
        let terms = self.seams.networks.pair_plan(client, peer).await.map_err(|error| internal(&error))?;
        let Some(terms) = terms.filter(|_| client != peer) else { return Err(Refusal::PeerUnknown) };
        let online = self.announcer.online(&[client, peer]).await.map_err(|error| internal(&error))?;
        if online.len() == 2 {
            let peer = Peer { client: peer, relay_rate: terms.plan.relay_rate, payers: terms.payers };
            self.announcer.want(vec![pair(&peer)]).await.map_err(|error| internal(&error))?;
        }
        Ok(())
    }

    pub(crate) async fn sessions(&self, call: Sessions) -> Result<SessionsPage, Refusal> {
        let limit = call.limit.clamp(1, MAX_ROWS);
        let page = self.seams.presence.sessions(call.after, limit).await.map_err(|error| internal(&error))?;
        Ok(SessionsPage { sessions: page.seats.into_iter().map(operators::session).collect(), more: page.more })
    }

    pub(crate) async fn networks(&self, call: Networks) -> Result<NetworksPage, Refusal> {
        let limit = call.limit.clamp(1, MAX_ROWS);
        let mut rows = self.seams.networks.list(call.after, limit + 1).await.map_err(|error| internal(&error))?;
        let more = rows.len() > usize::from(limit);
        rows.truncate(usize::from(limit));
        Ok(NetworksPage { networks: rows.into_iter().map(operators::row).collect(), more })
    }

    /// `change` with who is online, see [`Role::fill_presence`].
    pub(crate) async fn with_presence(&self, change: NetworkChange) -> NetworkChange {
        let mut changes = [change];
        self.fill_presence(&mut changes).await;
        let [change] = changes;
        change
    }

    /// Notes who is online. While presence is away nobody is asked for: members are known all the same, and their tunnels
    /// need nobody's word.
    async fn fill_presence(&self, changes: &mut [NetworkChange]) {
        let members = || changes.iter().flat_map(|change| &change.members);
        let clients: Vec<_> = members().map(|member| member.client).collect();
        match self.announcer.online(&clients).await {
            Ok(online) => mark(changes, &online),
            Err(error) => tracing::warn!(%error, "members are listed without their presence"),
        }
    }
}

/// Leaves out networks that do not fit into one message. They stay in the list of networks, and a client that is in a network
/// it knows nothing of asks for its changes.
fn fitting(changes: Vec<NetworkChange>, members: usize) -> Vec<NetworkChange> {
    let mut room = Some(members);
    let fits = move |change: &NetworkChange| {
        room = room.and_then(|room| room.checked_sub(change.members.iter().map(Member::weight).sum()));
        room.is_some()
    };
    changes.into_iter().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use domain::{ClientId, IdentityKey, NetworkId, PeerPresence, Revision, Signature, TunnelKey, VirtualAddresses};

    use super::*;

    #[test]
    fn networks_that_do_not_fit_are_left_out() {
        let left = |members| fitting(vec![network(1, 2), network(2, 3), network(3, 1)], members).len();
        assert_eq!([left(1), left(2), left(4), left(5), left(6)], [0, 1, 1, 2, 3]);
    }

    #[test]
    fn a_full_answer_fits_into_a_message_of_the_bus() {
        let full: Vec<_> = (0..14).map(|number| network(number, MAX_MEMBERS / 14)).collect();
        assert!(minicbor::to_vec(full).unwrap().len() < bus::MAX_MESSAGE_BYTES);
    }

    fn network(number: u8, members: usize) -> NetworkChange {
        let member = Member {
            client: ClientId::from_bytes([0xff; 16]),
            identity: IdentityKey::from_bytes([0xff; 32]),
            tunnel: TunnelKey::from_bytes([0xff; 32]),
            tunnel_signature: Signature::from_bytes([0xff; 64]),
            nick: Some("n".repeat(64).parse().unwrap()),
            addresses: VirtualAddresses { v4: Some("100.64.0.1".parse().unwrap()), v6: "fd00::1".parse().unwrap() },
            revision: Revision(u64::MAX),
            gone: false,
            presence: Some(PeerPresence::Offline),
            role: domain::Role::Owner,
            lineage: None,
            hub: true,
            unseated: false,
            kept: false,
            routes: Vec::new(),
        };
        NetworkChange {
            network: NetworkId::from_bytes([number; 16]),
            name: "n".repeat(64).parse().unwrap(),
            since: Revision::ZERO,
            revision: Revision(u64::MAX),
            members: vec![member; members],
            left: false,
            terms: domain::NetworkTerms {
                locked: true,
                approval: true,
                applicants: u32::MAX,
                kind: domain::NetworkKind::Hub,
            },
            secret: domain::SecretState::default(),
        }
    }
}
