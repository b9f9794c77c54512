//! What two people behind two routers go through, on either kind of deployment.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use traversal::{
    schedule::Limits,
    sim::{
        Premises, Site,
        net::Conditions,
        trial::{Driver, Place, Scenario, run},
    },
};

use crate::{
    access::Access,
    client::Client,
    cluster::service_must,
    ethernet::Station,
    lab::Lab,
    nat::Nat,
    process::eventually,
    server::{ONE_WORKER, Seams, Servers},
    site::Host,
    traffic::{self, Ping},
};

/// A lab with running servers.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) servers: Servers,
    pub(crate) lab: Lab,
}

/// Two clients in one network.
pub(crate) struct Pair {
    pub(crate) anna: Client,
    pub(crate) bert: Client,
    pub(crate) anna_at: Ipv4Addr,
    pub(crate) bert_at: Ipv4Addr,
}

impl World {
    pub(crate) fn on(seams: Seams) -> Self {
        let lab = Lab::new();
        Self { servers: Servers::start(&lab, seams), lab }
    }

    pub(crate) fn two_homes_become_one_lan(mut self) {
        let pair = self.pair(Nat::Home, Nat::Home);
        pair.wait("direct");

        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 3).assert_uninterrupted();
        Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna.address6(), 2).assert_uninterrupted();
        traffic::transfer(&pair.anna, &pair.bert);
        traffic::broadcast(&pair.anna, &pair.bert);
        traffic::broadcast(&pair.bert, &pair.anna);
        traffic::discover(&pair.anna, &pair.bert);

        let why = pair.anna.why(pair.bert_at).unwrap();
        assert_eq!((&why["outcome"], &why["strategy"]), (&"direct".into(), &"direct".into()), "{why}");
    }

    /// Two of the three see the LAN as Ethernet, the third as a network of packets.
    pub(crate) fn the_lan_is_an_ethernet_too(mut self) {
        let mut start = |adapter, name| {
            let host = self.lab.host_behind(Nat::Home);
            Client::start_on(adapter, &self.lab, name, host, self.servers.url())
        };
        let [anna, bert, tina] =
            [("tap", "anna"), ("tap", "bert"), ("tun", "tina")].map(|(what, name)| start(what, name));
        anna.create("friday games");
        bert.join("friday games");
        tina.join("friday games");
        for (from, to) in [(&anna, &bert), (&anna, &tina), (&tina, &bert)] {
            from.wait(to.address4(), "direct", "60s");
            to.wait(from.address4(), "direct", "60s");
            Ping::for_seconds(&self.lab, from.host(), to.address4(), 2).assert_uninterrupted();
            Ping::for_seconds(&self.lab, to.host(), from.address4(), 2).assert_uninterrupted();
            Ping::for_seconds(&self.lab, from.host(), to.address6(), 2).assert_uninterrupted();
            Ping::for_seconds(&self.lab, to.host(), from.address6(), 2).assert_uninterrupted();
            traffic::transfer(from, to);
            traffic::transfer(to, from);
            traffic::broadcast(from, to);
            traffic::broadcast(to, from);
            traffic::discover(from, to);
        }

        let [from, to] = [&anna, &bert].map(|client| Station::plug_in(client, Station::IPX));
        from.send(to.address(), b"are you there?");
        assert_eq!(to.hear(), (from.address(), b"are you there?".to_vec()));
        to.send([0xff; 6], b"to all of you");
        assert_eq!(from.hear(), (to.address(), b"to all of you".to_vec()));
        to.send(from.address(), &[7; Station::LARGEST]);
        assert_eq!(from.hear().1, [7; Station::LARGEST]);

        let [from, to] = [&anna, &bert].map(|client| Station::plug_in(client, Station::LLDP));
        from.send([0x01, 0x80, 0xc2, 0, 0, 0x0e], b"for this cable");
        from.send([0xff; 6], b"for all");
        assert_eq!(to.hear().1, b"for all", "what bridges keep does not travel");
    }

    pub(crate) fn a_pair_goes_direct(mut self, first: impl Into<Access>, second: impl Into<Access>, strategy: &str) {
        let pair = self.pair(first, second);
        // One birthday in fifty finds nothing; the next one comes two minutes later.
        pair.anna.wait(pair.bert_at, "direct", if strategy == "birthday" { "150s" } else { "60s" });
        pair.wait("direct");
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 2).assert_uninterrupted();
        Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 2).assert_uninterrupted();

        let why = pair.anna.why(pair.bert_at).unwrap();
        assert_eq!((&why["outcome"], &why["strategy"]), (&"direct".into(), &strategy.into()), "{why}");
    }

    /// The router of one side of two that could not meet otherwise is asked for a port, and asked again when it forgot.
    pub(crate) fn a_router_with_upnp_makes_a_pair_direct_also_after_a_reboot(mut self) {
        let pair = self.pair(Access::through(Nat::Symmetric).with_upnp(), Nat::Symmetric);
        pair.wait("direct");
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 2).assert_uninterrupted();
        let mapping = |client: &Client| client.status()["nat"]["port_mapping"].clone();
        let before = mapping(&pair.anna);
        let port = before["external"].as_str().unwrap().parse::<SocketAddr>().unwrap().port();
        assert!(self.lab.has_mapping(pair.anna.host(), port));
        assert_eq!((&before["by"], &before["usable"]), (&"upnp".into(), &true.into()), "{before}");
        let why = pair.anna.why(pair.bert_at).unwrap();
        assert!(why["hint"].as_str().unwrap().contains("port mapping"), "{why}");

        self.lab.reboot_router_of(pair.anna.host());
        eventually("the port is mapped again", RECOVERY, || self.lab.has_mapping(pair.anna.host(), port).then_some(()));
        pair.await_control();
        // The path that the reboot ended may look alive for a moment.
        eventually("nothing is lost any more", RECOVERY, || {
            pair.wait("direct");
            let ping = Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 2);
            (ping.longest_gap() == 0).then_some(())
        });
    }

    /// A second NAT is in the way of what the first one maps.
    pub(crate) fn a_port_mapping_behind_a_carrier_is_kept_and_not_counted_on(mut self) {
        let mapped = Access::through(Nat::Symmetric).with_upnp().behind(Nat::Symmetric);
        let pair = self.pair(mapped, Nat::Symmetric);
        pair.wait("relay");
        let mapping = eventually("the port is mapped", RECOVERY, || {
            Some(pair.anna.status()["nat"]["port_mapping"].take()).filter(|mapping| !mapping.is_null())
        });
        assert_eq!((&mapping["by"], &mapping["usable"]), (&"upnp".into(), &false.into()), "{mapping}");
        assert!(!pair.anna.gets(pair.bert_at, "direct", "3s"), "nobody is told of it");
    }

    /// Control goes over TCP, and so does the tunnel; when its router forgets the connection there is another one.
    pub(crate) fn a_home_without_udp_goes_direct_over_tcp(mut self) {
        let pair = self.pair(Nat::UdpBlocked, Nat::Home);
        pair.wait("direct");
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 3).assert_uninterrupted();
        Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna.address6(), 2).assert_uninterrupted();
        traffic::transfer(&pair.anna, &pair.bert);
        traffic::transfer(&pair.bert, &pair.anna);

        let why = pair.anna.why(pair.bert_at).unwrap();
        assert_eq!((&why["outcome"], &why["strategy"]), (&"direct".into(), &"tcp".into()), "{why}");
        assert_eq!((&why["via"], &why["attempts"]), (&"tcp".into(), &1.into()), "{why}");
        assert!(why["hint"].as_str().unwrap().contains("TCP"), "{why}");

        pair.anna.host().router().reboot();
        let ping = Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 40);
        assert!(ping.longest_gap() < 30 * 5, "half a minute after the reboot there is another connection: {ping:?}");
        pair.wait("direct");
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 2).assert_uninterrupted();
    }

    /// The specification of traversal runs on simulated NATs: the same client must see the kernel's as it sees those.
    pub(crate) fn the_kernels_nats_are_seen_like_simulated_ones(mut self) {
        let kinds = [
            ("home", Nat::Home, Site::Home),
            ("linux", Nat::HomeWithoutInputFilter, Site::LinuxHome),
            ("cone", Nat::HomeWithOtherPorts, Site::RandomCone),
            ("open", Nat::FullCone, Site::FullCone),
            ("random", Nat::Symmetric, Site::Random),
            ("counting", Nat::Sequential { step: 1 }, Site::Sequential),
            ("by-two", Nat::Sequential { step: 2 }, Site::SequentialByTwo),
            ("pool", Nat::Pool, Site::Pool),
            ("blocked", Nat::UdpBlocked, Site::Blocked),
        ];
        let clients = kinds.map(|(name, nat, site)| {
            let host = self.lab.host_behind(nat);
            (Client::start(&self.lab, name, host, self.servers.url()), site)
        });
        for (client, site) in clients {
            let simulated = seen_in_simulation(site);
            let mut seen = Value::Null;
            let alike = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                eventually("both are seen alike", Duration::from_secs(10), || {
                    seen = client.status()["nat"].take();
                    let same = |(key, value): (&String, &Value)| seen[key] == *value;
                    simulated.as_object().unwrap().iter().all(same).then_some(())
                });
            }));
            assert!(alike.is_ok(), "{site:?}: in the kernel {seen}, in the simulation {simulated}");
        }
    }

    /// Whoever of them has no UDP; at least the first has none.
    pub(crate) fn pairs_without_udp_are_relayed_over_tcp(mut self, first: Nat, second: Nat) {
        let pair = self.pair(first, second);
        pair.wait("relay");
        let ping = Ping::start(&self.lab, pair.anna.host(), pair.bert_at);
        Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 3).assert_uninterrupted();
        traffic::transfer(&pair.anna, &pair.bert);
        traffic::transfer(&pair.bert, &pair.anna);
        ping.stop().assert_uninterrupted();

        assert!(pair.anna.is_streamed_to(pair.bert_at), "{:?}", pair.anna.sees(pair.bert_at));
        assert_eq!(pair.bert.is_streamed_to(pair.anna_at), second != Nat::Home);
        let why = pair.anna.why(pair.bert_at).unwrap();
        assert_eq!(why["now"], "relayed over TCP 443 because UDP is blocked here", "{why}");
    }

    pub(crate) fn udp_that_is_blocked_under_traffic_is_replaced_and_comes_back(mut self) {
        let pair = self.pair(Nat::Symmetric, Nat::Symmetric);
        pair.wait("relay");
        Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 3).assert_uninterrupted();
        let ping = Ping::start(&self.lab, pair.bert.host(), pair.anna_at);
        let router = pair.anna.host().router();
        router.block_udp();
        eventually("the stream carries", RECOVERY, || pair.anna.is_streamed_to(pair.bert_at).then_some(()));
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 3).assert_uninterrupted();
        let gap = ping.stop();
        // Five a second; three seconds, and what a busy machine adds.
        assert!((1..=20).contains(&gap.longest_gap()), "{gap:?}");

        let ping = Ping::start(&self.lab, pair.bert.host(), pair.anna_at);
        router.unblock_udp();
        eventually("UDP carries again", RECOVERY, || (!pair.anna.is_streamed_to(pair.bert_at)).then_some(()));
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 3).assert_uninterrupted();
        let back = ping.stop();
        assert!(back.longest_gap() <= 1, "{back:?}");
        assert_eq!(pair.anna.sees(pair.bert_at).unwrap()["path"], "relay");
    }

    /// Four members whom the relay connects, one of them over TLS: what one says to all goes to the relay once.
    pub(crate) fn a_relay_copies_what_is_for_everybody() {
        let mut lab = Lab::new();
        let servers = Servers::start_with(&lab, Seams::Embedded, ONE_WORKER);
        let members =
            [("anna", Nat::Symmetric), ("bert", Nat::HttpsOnly), ("tina", Nat::Symmetric), ("paul", Nat::Symmetric)];
        let [anna, bert, tina, paul] = members.map(|(name, nat)| {
            let host = lab.host_behind(nat);
            Client::start(&lab, name, host, servers.url())
        });
        anna.create("friday games");
        let others = [&bert, &tina, &paul];
        for other in others {
            other.join("friday games");
        }
        for other in others {
            anna.wait(other.address4(), "relay", "60s");
            other.wait(anna.address4(), "relay", "60s");
        }
        assert!(bert.is_streamed_to(anna.address4()));

        // The first ones go to each alone, until all have the key.
        traffic::shout(&anna, &others, 20);
        let copied = || ["relay_fanned_frames_total", "relay_copies_total"].map(|name| servers.figure(&lab, name));
        let [frames, copies] = copied();
        traffic::shout(&anna, &others, 20);
        let after = copied();
        assert_eq!([after[0] - frames, after[1] - copies], [20, 60]);
    }

    pub(crate) fn two_symmetric_nats_stay_on_the_relay(mut self) {
        let pair = self.pair(Nat::Symmetric, Nat::Symmetric);
        pair.wait("relay");
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 3).assert_uninterrupted();
        assert!(!pair.anna.gets(pair.bert_at, "direct", "5s"), "random ports on both sides cannot meet");
        Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 2).assert_uninterrupted();

        let why = pair.anna.why(pair.bert_at).unwrap();
        assert_eq!(why["outcome"], "relayed", "{why}");
        assert!(!why["hint"].as_str().unwrap().is_empty(), "{why}");
    }

    pub(crate) fn two_machines_behind_one_nat_go_direct(mut self) {
        let mut site = self.lab.site(Nat::Home);
        let (first, second) = (self.lab.host(&mut site), self.lab.host(&mut site));
        let lan = [first.address, second.address];
        let pair = self.pair_on(first, second);
        pair.wait("direct");
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 2).assert_uninterrupted();
        let peer = pair.anna.sees(pair.bert_at).unwrap();
        assert!(peer["endpoint"].as_str().unwrap().starts_with(&lan[1].to_string()), "over the LAN: {peer}");
    }

    /// Each of them punches to the same peer, all at once; only what takes turns can predict.
    pub(crate) fn machines_behind_one_nat_all_reach_a_peer(mut self, nat: impl Into<Access>, machines: usize) {
        let peer = self.lab.host_behind(Nat::Home);
        let mut site = self.lab.site(nat);
        let hosts: Vec<_> = PEOPLE[..machines].iter().map(|name| (*name, self.lab.host(&mut site))).collect();
        let start = |(name, host)| Client::start(&self.lab, name, host, self.servers.url());
        let peer = start(("peer", peer));
        peer.create("friday games");
        let clients: Vec<_> = hosts.into_iter().map(start).collect();
        std::thread::scope(|scope| {
            for client in &clients {
                scope.spawn(|| client.join("friday games"));
            }
        });
        for client in &clients {
            client.wait(peer.address4(), "direct", "60s");
            peer.wait(client.address4(), "direct", "60s");
            Ping::for_seconds(&self.lab, client.host(), peer.address4(), 1).assert_uninterrupted();
        }
    }

    pub(crate) fn two_symmetric_nats_go_direct_over_ipv6(mut self) {
        let access = Access::through(Nat::Symmetric).with_ipv6();
        let pair = self.pair(access, access);
        pair.wait("direct");
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 2).assert_uninterrupted();
        let peer = pair.anna.sees(pair.bert_at).unwrap();
        let at = pair.bert.host().address6.unwrap();
        assert!(peer["endpoint"].as_str().unwrap().starts_with(&format!("[{at}]")), "{peer}");
    }

    /// The mapping of the tunnel is gone, and where ports are drawn the next one is another.
    pub(crate) fn a_router_reboots_under_traffic(mut self, nat: impl Into<Access>) {
        let pair = self.pair(nat, Nat::Home);
        pair.wait("direct");
        let ping = Ping::start(&self.lab, pair.anna.host(), pair.bert_at);
        pair.anna.host().router().reboot();
        let back = Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 15);
        assert!(back.longest_gap() <= 50, "ten seconds after the reboot, so is the tunnel: {back:?}");
        assert!(ping.stop().longest_gap() <= 50);
        pair.wait("direct");
        pair.await_control();
        pair.await_change("anna-again");
    }

    /// The address that packets come from is another one from one moment to the next.
    pub(crate) fn a_client_that_roams_goes_on_over_the_relay_and_finds_a_direct_path_again(mut self) {
        let mut pair = self.pair(Nat::Home, Nat::Home);
        pair.wait("direct");
        for address in [77, 78] {
            let there = Ping::start(&self.lab, pair.anna.host(), pair.bert_at);
            let back = Ping::start(&self.lab, pair.bert.host(), pair.anna_at);
            pair.settle(&self.lab);
            pair.anna.host_mut().move_to(address);
            pair.settle(&self.lab);
            traffic::assert_lost_at_one_moment(&[there.stop(), back.stop()]);
            pair.await_control();
            pair.wait("direct");
            pair.settle(&self.lab);
            let peer = pair.bert.sees(pair.anna_at).unwrap();
            assert_eq!(peer["path"], "direct", "{peer}");
        }
    }

    pub(crate) fn a_tunnel_outlives_a_minute_without_servers(mut self) {
        let pair = self.pair(Nat::Home, Nat::Home);
        pair.wait("direct");

        self.servers.kill_all();
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, OUTAGE).assert_uninterrupted();

        self.servers.start_all(&self.lab);
        let ping = Ping::start(&self.lab, pair.anna.host(), pair.bert_at);
        pair.await_control();
        pair.anna.await_peer(pair.bert_at, "presence", "online", RECOVERY);
        pair.await_change("anna-is-back");
        ping.stop().assert_uninterrupted();
        assert_eq!((pair.anna.address4(), pair.bert.address4()), (pair.anna_at, pair.bert_at));
    }

    pub(crate) fn a_client_that_vanishes_is_lost_then_offline(mut self) {
        let mut pair = self.pair(Nat::Home, Nat::Home);
        pair.wait("direct");
        pair.anna.await_peer(pair.bert_at, "presence", "online", RECOVERY);

        pair.bert.kill();
        pair.anna.await_peer(pair.bert_at, "presence", "lost", RECOVERY);
        pair.anna.await_peer(pair.bert_at, "presence", "offline", RECOVERY);

        pair.bert.resume();
        pair.anna.await_peer(pair.bert_at, "presence", "online", RECOVERY);
        pair.wait("direct");
        Ping::for_seconds(&self.lab, pair.anna.host(), pair.bert_at, 2).assert_uninterrupted();
    }

    pub(crate) fn a_client_restarts_while_the_servers_are_down(mut self) {
        let mut pair = self.pair(Nat::Home, Nat::Home);
        pair.wait("direct");

        self.servers.kill_all();
        pair.bert.kill();
        pair.bert.resume();
        assert_eq!(pair.bert.address4(), pair.bert_at, "known without a server");
        pair.bert.wait(pair.anna_at, "direct", "60s");
        Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 3).assert_uninterrupted();

        self.servers.start_all(&self.lab);
        pair.await_control();
        pair.await_change("still-anna");
    }

    pub(crate) fn a_pulled_cable_costs_no_tunnel(mut self) {
        let pair = self.pair(Nat::Home, Nat::Home);
        pair.wait("direct");

        let ping = Ping::start(&self.lab, pair.anna.host(), pair.bert_at);
        pair.anna.host().unplug();
        let cut = Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 10);
        assert_eq!(cut.lost.len() as u32, cut.sent - 1, "the cable is pulled: {cut:?}");
        pair.anna.host().plug();

        pair.wait("any");
        let back = Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 10);
        assert!(back.longest_gap() <= 25, "five seconds after the cable is back, so is the tunnel: {back:?}");
        assert!(ping.stop().longest_gap() <= 50 + 25);
        pair.await_control();
        pair.wait("direct");
        pair.await_change("plugged-in");
    }

    pub(crate) fn a_direct_tunnel_outlives_the_kill_of_each_role(mut self) {
        let pair = self.pair(Nat::Home, Nat::Home);
        pair.wait("direct");
        let ping = Ping::start(&self.lab, pair.anna.host(), pair.bert_at);
        for (nth, role) in self.servers.names().into_iter().enumerate() {
            self.servers.kill_one(role);
            Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 2).assert_uninterrupted();
            self.servers.start_one(&self.lab, role);
            pair.await_control();
            pair.await_change(&format!("anna-{nth}"));
        }
        ping.stop().assert_uninterrupted();
        pair.anna.create("second");
        pair.bert.join("second");
    }

    pub(crate) fn a_relayed_pair_is_back_after_the_kill_of_each_role(mut self) {
        let pair = self.pair(Nat::Symmetric, Nat::Symmetric);
        pair.wait("relay");
        for role in self.servers.names() {
            let ping = Ping::start(&self.lab, pair.anna.host(), pair.bert_at);
            self.servers.kill_one(role);
            let without = Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 2);
            self.servers.start_one(&self.lab, role);
            pair.await_control();
            pair.wait("relay");
            if role == "relay" {
                assert!(without.lost.len() > 1, "there was no other relay: {without:?}");
            } else {
                without.assert_uninterrupted();
                ping.stop().assert_uninterrupted();
            }
            let back = Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna_at, 15);
            assert!(back.longest_gap() <= 50, "ten seconds after {role} is back, so is the pair: {back:?}");
        }
    }

    pub(crate) fn the_doctor_names_a_service_that_is_down_and_nobody_is_lost_with_it(mut self) {
        let pair = self.pair(Nat::Home, Nat::Home);
        pair.wait("direct");
        let ping = Ping::start(&self.lab, pair.anna.host(), pair.bert_at);
        for (service, check) in [("redis", "presence"), ("postgres", "store"), ("rabbitmq", "bus")] {
            self.await_health();
            service_must("stop", service);
            let ailments = self.servers.cluster().ailments(&self.lab);
            let (_, remedy) = ailments.iter().find(|(name, _)| name == check).unwrap_or_else(|| panic!("{ailments:?}"));
            assert!(remedy.contains("start"), "{remedy}");

            service_must("start", service);
            self.await_health();
            pair.await_control();
            pair.anna.await_peer(pair.bert_at, "presence", "online", RECOVERY);
            pair.await_change(&format!("after-{service}"));
            pair.anna.create(service);
            pair.bert.join(service);
        }
        ping.stop().assert_uninterrupted();
    }

    #[track_caller]
    fn await_health(&self) {
        eventually("the doctor finds everything well", RECOVERY, || {
            self.servers.cluster().ailments(&self.lab).is_empty().then_some(())
        });
    }

    fn pair(&mut self, first: impl Into<Access>, second: impl Into<Access>) -> Pair {
        let (first, second) = (self.lab.host_behind(first), self.lab.host_behind(second));
        self.pair_on(first, second)
    }

    /// Two that may only use relays.
    pub(crate) fn relayed_pair(&mut self, first: impl Into<Access>, second: impl Into<Access>) -> Pair {
        let hosts = [("anna", self.lab.host_behind(first)), ("bert", self.lab.host_behind(second))];
        let [anna, bert] = hosts.map(|(name, host)| Client::start_relayed(&self.lab, name, host, self.servers.url()));
        Self::in_one_network(anna, bert)
    }

    fn pair_on(&self, first: Host, second: Host) -> Pair {
        let anna = Client::start(&self.lab, "anna", first, self.servers.url());
        let bert = Client::start(&self.lab, "bert", second, self.servers.url());
        Self::in_one_network(anna, bert)
    }

    fn in_one_network(anna: Client, bert: Client) -> Pair {
        // Whoever finds one way to the servers closed tries the next, which takes longer than a command waits.
        anna.await_control(RECOVERY);
        bert.await_control(RECOVERY);
        anna.create("friday games");
        bert.join("friday games");
        let (anna_at, bert_at) = (anna.address4(), bert.address4());
        Pair { anna, bert, anna_at, bert_at }
    }
}

