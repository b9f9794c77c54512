//! Networks behind members: which of them this client follows members to, and which it leads members to.
//!
//! Both ends decide for themselves, whatever the server says. This client **leads** nobody anywhere that its user did not agree
//! to on this machine, prefix by prefix ([`Core::agree`]); what is named later needs another word of the user. It **follows** a
//! member in a network of the kind gateway only, to private prefixes that the member's machine agreed to, and that get in the
//! way of nothing: not of a network that this machine is in, not of the virtual LAN, not of a server or relay, and not of a
//! prefix that it follows somebody to already (of two the one of the smaller network and client id is kept). What is not
//! followed is shown with the reason.
//!
//! A packet to a followed prefix goes into the tunnel of its member. There it is taken if it comes from the sender's own
//! virtual address and goes to a prefix of a network that both are in; back goes only what comes from such a prefix. Everything
//! else is refused as ever.
//!
//! The last decision stands with the networks, so it is the same without servers and after a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use domain::{
    ClientId, MAX_ROUTES, NetworkId, NetworkKind, NetworkName, NetworkOrder, Prefix, Revision, RouteError,
    route_prefixes,
};
use tunnel::InnerPacket;
use wire::{Code, control::Request};

use super::{Core, Output, view::Network};
use crate::{
    adapter::{Lan, Routing},
    command::{RouteLine, RouteState},
};

/// What was decided last.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// What the user of this machine agreed to lead to.
    agreed: BTreeMap<NetworkId, Vec<Prefix>>,
    /// Networks that this machine is in.
    local: Vec<Prefix>,
    /// Of servers, as far as they were named.
    servers: Vec<IpAddr>,
    /// By the first address. They do not overlap.
    followed: BTreeMap<IpAddr, (Prefix, ClientId)>,
    /// Where this client leads members of which network to.
    led: Vec<(NetworkId, Prefix)>,
    lines: Vec<RouteLine>,
    /// What the adapter was told.
    told: Routing,
    /// At which revision of a network the server was told what this machine agrees to.
    said: BTreeMap<NetworkId, Revision>,
}

/// Everything that [`decide`] looks at.
struct Facts<'a> {
    own: ClientId,
    networks: &'a BTreeMap<NetworkId, Network>,
    /// Which networks are shared with whom.
    met: &'a BTreeMap<ClientId, &'a BTreeSet<NetworkId>>,
    lan: Vec<Prefix>,
    local: &'a [Prefix],
    service: &'a [IpAddr],
    agreed: &'a BTreeMap<NetworkId, Vec<Prefix>>,
}

/// What follows from them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decision {
    followed: BTreeMap<IpAddr, (Prefix, ClientId)>,
    led: Vec<(NetworkId, Prefix)>,
    lines: Vec<RouteLine>,
}

impl Core {
    /// The user of this machine agrees to lead members of `network` to `prefixes`, and to no others; without any it is asked
    /// which ones an owner or admin named. Returns what is agreed to now.
    ///
    /// # Errors
    /// A code: the network has no gateways, or these cannot be routed.
    pub fn agree(&mut self, network: NetworkId, prefixes: &[Prefix]) -> Result<Vec<Prefix>, Code> {
        let about = self.view.networks().get(&network).ok_or(Code::NotAMember)?;
        if about.terms.kind != NetworkKind::Gateway {
            return Err(Code::NoGateways);
        }
        let named: Vec<_> = about.routes.iter().map(|route| route.prefix).collect();
        let wanted = if prefixes.is_empty() { &named } else { prefixes };
        let agreed = route_prefixes(wanted, &[], &self.lan_prefixes()).map_err(|error| match error {
            RouteError::NotRoutable(_) => Code::NotRoutable,
            RouteError::Overlap(..) => Code::RouteTaken,
            RouteError::TooMany { .. } => Code::LimitReached,
        })?;
        if agreed.is_empty() {
            return Ok(agreed);
        }
        self.routes.agreed.insert(network, agreed.clone());
        self.changed = true;
        self.routes.said.remove(&network);
        self.tend_routes();
        Ok(agreed)
    }

