//! One process for each role, on Postgres, Redis and RabbitMQ; and the scenarios on them.

use std::{
    env, fs,
    io::{self, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
};

use serde_json::Value;

use crate::{
    access::Access,
    lab::{Lab, SERVERS, SERVERS6},
    nat::Nat,
    process::{Process, executable},
    scenarios::World,
    server::{ROLES, Seams, UNCAPPED},
};

#[test]
fn two_homes_become_one_lan() {
    World::on(Seams::Cluster).two_homes_become_one_lan();
}

#[test]
fn the_lan_is_an_ethernet_too() {
    World::on(Seams::Cluster).the_lan_is_an_ethernet_too();
}

#[test]
fn a_home_without_udp_goes_direct_over_tcp() {
    World::on(Seams::Cluster).a_home_without_udp_goes_direct_over_tcp();
}

#[test]
fn a_home_reaches_a_full_cone_directly() {
    World::on(Seams::Cluster).a_pair_goes_direct(Nat::Home, Nat::FullCone, "direct");
}

#[test]
fn openers_come_before_packets_that_would_move_a_mapping() {
    World::on(Seams::Cluster).a_pair_goes_direct(Nat::HomeWithoutInputFilter, Nat::HomeWithoutInputFilter, "direct");
}

#[test]
fn a_symmetric_nat_reaches_a_full_cone_directly() {
    World::on(Seams::Cluster).a_pair_goes_direct(Nat::Symmetric, Nat::FullCone, "reveal");
}

#[test]
fn a_sequential_nat_reaches_a_home_directly() {
    let sequential = Nat::Sequential { step: 1 };
    World::on(Seams::Cluster).a_pair_goes_direct(sequential, Nat::Home, "predict");
}

#[test]
fn a_busy_sequential_nat_reaches_a_home_directly() {
    let sequential = Access::through(Nat::Sequential { step: 2 }).busy_with(50);
    World::on(Seams::Cluster).a_pair_goes_direct(sequential, Nat::Home, "predict");
}

#[test]
fn two_sequential_nats_reach_each_other_directly() {
    let sequential = Nat::Sequential { step: 1 };
    World::on(Seams::Cluster).a_pair_goes_direct(sequential, sequential, "sweep");
}

#[test]
fn two_busy_sequential_nats_reach_each_other_directly() {
    let sequential = Access::through(Nat::Sequential { step: 1 }).busy_with(50);
    World::on(Seams::Cluster).a_pair_goes_direct(sequential, sequential, "sweep");
}

#[test]
fn a_symmetric_nat_reaches_a_home_directly() {
    World::on(Seams::Cluster).a_pair_goes_direct(Nat::Symmetric, Nat::Home, "birthday");
}

#[test]
fn a_home_behind_a_carrier_reaches_a_home_directly() {
    World::on(Seams::Cluster).a_pair_goes_direct(Access::through(Nat::Home).behind(Nat::Home), Nat::Home, "direct");
}

#[test]
fn a_home_behind_a_symmetric_carrier_reaches_a_home_directly() {
    World::on(Seams::Cluster).a_pair_goes_direct(
        Access::through(Nat::Home).behind(Nat::Symmetric),
        Nat::Home,
        "birthday",
    );
}

#[test]
fn a_router_with_upnp_makes_a_pair_direct_also_after_a_reboot() {
    World::on(Seams::Cluster).a_router_with_upnp_makes_a_pair_direct_also_after_a_reboot();
}

#[test]
fn a_port_mapping_behind_a_carrier_is_kept_and_not_counted_on() {
    World::on(Seams::Cluster).a_port_mapping_behind_a_carrier_is_kept_and_not_counted_on();
}

#[test]
fn a_port_mapping_makes_two_symmetric_nats_direct() {
    let mapped = Access::through(Nat::Symmetric).with_port_mapping();
    World::on(Seams::Cluster).a_pair_goes_direct(mapped, Nat::Symmetric, "direct");
}

#[test]
fn two_machines_behind_a_sequential_nat_both_reach_a_peer() {
    World::on(Seams::Cluster).machines_behind_one_nat_all_reach_a_peer(Nat::Sequential { step: 1 }, 2);
}

#[test]
fn eight_machines_behind_a_sequential_nat_all_reach_a_peer() {
    World::on(Seams::Cluster).machines_behind_one_nat_all_reach_a_peer(Nat::Sequential { step: 1 }, 8);
}

#[test]
fn two_symmetric_nats_go_direct_over_ipv6() {
    World::on(Seams::Cluster).two_symmetric_nats_go_direct_over_ipv6();
}

#[test]
fn a_router_reboots_under_traffic() {
    World::on(Seams::Cluster).a_router_reboots_under_traffic(Nat::Home);
}

#[test]
fn a_router_that_moves_its_ports_reboots_under_traffic() {
    World::on(Seams::Cluster).a_router_reboots_under_traffic(Nat::HomeWithOtherPorts);
}

#[test]
fn one_who_may_only_browse_is_relayed_over_tcp() {
    World::on(Seams::Cluster).pairs_without_udp_are_relayed_over_tcp(Nat::HttpsOnly, Nat::Home);
}

#[test]
fn two_without_udp_are_relayed_over_tcp() {
    World::on(Seams::Cluster).pairs_without_udp_are_relayed_over_tcp(Nat::UdpBlocked, Nat::HttpsOnly);
}

#[test]
fn one_behind_a_proxy_is_relayed_through_it() {
    World::on(Seams::Cluster).pairs_without_udp_are_relayed_over_tcp(Nat::ProxyOnly, Nat::Home);
}

#[test]
fn udp_that_is_blocked_under_traffic_is_replaced_and_comes_back() {
    World::on(Seams::Cluster).udp_that_is_blocked_under_traffic_is_replaced_and_comes_back();
}

#[test]
fn two_symmetric_nats_stay_on_the_relay() {
    World::on(Seams::Cluster).two_symmetric_nats_stay_on_the_relay();
}

#[test]
fn two_machines_behind_one_nat_go_direct() {
    World::on(Seams::Cluster).two_machines_behind_one_nat_go_direct();
}

#[test]
fn a_client_that_roams_goes_on_over_the_relay_and_finds_a_direct_path_again() {
    World::on(Seams::Cluster).a_client_that_roams_goes_on_over_the_relay_and_finds_a_direct_path_again();
}

#[test]
fn a_tunnel_outlives_a_minute_without_servers() {
    World::on(Seams::Cluster).a_tunnel_outlives_a_minute_without_servers();
}

#[test]
fn a_client_that_vanishes_is_lost_then_offline() {
    World::on(Seams::Cluster).a_client_that_vanishes_is_lost_then_offline();
}

#[test]
fn a_client_restarts_while_the_servers_are_down() {
    World::on(Seams::Cluster).a_client_restarts_while_the_servers_are_down();
}

#[test]
fn a_pulled_cable_costs_no_tunnel() {
    World::on(Seams::Cluster).a_pulled_cable_costs_no_tunnel();
}

#[test]
fn a_direct_tunnel_outlives_the_kill_of_each_role() {
    World::on(Seams::Cluster).a_direct_tunnel_outlives_the_kill_of_each_role();
}

#[test]
fn a_relayed_pair_is_back_after_the_kill_of_each_role() {
    World::on(Seams::Cluster).a_relayed_pair_is_back_after_the_kill_of_each_role();
}

#[test]
fn the_doctor_names_a_service_that_is_down_and_nobody_is_lost_with_it() {
    World::on(Seams::Cluster).the_doctor_names_a_service_that_is_down_and_nobody_is_lost_with_it();
}

#[test]
fn a_relay_is_killed_under_traffic() {
    World::on(Seams::Cluster).a_relay_is_killed_under_traffic();
}

#[test]
fn relays_are_drained_under_traffic() {
    World::on(Seams::Cluster).relays_are_drained_under_traffic();
}

/// Databases of its own on the services that the environment names, and a configuration for each role.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    database: String,
    redis: (String, u32),
}

