//! Who meets whom where not all do, and networks behind members, as ordinary programs see them.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::{
    client::{Client, INTERFACE, PASSWORD},
    lab::Lab,
    namespace::Namespace,
    nat::Nat,
    process::eventually,
    scenarios::World,
    server::Seams,
    traffic::Ping,
};

const NETWORK: &str = "office";
/// The network behind the gateway, and a machine in it that knows no other.
const BEHIND: &str = "192.168.50.0/24";
const BEHIND6: &str = "fd12:3456:789a::/64";
const GATE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
const PRINTER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 7);
const PRINTER6: &str = "fd12:3456:789a::7";
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn members_reach_the_network_behind_a_gateway_that_agreed() {
    let mut world = World::on(Seams::Embedded);
    let (mut gate, one, two) = world.three();
    let printer = behind(&mut world.lab, &gate);
    gate.must(&["create", NETWORK, "--kind", "gateway", "--password-file", "-"], PASSWORD);
    one.join(NETWORK);
    two.join(NETWORK);
    let (gate_at, one_at, two_at) = (gate.address4(), one.address4(), two.address4());
    gate.must(&["gateway", &gate_at.to_string(), NETWORK, BEHIND, BEHIND6], "");
    for member in [&one, &two] {
        member.wait(gate_at, "direct", "60s");
        Ping::for_seconds(&world.lab, member.host(), gate_at, 2).assert_uninterrupted();
    }

    // Nobody agreed: the prefix is known, and nothing is routed.
    one.await_route(BEHIND, "not-agreed");
    one.assert_unreached(PRINTER);
    assert!(!routes(&one).contains(BEHIND) && !gate.host().namespace.rules().contains("masquerade"));

    assert_eq!(gate.must(&["route", NETWORK, "on"], "")["agreed"], serde_json::json!([BEHIND, BEHIND6]));
    for member in [&one, &two] {
        member.await_route(BEHIND, "in-use");
        member.await_route(BEHIND6, "in-use");
        member.await_reached(PRINTER);
        Ping::for_seconds(&world.lab, member.host(), PRINTER, 2).assert_uninterrupted();
        Ping::for_seconds(&world.lab, member.host(), PRINTER6.parse::<IpAddr>().unwrap(), 2).assert_uninterrupted();
    }
    // Members meet the gateway, and not one another; the gateway's other network is no way to them.
    one.assert_unreached(two_at);
    assert!(one.sees(two_at).is_none());
    let rules = gate.host().namespace.rules();
    assert!(rules.contains(BEHIND) && rules.contains("masquerade"), "{rules}");
    // A host behind the gateway that knows the way reaches no member by itself.
    printer.ip(&format!("route add 100.64.0.0/10 via {GATE}"));
    assert!(!answers(&printer, one_at.into()));

    // Without servers, and after restarts without goodbyes on both sides, the same holds.
    world.servers.kill_all();
    gate.kill();
    gate.resume();
    one.await_reached(PRINTER);
    Ping::for_seconds(&world.lab, one.host(), PRINTER, 2).assert_uninterrupted();
    world.servers.start_all(&world.lab);
    one.await_control(PATIENCE);
    gate.await_control(PATIENCE);

    // The machine's own user has the last word.
    gate.must(&["route", NETWORK, "off"], "");
    one.await_route(BEHIND, "not-agreed");
    eventually("the way is closed", PATIENCE, || (!routes(&one).contains(BEHIND)).then_some(()));
    one.assert_unreached(PRINTER);
    eventually("the rules are gone", PATIENCE, || {
        (!gate.host().namespace.rules().contains("masquerade")).then_some(())
    });
}