    /// The user of this machine leads members of `network` nowhere any more.
    pub fn disagree(&mut self, network: NetworkId) {
        self.routes.agreed.remove(&network);
        self.changed = true;
        self.routes.said.remove(&network);
        self.tend_routes();
    }

    /// All prefixes of all networks, and what became of them.
    #[must_use]
    pub fn routes(&self) -> &[RouteLine] {
        &self.routes.lines
    }

    pub(super) fn handle_local_networks(&mut self, local: Vec<Prefix>) {
        if self.routes.local != local {
            self.routes.local = local;
            self.tend_routes();
        }
    }

    /// A session began, with reflectors at these addresses.
    pub(super) fn handle_servers(&mut self, servers: Vec<IpAddr>) {
        self.routes.servers = servers;
        self.routes.said.clear();
        self.tend_routes();
    }

    /// Decides anew, and has everybody do what was decided who has a part in it.
    pub(super) fn tend_routes(&mut self) {
        let known: Vec<_> = self.view.networks().keys().copied().collect();
        self.routes.said.retain(|network, _| known.contains(network));
        let before = self.routes.agreed.len();
        self.routes.agreed.retain(|network, _| known.contains(network));
        self.changed |= self.routes.agreed.len() != before;

        let met: BTreeMap<_, _> = self.peers.iter().map(|(id, peer)| (*id, &peer.about.networks)).collect();
        let service: Vec<_> = self.routes.servers.iter().copied().chain(self.relays.addresses()).collect();
        let decision = decide(&Facts {
            own: self.own,
            networks: self.view.networks(),
            met: &met,
            lan: self.lan_prefixes(),
            local: &self.routes.local,
            service: &service,
            agreed: &self.routes.agreed,
        });
        let Decision { followed, led, lines } = decision;
        (self.routes.followed, self.routes.led, self.routes.lines) = (followed, led, lines);
        for (id, peer) in &mut self.peers {
            peer.route(self.routes.between(*id, &peer.about.networks));
        }
        let routing = self.routes.routing(self.lan);
        if self.routes.told != routing {
            self.routes.told = routing.clone();
            self.outputs.push_back(Output::Route(routing));
        }
        self.say_agreement();
    }

    /// Has the server know what this machine agrees to, where it does not.
    fn say_agreement(&mut self) {
        if !self.online {
            return;
        }
        let none = Vec::new();
        let mut orders = Vec::new();
        for (id, network) in self.view.networks() {
            let agreed = self.routes.agreed.get(id).unwrap_or(&none);
            let differs = network.routes.iter().any(|route| route.agreed != agreed.contains(&route.prefix));
            if differs && self.routes.said.get(id) != Some(&network.revision()) {
                orders.push((*id, network.revision(), agreed.clone()));
            }
        }
        for (id, revision, agreed) in orders {
            self.routes.said.insert(id, revision);
            self.outputs.push_back(Output::Ask(Request::Order(id, NetworkOrder::Agree(agreed))));
        }
    }

    /// What the virtual LAN consists of.
    fn lan_prefixes(&self) -> Vec<Prefix> {
        let Some(own) = self.view.addresses else { return Vec::new() };
        let (prefix4, prefix6) = self.prefixes;
        let v4 = own.v4.and_then(|v4| Prefix::of(v4.into(), prefix4));
        v4.into_iter().chain(Prefix::of(own.v6.into(), prefix6)).collect()
    }

    #[cfg(test)]
    pub(super) fn last_routing(&self) -> Routing {
        self.routes.told.clone()
    }

    pub(super) fn saved_agreements(&self) -> Vec<(NetworkId, Vec<Prefix>)> {
        self.routes.agreed.iter().map(|(network, prefixes)| (*network, prefixes.clone())).collect()
    }

    pub(super) fn restore_agreements(&mut self, saved: Vec<(NetworkId, Vec<Prefix>)>) {
        self.routes.agreed = saved.into_iter().collect();
    }
}

impl Routes {
    /// Whose tunnel leads to `destination`.
    pub(super) fn follow(&self, destination: IpAddr) -> Option<ClientId> {
        let (_, (prefix, gateway)) = self.followed.range(..=destination).next_back()?;
        prefix.contains(destination).then_some(*gateway)
    }