impl Pair {
    /// Waits until both have a path of this kind.
    #[track_caller]
    pub(crate) fn wait(&self, path: &str) {
        self.anna.wait(self.bert_at, path, "60s");
        self.bert.wait(self.anna_at, path, "60s");
    }

    /// Two seconds of traffic.
    fn settle(&self, lab: &Lab) {
        Ping::for_seconds(lab, self.bert.host(), self.anna.address6(), 2);
    }

    /// Waits until both are connected to the servers.
    #[track_caller]
    fn await_control(&self) {
        self.anna.await_control(RECOVERY);
        self.bert.await_control(RECOVERY);
    }

    /// Makes a change that only working servers can pass on, and waits for it on the other side.
    #[track_caller]
    fn await_change(&self, nick: &str) {
        // A role that looks for its broker refuses, and says so.
        eventually("the servers take a change", RECOVERY, || self.anna.rename(nick).then_some(()));
        self.bert.await_peer(self.anna_at, "nick", nick, RECOVERY);
    }
}

/// Those who share a NAT.
const PEOPLE: [&str; 8] = ["carl", "dora", "emil", "frida", "gustav", "hanna", "ivan", "julia"];

/// What a client behind a simulated `site` finds out.
fn seen_in_simulation(site: Site) -> Value {
    let place = Place::Apart([site, Site::Blocked].map(|site| Premises::behind(site.boxes())));
    let conditions = Conditions { loss: 0.0, ..Conditions::USUAL };
    let driver = Driver::Server(Limits::default());
    let outcome = run(&Scenario { place, conditions, driver, patience: Duration::from_secs(5) }, 1);
    let profile = outcome.pairs[0].profiles[0].unwrap();
    let mut seen = serde_json::json!({
        "class": profile.class(), "mapping": profile.mapping, "filtering": profile.filtering, "pool": profile.pool,
    });
    // The kernel's pool keeps ports where the simulated one draws them.
    if !profile.pool {
        seen["allocation"] = serde_json::json!(profile.allocation);
    }
    seen
}

/// Seconds.
const OUTAGE: u32 = 60;

/// The longest pause between two attempts to reconnect, and some more.
const RECOVERY: Duration = Duration::from_secs(45);
