//! The networks of this client and their members: what the server told, checked as far as it can be.
//!
//! Spokes of a network meet its hubs only: whom this client does not meet there it has no tunnel with, whatever the other end
//! tries, and both ends decide that by themselves. The same goes for members who have no seat: they meet nobody.
//!
//! The server may order and withhold, but it cannot introduce a member whose tunnel key its identity did not sign.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use domain::{
    ClientId, KnownNetwork, Lineage, Member, NetworkChange, NetworkId, NetworkName, NetworkTerms, Nickname, Revision,
    Role, Route, SecretEpoch, SecretState, VirtualAddresses,
};
use minicbor::{Decode, Encode};
use tunnel::{NetworkSecret, PairKey, SealedSecrets};

use super::{
    lineages::Lineages,
    secrets::{SavedSecrets, Secrets},
};

/// What is known without asking the server.
#[derive(Debug)]
pub struct View {
    own: ClientId,
    pub addresses: Option<VirtualAddresses>,
    pub nick: Option<Nickname>,
    networks: BTreeMap<NetworkId, Network>,
    /// Also of networks whose members are not known yet.
    secrets: BTreeMap<NetworkId, Secrets>,
    /// This client's own, as soon as a network names them.
    keys: Option<Lineage>,
    lineages: Lineages,
}

/// One network.
#[derive(Debug)]
pub struct Network {
    pub name: NetworkName,
    /// Of this client.
    pub role: Role,
    /// This client meets everybody, where not all do.
    pub hub: bool,
    /// Where this client is to lead the others.
    pub routes: Vec<Route>,
    /// This client meets nobody here: the plan allows fewer members than there are.
    pub unseated: bool,
    /// The owner wants this client to stay seated before others.
    pub kept: bool,
    pub terms: NetworkTerms,
    pub secret: SecretState,
    revision: Revision,
    /// Since when the members are these, as far as it was seen.
    composition: Revision,
    members: BTreeMap<ClientId, Member>,
}

/// A member of at least one of the networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquaintance {
    pub member: Member,
    pub networks: BTreeSet<NetworkId>,
}

/// What a change led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Unchanged,
    Changed,
    /// Changes are missing: ask for those after this revision.
    Gap(Revision),
}

/// One network as it is kept over restarts.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedNetwork {
    #[n(0)]
    id: NetworkId,
    #[n(1)]
    name: NetworkName,
    #[n(2)]
    revision: Revision,
    #[cbor(n(3), with = "minicbor::bytes")]
    secret: Option<[u8; 32]>,
    #[n(4)]
    members: Vec<Member>,
    #[n(5)]
    #[cbor(default)]
    role: Role,
    #[n(6)]
    #[cbor(default)]
    terms: NetworkTerms,
    #[n(7)]
    #[cbor(default)]
    state: SecretState,
    /// What an older version kept is the fourth field alone.
    #[n(8)]
    secrets: Option<SavedSecrets>,
    #[n(9)]
    #[cbor(default)]
    hub: bool,
    #[n(10)]
    #[cbor(default)]
    routes: Vec<Route>,
    #[n(11)]
    #[cbor(default)]
    unseated: bool,
    #[n(12)]
    #[cbor(default)]
    kept: bool,
}

impl std::fmt::Debug for SavedNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedNetwork").field("id", &self.id).finish_non_exhaustive()
    }
}

impl View {
    /// No networks.
    #[must_use]
    pub fn new(own: ClientId) -> Self {
        let (networks, secrets, lineages) = (BTreeMap::new(), BTreeMap::new(), Lineages::default());
        Self { own, addresses: None, nick: None, networks, secrets, keys: None, lineages }
    }