impl Cluster {
    /// Makes the databases and the secrets.
    pub(crate) fn prepare(lab: &Lab) -> Self {
        let (postgres, redis, rabbitmq) =
            (service("BURI_TEST_POSTGRES"), service("BURI_TEST_REDIS"), service("BURI_TEST_RABBITMQ"));
        let name = format!("buri_netns_{}", std::process::id());
        run(Command::new("psql").args([&postgres, "-qc", &format!("CREATE DATABASE {name}")]));
        let number = free_database(&redis, &name);
        run(Command::new(service("BURI_TEST_SERVICES")).args(["vhost", &name]));
        for url in [&postgres, &redis, &rabbitmq] {
            bridge(lab, port(url));
        }

        let cluster = Self { folder: lab.folder("cluster"), database: name.clone(), redis: (redis.clone(), number) };
        let ([first, second], [six, sixth]) = (SERVERS, SERVERS6);
        let base = |url: &str| url.rsplit_once('/').unwrap().0.to_owned();
        for (nth, role) in ROLES.iter().chain([&SECOND_RELAY]).enumerate() {
            let relay = if *role == SECOND_RELAY {
                format!("listen = [\"{second}:443\"]\n[relay.streams]\nlisten = [\"{second}:8443\"]\n")
            } else {
                format!("listen = [\"{first}:443\"]\n[relay.streams]\nlisten = [\"{second}:443\"]\n")
            };
            let config = format!(
                "{UNCAPPED}url = \"{}/{name}\"\n[presence]\nurl = \"{redis}/{number}\"\n[bus]\nurl = \"{}/{name}\"\n\
                 [secrets]\ndir = \"{}\"\n[ops]\nlisten = \"127.0.0.1:{}\"\n\
                 [gateway]\nlisten = [\"{first}:12975\"]\nlisten_web = [\"{first}:443\"]\n\
                 [rendezvous]\naddresses = [\"{first}\", \"{second}\", \"{six}\", \"{sixth}\"]\n\
                 [relay]\n{relay}",
                base(&postgres),
                base(&rabbitmq),
                cluster.folder.join("data/secrets").display(),
                21_000 + nth,
            );
            fs::write(cluster.config(role), config).unwrap();
        }
        cluster.make_secrets(lab);
        run(lab.servers().command(executable("mediator")).args(["migrate", "--config"]).arg(cluster.config("auth")));
        cluster
    }