    /// Whether `packet`, of a peer that shares `networks`, is for a network that this client leads it to.
    pub(super) fn takes(&self, networks: &BTreeSet<NetworkId>, packet: &InnerPacket<'_>) -> bool {
        self.led.iter().any(|(network, prefix)| networks.contains(network) && prefix.contains(packet.destination))
    }

    /// Whether this client leads somebody to where `packet` comes from.
    pub(super) fn leads_to(&self, source: IpAddr) -> bool {
        self.led.iter().any(|(_, prefix)| prefix.contains(source))
    }

    /// Those that count between this client and a peer that shares `networks`.
    fn between(&self, peer: ClientId, networks: &BTreeSet<NetworkId>) -> tunnel::Routes {
        let own = self.led.iter().filter(|(network, _)| networks.contains(network)).map(|(_, prefix)| *prefix);
        let theirs = self.followed.values().filter(|(_, gateway)| *gateway == peer).map(|(prefix, _)| *prefix);
        tunnel::Routes { own: own.collect(), peer: theirs.collect() }
    }

    fn routing(&self, lan: Option<Lan>) -> Routing {
        let mut led: Vec<_> = self.led.iter().map(|(_, prefix)| *prefix).collect();
        led.sort_unstable();
        led.dedup();
        let followed = self.followed.values().map(|(prefix, _)| *prefix).collect();
        Routing { followed, led, lan: lan.filter(|_| !self.led.is_empty()) }
    }
}

fn decide(facts: &Facts<'_>) -> Decision {
    let mut decision = Decision::default();
    let gateways = || facts.networks.iter().filter(|(_, network)| network.terms.kind == NetworkKind::Gateway);
    // What is led to is never followed.
    for (id, network) in gateways() {
        for route in network.routes.iter().take(MAX_ROUTES) {
            let agreed = facts.agreed.get(id).is_some_and(|agreed| agreed.contains(&route.prefix));
            let state = match agreed {
                _ if !facts.is_routable(&route.prefix) => RouteState::NotRoutable,
                true => RouteState::InUse,
                false => RouteState::NotAgreed,
            };
            if state == RouteState::InUse {
                decision.led.push((*id, route.prefix));
            }
            decision.lines.push(line(&network.name, facts.own, route.prefix, state));
        }
    }
    for (id, network) in gateways() {
        for member in network.met() {
            if !facts.met.get(&member.client).is_some_and(|shared| shared.contains(id)) {
                continue;
            }
            for route in member.routes.iter().take(MAX_ROUTES) {
                let state = if !facts.is_routable(&route.prefix) {
                    RouteState::NotRoutable
                } else if !route.agreed {
                    RouteState::NotAgreed
                } else if decision.followed.len() == MAX_FOLLOWED {
                    RouteState::TooMany
                } else {
                    facts.clash(&route.prefix, &decision).unwrap_or(RouteState::InUse)
                };
                if state == RouteState::InUse {
                    decision.followed.insert(route.prefix.address(), (route.prefix, member.client));
                }
                if decision.lines.len() < MAX_LINES {
                    decision.lines.push(line(&network.name, member.client, route.prefix, state));
                }
            }
        }
    }
    decision
}

fn line(network: &NetworkName, gateway: ClientId, prefix: Prefix, state: RouteState) -> RouteLine {
    RouteLine { network: network.clone(), gateway, prefix, state, detail: None }
}

impl Facts<'_> {
    fn is_routable(&self, prefix: &Prefix) -> bool {
        prefix.is_routable() && !self.lan.iter().any(|lan| lan.overlaps(prefix))
    }

    /// What a prefix that would be followed gets in the way of.
    fn clash(&self, prefix: &Prefix, decision: &Decision) -> Option<RouteState> {
        let led = decision.led.iter().any(|(_, led)| led.overlaps(prefix));
        if led || self.local.iter().any(|local| local.overlaps(prefix)) {
            return Some(RouteState::Local);
        }
        if self.service.iter().any(|server| prefix.contains(server.to_canonical())) {
            return Some(RouteState::Server);
        }
        let taken = decision.followed.values().any(|(followed, _)| followed.overlaps(prefix));
        taken.then_some(RouteState::Taken)
    }
}