    /// Takes one change. Members that cannot vouch for their keys are left out.
    pub fn apply(&mut self, change: NetworkChange) -> Applied {
        if change.left {
            // It came back since then.
            if self.networks.get(&change.network).is_some_and(|network| network.revision > change.revision) {
                return Applied::Unchanged;
            }
            self.secrets.remove(&change.network);
            return if self.networks.remove(&change.network).is_some() { Applied::Changed } else { Applied::Unchanged };
        }
        let known = self.networks.get(&change.network).map_or(Revision::ZERO, |network| network.revision);
        if change.since > known {
            return Applied::Gap(known);
        }
        if change.since > Revision::ZERO && change.revision <= known {
            return Applied::Unchanged;
        }
        let network = self.networks.entry(change.network).or_insert_with(|| Network {
            name: change.name.clone(),
            role: Role::Member,
            hub: false,
            routes: Vec::new(),
            unseated: false,
            kept: false,
            terms: change.terms,
            secret: change.secret,
            revision: Revision::ZERO,
            composition: Revision::ZERO,
            members: BTreeMap::new(),
        });
        let before: BTreeSet<_> = network.members.keys().copied().collect();
        let moved = change.members.iter().filter(|member| member.client != self.own);
        let moved = moved.filter(|member| member.gone == before.contains(&member.client));
        let composition = moved.map(|member| member.revision).max();
        let mut known_before = BTreeMap::new();
        if change.since == Revision::ZERO {
            known_before = std::mem::take(&mut network.members);
        }
        network.name = change.name;
        network.revision = change.revision;
        network.terms = change.terms;
        network.secret = change.secret;
        for member in change.members {
            if member.client == self.own {
                self.keys = Some(member.keys()).filter(|_| self.lineages.check(&member).is_ok());
                self.nick = member.nick.or_else(|| self.nick.take());
                if !member.gone {
                    network.role = member.role;
                    network.hub = member.hub;
                    network.routes = member.routes;
                    network.unseated = member.unseated;
                    network.kept = member.kept;
                    self.addresses = Some(member.addresses);
                }
            } else if member.gone {
                network.members.remove(&member.client);
            } else if let Err(doubt) = self.lineages.check(&member) {
                tracing::warn!(member = %member.client, "{doubt}");
                // Who it was is still in the network, with the keys that are known.
                network.members.extend(known_before.remove(&member.client).map(|known| (member.client, known)));
            } else if network.members.len() < MAX_MEMBERS || network.members.contains_key(&member.client) {
                network.members.insert(member.client, member);
            }
        }
        // Who sees a network for the first time saw nobody come or go; of who is missing in a whole list is not known when.
        if known > Revision::ZERO {
            let missing = before.iter().any(|client| !network.members.contains_key(client));
            let since = [composition, missing.then_some(Revision(known.0 + 1))];
            network.composition = since.into_iter().flatten().fold(network.composition, Revision::max);
        }
        Applied::Changed
    }

    /// Forgets every network that is not in `networks`.
    pub fn retain(&mut self, networks: &[NetworkId]) {
        self.networks.retain(|network, _| networks.contains(network));
        self.secrets.retain(|network, _| networks.contains(network));
    }

    /// Forgets one network.
    pub fn leave(&mut self, network: NetworkId) {
        self.networks.remove(&network);
        self.secrets.remove(&network);
    }

    /// Keeps the secret of a network that its password or an invite opened.
    pub fn learn(&mut self, network: NetworkId, epoch: SecretEpoch, secret: NetworkSecret) {
        self.secrets.insert(network, Secrets::of_door(epoch, secret));
    }

    /// Takes newer secrets of a network; false when they are not newer.
    pub fn renew(&mut self, network: NetworkId, secrets: SealedSecrets) -> bool {
        self.secrets.get_mut(&network).is_some_and(|known| known.renew(secrets))
    }

    /// The server knows that this client has this one.
    pub fn prove(&mut self, network: NetworkId, epoch: SecretEpoch) {
        if let Some(secrets) = self.secrets.get_mut(&network) {
            secrets.proved = Some(epoch);
        }
    }