#[test]
fn a_prefix_that_is_taken_back_or_gets_in_the_way_leads_nowhere() {
    let mut world = World::on(Seams::Embedded);
    let (mut gate, one, two) = world.three();
    let _printer = behind(&mut world.lab, &gate);
    gate.must(&["create", NETWORK, "--kind", "gateway", "--password-file", "-"], PASSWORD);
    one.join(NETWORK);
    two.join(NETWORK);
    let gate_at = gate.address4().to_string();
    // Every home of the lab is 192.168.1.0/24, and the second member is in the network behind the gateway, too.
    let inside = &two.host().namespace;
    inside.ip("link add other type veth peer name end\naddr add 192.168.50.99/24 dev other\nlink set other up\nlink set end up");
    gate.must(&["gateway", &gate_at, NETWORK, BEHIND, "192.168.1.0/24"], "");
    gate.must(&["route", NETWORK, "on"], "");
    one.await_route(BEHIND, "in-use");
    one.await_route("192.168.1.0/24", "local");
    two.await_route(BEHIND, "local");
    one.wait(gate.address4(), "any", "60s");
    one.await_reached(PRINTER);
    assert!(!routes(&two).contains(&format!("{BEHIND} dev {INTERFACE}")), "{}", routes(&two));
    assert!(!routes(&one).contains(&format!("192.168.1.0/24 dev {INTERFACE}")), "{}", routes(&one));

    // An admin takes it back, and names another one, to which nobody agreed.
    gate.must(&["gateway", &gate_at, NETWORK, "10.77.0.0/16"], "");
    one.await_route("10.77.0.0/16", "not-agreed");
    eventually("the way is closed", PATIENCE, || (!routes(&one).contains(BEHIND)).then_some(()));
    one.assert_unreached(PRINTER);

    // What a daemon that was killed left is gone when it is back, and what one that ends has made goes with it.
    gate.must(&["gateway", &gate_at, NETWORK, BEHIND], "");
    gate.must(&["route", NETWORK, "on"], "");
    one.await_route(BEHIND, "in-use");
    one.await_reached(PRINTER);
    gate.kill();
    assert!(gate.host().namespace.rules().contains("masquerade"));
    world.servers.kill_all();
    gate.resume();
    gate.must(&["route", NETWORK, "off"], "");
    let rules_are_gone = |gate: &Client| {
        eventually("the rules are gone", PATIENCE, || (!gate.host().namespace.rules().contains("buri_")).then_some(()));
    };
    rules_are_gone(&gate);
    gate.must(&["route", NETWORK, "on"], "");
    eventually("the rules are there", PATIENCE, || gate.host().namespace.rules().contains("masquerade").then_some(()));
    gate.end();
    rules_are_gone(&gate);
}

#[test]
fn spokes_reach_the_hub_and_not_each_other() {
    let mut world = World::on(Seams::Embedded);
    let (hub, one, two) = world.three();
    hub.must(&["create", NETWORK, "--kind", "hub", "--password-file", "-"], PASSWORD);
    one.join(NETWORK);
    two.join(NETWORK);
    let (hub_at, one_at, two_at) = (hub.address4(), one.address4(), two.address4());
    for (spoke, at) in [(&one, one_at), (&two, two_at)] {
        spoke.wait(hub_at, "direct", "60s");
        Ping::for_seconds(&world.lab, spoke.host(), hub_at, 2).assert_uninterrupted();
        Ping::for_seconds(&world.lab, hub.host(), at, 2).assert_uninterrupted();
    }
    one.assert_unreached(two_at);
    two.assert_unreached(one_at);
    // Also when nobody is there who could say so.
    world.servers.kill_all();
    one.assert_unreached(two_at);
    Ping::for_seconds(&world.lab, one.host(), hub_at, 2).assert_uninterrupted();
}

impl World {
    /// Three clients, each in a home of its own.
    fn three(&mut self) -> (Client, Client, Client) {
        let mut start = |name| {
            let host = self.lab.host_behind(Nat::Home);
            let client = Client::start(&self.lab, name, host, self.servers.url());
            client.await_control(PATIENCE);
            client
        };
        (start("gate"), start("one"), start("two"))
    }
}

/// A network behind `gate`, with a machine that knows no way out of it.
fn behind(lab: &mut Lab, gate: &Client) -> Namespace {
    let (printer, gate) = (lab.machine("printer"), &gate.host().namespace);
    gate.ip(&format!(
        "link add inside type veth peer name eth0 netns {printer}\n\
         addr add {GATE}/24 dev inside\naddr add fd12:3456:789a::1/64 dev inside\nlink set inside up"
    ));
    printer.ip(&format!("addr add {PRINTER}/24 dev eth0\naddr add {PRINTER6}/64 dev eth0\nlink set eth0 up"));
    printer
}

/// The routing tables of the machine of `client`.
fn routes(client: &Client) -> String {
    let table = |family: &str| {
        let output = client.host().namespace.command("ip").args([family, "route"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    table("-4") + &table("-6")
}

impl Client {
    /// Waits until a prefix is in this state.
    #[track_caller]
    fn await_route(&self, prefix: &str, state: &str) {
        let mut last = serde_json::Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the prefix is known", PATIENCE, || {
                last = self.status()["routes"].clone();
                let mut lines = last.as_array()?.iter();
                lines.any(|line| line["prefix"] == prefix && line["state"] == state).then_some(())
            });
        }));
        assert!(found.is_ok(), "{prefix} is not {state}: {last}");
    }

    /// Waits until the machine there answers.
    #[track_caller]
    fn await_reached(&self, to: impl Into<IpAddr>) {
        let to = to.into();
        eventually("an answer comes", PATIENCE, || answers(&self.host().namespace, to).then_some(()));
    }

    /// Nobody answers there.
    #[track_caller]
    fn assert_unreached(&self, to: impl Into<IpAddr>) {
        let to = to.into();
        assert!(!answers(&self.host().namespace, to), "{to} answers");
    }
}

/// Whether one of a few packets is answered.
fn answers(from: &Namespace, to: IpAddr) -> bool {
    let mut ping = from.command("ping");
    ping.args(["-n", "-c", "3", "-i", "0.2", "-W", "1"]).arg(to.to_string());
    ping.output().unwrap().status.success()
}