    /// The configuration of the process of `role`.
    pub(crate) fn config(&self, role: &str) -> PathBuf {
        self.folder.join(format!("{role}.toml"))
    }

    /// What operators show to the API.
    pub(crate) fn operator_token(&self) -> String {
        let token = fs::read_to_string(self.folder.join("data/secrets/operator.token")).unwrap();
        token.trim().to_owned()
    }

    /// Runs the doctor beside the servers. Returns the names of what is wrong, and the remedies.
    pub(crate) fn ailments(&self, lab: &Lab) -> Vec<(String, String)> {
        let mut command = lab.servers().command(executable("mediator"));
        let output = command.args(["doctor", "--json", "--config"]).arg(self.config("network")).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(found["healthy"], output.status.success());
        let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
        let checks = found["checks"].as_array().unwrap().iter();
        checks.filter(|check| check["ok"] != true).map(|check| (text(check, "name"), text(check, "remedy"))).collect()
    }

    /// An embedded deployment makes every secret at its first start.
    fn make_secrets(&self, lab: &Lab) {
        let mut command = lab.servers().command(executable("mediator"));
        command.args(["all", "--json", "--data"]).arg(self.folder.join("data"));
        Process::start_server("secrets", &mut command, &self.folder).0.kill();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database);
        let _ = Command::new("psql").args([&service("BURI_TEST_POSTGRES"), "-qc", &drop]).status();
        // A broker that recovers the queues of all worlds before this one is slow for the next.
        let _ = Command::new(service("BURI_TEST_SERVICES")).args(["drop-vhost", &self.database]).status();
        let (redis, number) = &self.redis;
        let _ = redis_says(redis, &["DEL", &claim(*number)]);
    }
}

/// The number of an empty database in Redis that no other world uses: one that shared it would hear of our relays.
fn free_database(redis: &str, name: &str) -> u32 {
    let free = (1..64).find(|&number| {
        let claimed = redis_says(redis, &["SET", &claim(number), name, "NX", "EX", "1200"]);
        claimed.is_ok_and(|said| said == "OK")
    });
    let number = free.expect("a database that nobody uses");
    redis_says(&format!("{redis}/{number}"), &["FLUSHDB"]).unwrap();
    number
}

fn claim(number: u32) -> String {
    format!("netns-world-{number}")
}

fn redis_says(url: &str, command: &[&str]) -> io::Result<String> {
    let output = Command::new("redis-cli").args(["-u", url]).args(command).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The process of a relay beside the first one, which scenarios start that need it.
pub(crate) const SECOND_RELAY: &str = "relay-2";

/// Kills or starts one of the services: Postgres, Redis or RabbitMQ.
pub(crate) fn service_must(action: &str, name: &str) {
    run(Command::new(service("BURI_TEST_SERVICES")).args([action, name]));
}

/// Lets the servers' namespace reach a service on our loopback, at the same port of its own.
fn bridge(lab: &Lab, port: u16) {
    let listener = lab.servers().enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
    std::thread::spawn(move || {
        for inner in listener.incoming().flatten() {
            // A service that is down looks like one: the connection ends.
            let Ok(outer) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
            let (inner_copy, outer_copy) = (inner.try_clone().unwrap(), outer.try_clone().unwrap());
            std::thread::spawn(move || pour(inner, outer));
            std::thread::spawn(move || pour(outer_copy, inner_copy));
        }
    });
}

/// Copies until one side ends, then ends both.
fn pour(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.flush();
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn port(url: &str) -> u16 {
    let rest = url.rsplit_once(':').unwrap().1;
    rest.split('/').next().unwrap().parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "tests learn from the environment where the services are")]
fn service(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run ./test, or `eval \"$(./test-services env)\"`"))
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