    /// The secrets of a network.
    #[must_use]
    pub fn secrets(&self, network: NetworkId) -> Option<&Secrets> {
        self.secrets.get(&network)
    }

    /// The newest secret of a network that is known.
    #[must_use]
    pub fn secret(&self, network: NetworkId) -> Option<&NetworkSecret> {
        self.secrets.get(&network).map(|secrets| &secrets.newest().secret)
    }

    /// The identity keys of this client, if a network named it.
    #[must_use]
    pub const fn keys(&self) -> Option<&Lineage> {
        self.keys.as_ref()
    }

    /// What was proved is proved no more: this client has another tunnel key.
    pub fn unprove(&mut self) {
        for secrets in self.secrets.values_mut() {
            secrets.proved = None;
        }
    }

    /// What the server need not send again.
    #[must_use]
    pub fn known(&self) -> Vec<KnownNetwork> {
        let known = |(&network, about): (&NetworkId, &Network)| KnownNetwork { network, revision: about.revision };
        self.networks.iter().map(known).collect()
    }

    /// The networks, by id.
    #[must_use]
    pub const fn networks(&self) -> &BTreeMap<NetworkId, Network> {
        &self.networks
    }

    /// With which revision somebody last joined or left each network.
    #[must_use]
    pub fn compositions(&self) -> BTreeMap<NetworkId, Revision> {
        self.networks.iter().map(|(id, network)| (*id, network.composition)).collect()
    }

    /// The network with that name, however it is written.
    #[must_use]
    pub fn network_named(&self, name: &NetworkName) -> Option<NetworkId> {
        let key = name.key();
        self.networks.iter().find(|(_, network)| network.name.key() == key).map(|(id, _)| *id)
    }

    /// Everybody whom this client meets in any of the networks. Of two who claim one address the first by id keeps it.
    #[must_use]
    pub fn acquaintances(&self) -> BTreeMap<ClientId, Acquaintance> {
        let mut all = BTreeMap::<ClientId, Acquaintance>::new();
        for (id, network) in &self.networks {
            for member in network.met() {
                let known = all
                    .entry(member.client)
                    .or_insert_with(|| Acquaintance { member: member.clone(), networks: BTreeSet::new() });
                known.networks.insert(*id);
                // Revisions of two networks cannot be compared; the address is permanent once it is there.
                let v4 = known.member.addresses.v4.or(member.addresses.v4);
                // One network tells of a later key before the other.
                if member.weight() > known.member.weight() {
                    known.member = member.clone();
                }
                known.member.addresses.v4 = v4;
            }
        }
        let own =
            self.addresses.into_iter().flat_map(|own| own.v4.map(IpAddr::from).into_iter().chain([own.v6.into()]));
        let mut taken: BTreeSet<IpAddr> = own.collect();
        all.retain(|client, known| {
            let free = taken.insert(known.member.addresses.v6.into());
            if known.member.addresses.v4.is_some_and(|v4| !taken.insert(v4.into())) {
                known.member.addresses.v4 = None;
            }
            if !free {
                tracing::warn!(member = %client, "the server gave one address to two members");
            }
            free
        });
        all
    }

    /// The key of the pair with `peer`: of the smallest common network whose secret is known.
    #[must_use]
    pub fn pair_key(&self, peer: ClientId, networks: &BTreeSet<NetworkId>) -> Option<PairKey> {
        let (network, secrets) = networks.iter().find_map(|id| self.secrets.get(id).map(|secrets| (*id, secrets)))?;
        Some(PairKey::derive(&secrets.newest().secret, network, self.own, peer))
    }

    /// The key that the pair had before the newest secret of that network.
    #[must_use]
    pub fn previous_pair_key(&self, peer: ClientId, networks: &BTreeSet<NetworkId>) -> Option<PairKey> {
        let (network, secrets) = networks.iter().find_map(|id| self.secrets.get(id).map(|secrets| (*id, secrets)))?;
        Some(PairKey::derive(&secrets.previous()?.secret, network, self.own, peer))
    }

