//! The scenarios on an embedded deployment: one process, nothing else installed.

use crate::{access::Access, nat::Nat, scenarios::World, server::Seams};

#[test]
fn two_homes_become_one_lan() {
    World::on(Seams::Embedded).two_homes_become_one_lan();
}

#[test]
fn the_kernels_nats_are_seen_like_simulated_ones() {
    World::on(Seams::Embedded).the_kernels_nats_are_seen_like_simulated_ones();
}

#[test]
fn the_lan_is_an_ethernet_too() {
    World::on(Seams::Embedded).the_lan_is_an_ethernet_too();
}

#[test]
fn a_home_without_udp_goes_direct_over_tcp() {
    World::on(Seams::Embedded).a_home_without_udp_goes_direct_over_tcp();
}

#[test]
fn a_home_reaches_a_full_cone_directly() {
    World::on(Seams::Embedded).a_pair_goes_direct(Nat::Home, Nat::FullCone, "direct");
}

#[test]
fn openers_come_before_packets_that_would_move_a_mapping() {
    World::on(Seams::Embedded).a_pair_goes_direct(Nat::HomeWithoutInputFilter, Nat::HomeWithoutInputFilter, "direct");
}

#[test]
fn a_symmetric_nat_reaches_a_full_cone_directly() {
    World::on(Seams::Embedded).a_pair_goes_direct(Nat::Symmetric, Nat::FullCone, "reveal");
}

#[test]
fn a_sequential_nat_reaches_a_home_directly() {
    let sequential = Nat::Sequential { step: 1 };
    World::on(Seams::Embedded).a_pair_goes_direct(sequential, Nat::Home, "predict");
}

#[test]
fn a_busy_sequential_nat_reaches_a_home_directly() {
    let sequential = Access::through(Nat::Sequential { step: 2 }).busy_with(50);
    World::on(Seams::Embedded).a_pair_goes_direct(sequential, Nat::Home, "predict");
}

#[test]
fn two_sequential_nats_reach_each_other_directly() {
    let sequential = Nat::Sequential { step: 1 };
    World::on(Seams::Embedded).a_pair_goes_direct(sequential, sequential, "sweep");
}

#[test]
fn two_busy_sequential_nats_reach_each_other_directly() {
    let sequential = Access::through(Nat::Sequential { step: 1 }).busy_with(50);
    World::on(Seams::Embedded).a_pair_goes_direct(sequential, sequential, "sweep");
}

#[test]
fn a_symmetric_nat_reaches_a_home_directly() {
    World::on(Seams::Embedded).a_pair_goes_direct(Nat::Symmetric, Nat::Home, "birthday");
}

#[test]
fn a_home_behind_a_carrier_reaches_a_home_directly() {
    World::on(Seams::Embedded).a_pair_goes_direct(Access::through(Nat::Home).behind(Nat::Home), Nat::Home, "direct");
}

#[test]
fn a_home_behind_a_symmetric_carrier_reaches_a_home_directly() {
    World::on(Seams::Embedded).a_pair_goes_direct(
        Access::through(Nat::Home).behind(Nat::Symmetric),
        Nat::Home,
        "birthday",
    );
}

#[test]
fn a_router_with_upnp_makes_a_pair_direct_also_after_a_reboot() {
    World::on(Seams::Embedded).a_router_with_upnp_makes_a_pair_direct_also_after_a_reboot();
}

#[test]
fn a_port_mapping_behind_a_carrier_is_kept_and_not_counted_on() {
    World::on(Seams::Embedded).a_port_mapping_behind_a_carrier_is_kept_and_not_counted_on();
}

#[test]
fn a_port_mapping_makes_two_symmetric_nats_direct() {
    let mapped = Access::through(Nat::Symmetric).with_port_mapping();
    World::on(Seams::Embedded).a_pair_goes_direct(mapped, Nat::Symmetric, "direct");
}

#[test]
fn two_machines_behind_a_sequential_nat_both_reach_a_peer() {
    World::on(Seams::Embedded).machines_behind_one_nat_all_reach_a_peer(Nat::Sequential { step: 1 }, 2);
}

#[test]
fn eight_machines_behind_a_sequential_nat_all_reach_a_peer() {
    World::on(Seams::Embedded).machines_behind_one_nat_all_reach_a_peer(Nat::Sequential { step: 1 }, 8);
}

#[test]
fn eight_machines_behind_a_home_router_all_reach_a_peer() {
    World::on(Seams::Embedded).machines_behind_one_nat_all_reach_a_peer(Nat::Home, 8);
}

#[test]
fn two_symmetric_nats_go_direct_over_ipv6() {
    World::on(Seams::Embedded).two_symmetric_nats_go_direct_over_ipv6();
}

#[test]
fn a_router_reboots_under_traffic() {
    World::on(Seams::Embedded).a_router_reboots_under_traffic(Nat::Home);
}

#[test]
fn a_router_that_moves_its_ports_reboots_under_traffic() {
    World::on(Seams::Embedded).a_router_reboots_under_traffic(Nat::HomeWithOtherPorts);
}

#[test]
fn one_who_may_only_browse_is_relayed_over_tcp() {
    World::on(Seams::Embedded).pairs_without_udp_are_relayed_over_tcp(Nat::HttpsOnly, Nat::Home);
}

#[test]
fn two_without_udp_are_relayed_over_tcp() {
    World::on(Seams::Embedded).pairs_without_udp_are_relayed_over_tcp(Nat::UdpBlocked, Nat::HttpsOnly);
}

#[test]
fn one_behind_a_proxy_is_relayed_through_it() {
    World::on(Seams::Embedded).pairs_without_udp_are_relayed_over_tcp(Nat::ProxyOnly, Nat::Home);
}

#[test]
fn udp_that_is_blocked_under_traffic_is_replaced_and_comes_back() {
    World::on(Seams::Embedded).udp_that_is_blocked_under_traffic_is_replaced_and_comes_back();
}

#[test]
fn a_relay_copies_what_is_for_everybody() {
    World::a_relay_copies_what_is_for_everybody();
}

#[test]
fn two_symmetric_nats_stay_on_the_relay() {
    World::on(Seams::Embedded).two_symmetric_nats_stay_on_the_relay();
}

#[test]
fn two_machines_behind_one_nat_go_direct() {
    World::on(Seams::Embedded).two_machines_behind_one_nat_go_direct();
}

#[test]
fn a_client_that_roams_goes_on_over_the_relay_and_finds_a_direct_path_again() {
    World::on(Seams::Embedded).a_client_that_roams_goes_on_over_the_relay_and_finds_a_direct_path_again();
}

#[test]
fn a_tunnel_outlives_a_minute_without_servers() {
    World::on(Seams::Embedded).a_tunnel_outlives_a_minute_without_servers();
}

#[test]
fn a_client_that_vanishes_is_lost_then_offline() {
    World::on(Seams::Embedded).a_client_that_vanishes_is_lost_then_offline();
}

#[test]
fn a_client_restarts_while_the_servers_are_down() {
    World::on(Seams::Embedded).a_client_restarts_while_the_servers_are_down();
}

#[test]
fn a_pulled_cable_costs_no_tunnel() {
    World::on(Seams::Embedded).a_pulled_cable_costs_no_tunnel();
}