/// More than anybody needs, so that a hostile server fills neither the memory nor the routing table.
const MAX_FOLLOWED: usize = 256;
const MAX_LINES: usize = 1024;

#[cfg(test)]
mod tests {
    use domain::{Member, NetworkChange, NetworkTerms, Route};
    use proptest::prelude::*;

    use super::*;
    use crate::core::view::{
        View,
        tests::{NETWORK, change, member},
    };

    proptest! {
        #[test]
        fn whatever_is_named_what_is_followed_is_in_the_way_of_nothing(
            named in prop::collection::vec(prop::collection::vec((any_prefix(), any::<bool>()), 0..12), 0..6),
            local in prop::collection::vec(any_prefix(), 0..3),
            server in any::<[u8; 4]>(),
            agreed in prop::collection::vec(any_prefix(), 0..4),
        ) {
            let own = member(1, &[1; 32]);
            let routes = |named: &[(Prefix, bool)]| -> Vec<Route> {
                named.iter().map(|(prefix, agreed)| Route { prefix: *prefix, agreed: *agreed }).collect()
            };
            let members = named.iter().zip(1..).map(|(named, number)| {
                Member { hub: true, routes: routes(named), ..member(number, &[number; 32]) }
            });
            let mut view = View::new(own.client);
            let terms = NetworkTerms { kind: NetworkKind::Gateway, ..NetworkTerms::default() };
            view.apply(NetworkChange { terms, ..change(0, 1, members.collect()) });
            let acquaintances = view.acquaintances();
            let met = acquaintances.iter().map(|(id, about)| (*id, &about.networks)).collect();
            let (lan, service) = (lan(), [IpAddr::from(server)]);
            let consents = BTreeMap::from([(NETWORK, agreed.clone())]);
            let facts = Facts {
                own: own.client,
                networks: view.networks(),
                met: &met,
                lan: lan.clone(),
                local: &local,
                service: &service,
                agreed: &consents,
            };
            let decision = decide(&facts);
            let followed: Vec<_> = decision.followed.values().map(|(prefix, _)| *prefix).collect();
            for (nth, prefix) in followed.iter().enumerate() {
                prop_assert!(prefix.is_routable() && !prefix.contains(service[0]));
                let led = decision.led.iter().map(|(_, led)| led);
                prop_assert!(!local.iter().chain(&lan).chain(led).any(|other| other.overlaps(prefix)));
                prop_assert!(!followed[nth + 1..].iter().any(|other| other.overlaps(prefix)));
                let routes = Routes { followed: decision.followed.clone(), ..Routes::default() };
                prop_assert_eq!(routes.follow(prefix.address()), Some(decision.followed[&prefix.address()].1));
            }
            for (_, led) in &decision.led {
                prop_assert!(agreed.contains(led) && led.is_routable() && !lan.iter().any(|lan| lan.overlaps(led)));
            }
            prop_assert_eq!(&decide(&facts), &decision);
        }
    }

    /// Small enough a space that prefixes meet.
    fn any_prefix() -> impl Strategy<Value = Prefix> {
        let bytes = prop::sample::select(vec![0_u8, 1, 10, 100, 172, 192]);
        let v4 = (bytes, 60..70_u8, any::<bool>(), 0..=32_u8)
            .prop_map(|(a, b, odd, length)| Prefix::of(IpAddr::from([a, b, u8::from(odd), 0]), length).unwrap());
        let v6 = (prop::sample::select(vec![0_u16, 0x2001, 0xfd00, 0xfd01, 0xfe80, 0xff02]), 0..4_u16, 0..=128_u8);
        let v6 = v6.prop_map(|(a, b, length)| Prefix::of(IpAddr::from([a, b, 0, 0, 0, 0, 0, 0]), length).unwrap());
        prop_oneof![v4, v6]
    }

    fn lan() -> Vec<Prefix> {
        ["100.64.0.0/10", "fd00::/48"].map(|text| text.parse().unwrap()).to_vec()
    }
}