    /// The keys of members that were seen, for the next start.
    #[must_use]
    pub fn save_lineages(&self) -> Vec<Lineage> {
        self.lineages.save()
    }

    /// Takes those of the last run; to be called before [`View::restore`].
    pub fn restore_lineages(&mut self, saved: Vec<Lineage>) {
        self.lineages.restore(saved);
    }

    /// The networks for the next start.
    #[must_use]
    pub fn save(&self) -> Vec<SavedNetwork> {
        let save = |(&id, network): (&NetworkId, &Network)| SavedNetwork {
            id,
            name: network.name.clone(),
            revision: network.revision,
            secret: self.secrets.get(&id).map(|secrets| *secrets.newest().secret.as_bytes()),
            members: network.members.values().cloned().collect(),
            role: network.role,
            hub: network.hub,
            routes: network.routes.clone(),
            unseated: network.unseated,
            kept: network.kept,
            terms: network.terms,
            state: network.secret,
            secrets: self.secrets.get(&id).map(Secrets::save),
        };
        self.networks.iter().map(save).collect()
    }

    /// Takes the networks of the last run.
    pub fn restore(&mut self, saved: Vec<SavedNetwork>) {
        for network in saved {
            let older =
                network.secret.map(|secret| Secrets::of_door(SecretEpoch::FIRST, NetworkSecret::from_bytes(secret)));
            self.secrets.extend(network.secrets.map(Secrets::restore).or(older).map(|secrets| (network.id, secrets)));
            let genuine = network.members.into_iter().filter(|member| self.lineages.check(member).is_ok());
            let genuine = genuine.map(|member| (member.client, member));
            let restored = Network {
                name: network.name,
                role: network.role,
                hub: network.hub,
                routes: network.routes,
                unseated: network.unseated,
                kept: network.kept,
                terms: network.terms,
                secret: network.state,
                revision: network.revision,
                composition: Revision::ZERO,
                members: genuine.collect(),
            };
            self.networks.insert(network.id, restored);
        }
    }
}

impl Network {
    /// How many members there are, this client included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len() + 1
    }

    /// What is known of it.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision with which somebody last joined or left, as far as that was seen.
    #[must_use]
    pub const fn composition(&self) -> Revision {
        self.composition
    }

    /// Those of the others that this client meets. Who has no seat meets nobody.
    pub fn met(&self) -> impl Iterator<Item = &Member> {
        let seated = self.members.values().filter(|member| !self.unseated && !member.unseated);
        seated.filter(|member| self.terms.kind.joins([self.hub, member.hub]))
    }

    /// The others.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// What the server last knew of the presence of the members.
    pub fn presences(&self) -> impl Iterator<Item = (ClientId, domain::PeerPresence)> {
        self.members.values().filter_map(|member| member.presence.map(|presence| (member.client, presence)))
    }
}

/// More than any plan allows, so that a hostile server cannot fill the memory.
const MAX_MEMBERS: usize = 4096;

#[cfg(test)]
pub(crate) mod tests {
    use domain::{IdentityKey, NetworkKind, Signature, TUNNEL_KEY_CONTEXT, TunnelKey};
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn a_gap_is_noticed_and_old_news_is_ignored() {
        let mut view = View::new(member(1, &[1; 32]).client);
        assert_eq!(view.apply(change(0, 3, vec![member(2, &[2; 32])])), Applied::Changed);
        assert_eq!(view.apply(change(5, 6, vec![member(3, &[3; 32])])), Applied::Gap(Revision(3)));
        assert_eq!(view.apply(change(1, 3, vec![member(3, &[3; 32])])), Applied::Unchanged);
        assert_eq!(view.apply(change(3, 6, vec![member(3, &[3; 32])])), Applied::Changed);
        assert_eq!(view.acquaintances().len(), 2);
        assert_eq!(view.known(), vec![KnownNetwork { network: NETWORK, revision: Revision(6) }]);
    }

