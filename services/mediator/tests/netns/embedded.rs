//! The scenarios on an embedded deployment: one process, nothing else installed.

use crate::{nat::Nat, scenarios::World, server::Seams};

#[test]
fn two_homes_become_one_lan() {
    World::on(Seams::Embedded).two_homes_become_one_lan();
}

#[test]
fn a_home_reaches_a_full_cone_directly() {
    World::on(Seams::Embedded).a_pair_goes_direct(Nat::Home, Nat::FullCone);
}

#[test]
fn openers_come_before_packets_that_would_move_a_mapping() {
    World::on(Seams::Embedded).a_pair_goes_direct(Nat::HomeWithoutInputFilter, Nat::HomeWithoutInputFilter);
}

#[test]
fn a_symmetric_nat_reaches_a_full_cone_directly() {
    World::on(Seams::Embedded).a_pair_goes_direct(Nat::Symmetric, Nat::FullCone);
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