    #[test]
    fn a_farewell_from_before_the_return_is_ignored() {
        let mut view = View::new(member(1, &[1; 32]).client);
        view.apply(change(0, 5, vec![member(2, &[2; 32])]));
        assert_eq!(view.apply(NetworkChange { left: true, ..change(3, 4, Vec::new()) }), Applied::Unchanged);
        assert_eq!(view.networks().len(), 1);
        assert_eq!(view.apply(NetworkChange { left: true, ..change(5, 6, Vec::new()) }), Applied::Changed);
        assert!(view.networks().is_empty());
    }

    #[test]
    fn a_member_without_a_signed_key_is_left_out() {
        let mut view = View::new(member(1, &[1; 32]).client);
        let mut forged = member(2, &[2; 32]);
        forged.tunnel = TunnelKey::from_bytes([0; 32]);
        let mut stolen = member(3, &[3; 32]);
        stolen.client = ClientId::from_bytes([3; 16]);
        view.apply(change(0, 1, vec![forged, stolen]));
        assert!(view.acquaintances().is_empty());
    }

    #[test]
    fn a_spoke_meets_hubs_only_also_after_a_restart() {
        let own = member(1, &[1; 32]);
        let mut view = View::new(own.client);
        let hub = |member: Member, hub| Member { hub, revision: Revision(2), ..member };
        let (bob, carol) = (member(2, &[2; 32]), member(3, &[3; 32]));
        let met = |view: &View| view.acquaintances().into_keys().collect::<BTreeSet<_>>();
        let wheel = |since, revision, members| NetworkChange {
            terms: NetworkTerms { kind: NetworkKind::Hub, ..NetworkTerms::default() },
            ..change(since, revision, members)
        };
        view.apply(change(0, 1, vec![own.clone(), bob.clone(), carol.clone()]));
        assert_eq!(met(&view).len(), 2);
        view.apply(wheel(1, 2, vec![hub(carol.clone(), true)]));
        assert_eq!(met(&view), BTreeSet::from([carol.client]));
        let mut restored = View::new(own.client);
        restored.restore(minicbor::decode(&minicbor::to_vec(view.save()).unwrap()).unwrap());
        assert_eq!(met(&restored), met(&view));
        view.apply(wheel(2, 3, vec![hub(own, true)]));
        assert_eq!(met(&view).len(), 2, "a hub meets everybody");
        assert_eq!(view.networks()[&NETWORK].size(), 3);
        let mut restored = View::new(member(1, &[1; 32]).client);
        restored.restore(minicbor::decode(&minicbor::to_vec(view.save()).unwrap()).unwrap());
        assert_eq!(met(&restored).len(), 2);
    }

    #[test]
    fn who_has_no_seat_meets_nobody_also_after_a_restart() {
        let own = member(1, &[1; 32]);
        let mut view = View::new(own.client);
        let (bob, carol) = (member(2, &[2; 32]), member(3, &[3; 32]));
        let met = |view: &View| view.acquaintances().into_keys().collect::<BTreeSet<_>>();
        let seat = |member: &Member, unseated| Member { unseated, ..member.clone() };
        view.apply(change(0, 1, vec![own.clone(), bob.clone(), carol.clone()]));
        view.apply(change(1, 2, vec![seat(&bob, true)]));
        assert_eq!(met(&view), BTreeSet::from([carol.client]));
        view.apply(change(2, 3, vec![seat(&own, true)]));
        assert!(met(&view).is_empty() && view.networks()[&NETWORK].size() == 3);
        let mut restored = View::new(own.client);
        restored.restore(minicbor::decode(&minicbor::to_vec(view.save()).unwrap()).unwrap());
        assert!(met(&restored).is_empty());
        view.apply(change(3, 4, vec![seat(&own, false), seat(&bob, false)]));
        assert_eq!(met(&view), BTreeSet::from([bob.client, carol.client]));
    }

    #[test]
    fn two_members_never_share_an_address() {
        let mut view = View::new(member(1, &[1; 32]).client);
        let (a, mut b) = (member(2, &[2; 32]), member(3, &[3; 32]));
        b.addresses = a.addresses;
        view.apply(change(0, 1, vec![a, b]));
        assert_eq!(view.acquaintances().len(), 1);
    }

    #[test]
    fn a_network_remembers_when_somebody_last_joined_or_left() {
        let mut view = View::new(member(1, &[1; 32]).client);
        let composition = |view: &View| view.compositions()[&NETWORK];
        let (bob, carol) = (member(2, &[2; 32]), member(3, &[3; 32]));
        view.apply(change(0, 3, vec![bob.clone()]));
        assert_eq!(composition(&view), Revision::ZERO);
        view.apply(change(3, 5, vec![Member { revision: Revision(4), ..carol.clone() }]));
        assert_eq!(composition(&view), Revision(4));
        let called = Member { nick: Some("carol".parse().unwrap()), revision: Revision(6), ..carol.clone() };
        view.apply(change(5, 6, vec![called]));
        assert_eq!(composition(&view), Revision(4));
        view.apply(change(0, 6, vec![bob.clone(), carol.clone()]));
        assert_eq!(composition(&view), Revision(4));
        view.apply(change(6, 7, vec![Member { gone: true, revision: Revision(7), ..bob }]));
        assert_eq!(composition(&view), Revision(7));
        view.apply(change(0, 11, Vec::new()));
        assert_eq!(composition(&view), Revision(8));
        assert_eq!(view.networks()[&NETWORK].revision(), Revision(11));
    }

    #[test]
    fn what_was_saved_is_known_after_a_restart() {
        let own = member(1, &[1; 32]).client;
        let mut view = View::new(own);
        let peer = member(2, &[2; 32]);
        view.apply(change(0, 3, vec![peer.clone()]));
        view.learn(NETWORK, SecretEpoch::FIRST, NetworkSecret::from_bytes([9; 32]));
        let bytes = minicbor::to_vec(view.save()).unwrap();

        let mut restored = View::new(own);
        restored.restore(minicbor::decode(&bytes).unwrap());
        assert_eq!(restored.acquaintances(), view.acquaintances());
        let networks = BTreeSet::from([NETWORK]);
        assert_eq!(restored.pair_key(peer.client, &networks), view.pair_key(peer.client, &networks));
    }

    pub(crate) const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);

    pub(crate) fn change(since: u64, revision: u64, members: Vec<Member>) -> NetworkChange {
        NetworkChange {
            network: NETWORK,
            name: "lan".parse().unwrap(),
            since: Revision(since),
            revision: Revision(revision),
            members,
            left: false,
            terms: NetworkTerms::default(),
            secret: SecretState::default(),
        }
    }

    /// A genuine member whose private tunnel key is `private`.
    pub(crate) fn member(number: u8, private: &[u8; 32]) -> Member {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
        let identity = IdentityKey::try_from(pair.public_key().as_ref()).unwrap();
        let tunnel = tunnel::Local::new(*private).public();
        let signed = pair.sign(&[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()].concat());
        Member {
            client: ClientId::of(&identity),
            identity,
            tunnel,
            tunnel_signature: Signature::try_from(signed.as_ref()).unwrap(),
            nick: None,
            addresses: VirtualAddresses {
                v4: Some([100, 64, 0, number].into()),
                v6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number].into(),
            },
            revision: Revision(1),
            gone: false,
            presence: Some(domain::PeerPresence::Online),
            role: Role::Member,
            lineage: None,
            hub: false,
            routes: Vec::new(),
            unseated: false,
            kept: false,
        }
    }
}
