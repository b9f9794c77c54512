//! Machines of an account draw on the account's quota: together, once, and only while they belong to it.

use domain::{
    AccountId, AccountOrder, ClientId, LEASE_LIFETIME, LeaseId, Month, PayerId, PersonId, RelayGrant, RelayReport,
    UnixMillis,
};
use futures_util::future::join_all;
use store::Actor;

use crate::lab::{Lab, NOW, fresh};

crate::conformance! {
    machines_of_an_account_share_one_quota,
    concurrent_leases_of_an_account_never_hold_more_than_its_quota,
    what_was_relayed_before_joining_is_the_machines_own,
    a_machine_that_leaves_has_its_own_quota_as_it_left_it,
    what_a_lease_holds_goes_along,
    joining_and_reporting_at_once_counts_each_byte_once,
    a_new_month_and_a_bigger_plan_are_the_accounts,
    an_erased_account_leaves_no_count,
}

const MIB: u64 = 1 << 20;

async fn machines_of_an_account_share_one_quota(lab: &Lab) {
    let House { machines, account, .. } = house(lab, 2).await;
    let [one, two] = machines.try_into().unwrap();
    settle(lab, one, 1, 1, 6 * MIB).await;
    let grant = settle(lab, two, 2, 1, 3 * MIB).await;
    assert!(!grant.exhausted && grant.granted <= 4 * MIB, "{grant:?}");
    assert!(settle(lab, two, 2, 2, 4 * MIB).await.exhausted);
    assert!(settle(lab, one, 1, 2, 6 * MIB).await.exhausted);
    assert_eq!(on_account(lab, account).await, 10 * MIB);
    assert_eq!((own(lab, one).await, own(lab, two).await), (6 * MIB, 4 * MIB), "also by machine");
    // However often it arrives.
    for _ in 0..3 {
        settle(lab, one, 1, 1, 6 * MIB).await;
        settle(lab, two, 2, 2, 4 * MIB).await;
    }
    assert_eq!(on_account(lab, account).await, 10 * MIB);
}

async fn concurrent_leases_of_an_account_never_hold_more_than_its_quota(lab: &Lab) {
    let House { machines, account, .. } = house(lab, 4).await;
    let opens = (0..44_u8).map(|lease| settle(lab, machines[usize::from(lease) % 4], lease, 1, 0));
    let grants = join_all(opens).await;
    assert_eq!(grants.iter().map(|grant| grant.granted).sum::<u64>(), 10 * MIB);
    assert!(grants.iter().any(|grant| grant.exhausted));
    for (lease, grant) in (0..44_u8).zip(&grants) {
        let machine = machines[usize::from(lease) % 4];
        let ends = RelayReport { ends: true, ..report(machine, lease, 2, grant.granted) };
        lab.accounts().settle_relay(ends, NOW).await.unwrap();
    }
    assert_eq!(on_account(lab, account).await, 10 * MIB);
}

async fn what_was_relayed_before_joining_is_the_machines_own(lab: &Lab) {
    let House { person, account, .. } = house(lab, 1).await;
    let late = on_plan(lab, "small").await;
    settle(lab, late, 9, 1, 4 * MIB).await;
    lab.attach(person, account, late).await.unwrap();
    settle(lab, late, 9, 2, 5 * MIB).await;
    assert_eq!(on_account(lab, account).await, MIB);
    assert_eq!(own(lab, late).await, 5 * MIB);
}

async fn a_machine_that_leaves_has_its_own_quota_as_it_left_it(lab: &Lab) {
    let House { person, account, .. } = house(lab, 1).await;
    let machine = on_plan(lab, "small").await;
    settle(lab, machine, 9, 1, 4 * MIB).await;
    lab.attach(person, account, machine).await.unwrap();
    assert!(settle(lab, machine, 9, 2, 4 * MIB + 10 * MIB).await.exhausted, "the account's is spent");
    lab.people().detach(machine, NOW).await.unwrap();
    lab.accounts().assign_plan(machine, "small").await.unwrap();
    let grant = settle(lab, machine, 9, 3, 14 * MIB + 1).await;
    assert!(!grant.exhausted, "six of its own ten are left");
    assert!(settle(lab, machine, 9, 4, 20 * MIB).await.exhausted);
    assert_eq!((on_account(lab, account).await, own(lab, machine).await), (10 * MIB, 20 * MIB));
    // And in again, in the same month: the account's is still spent.
    lab.attach(person, account, machine).await.unwrap();
    assert!(settle(lab, machine, 9, 5, 20 * MIB).await.exhausted);
}

async fn what_a_lease_holds_goes_along(lab: &Lab) {
    let House { machines, person, account } = house(lab, 1).await;
    let other = on_plan(lab, "small").await;
    let before = settle(lab, other, 9, 1, 0).await;
    lab.attach(person, account, other).await.unwrap();
    // Of ten, what the newcomer's relay holds is not granted again.
    let mut granted = 0;
    for lease in 20..60 {
        granted += settle(lab, machines[0], lease, 1, 0).await.granted;
    }
    assert_eq!(granted, 10 * MIB - before.granted);
    lab.people().detach(other, NOW).await.unwrap();
    assert_eq!(settle(lab, machines[0], 61, 1, 0).await.granted, before.granted);
    // A relay that does not report holds nothing for long.
    let later = NOW.plus(LEASE_LIFETIME);
    let grant = lab.accounts().settle_relay(report(machines[0], 62, 1, 0), later).await.unwrap();
    assert!(!grant.exhausted);
}

async fn joining_and_reporting_at_once_counts_each_byte_once(lab: &Lab) {
    let House { person, account, .. } = house(lab, 1).await;
    for round in 0..6_u8 {
        let machine = on_plan(lab, "small").await;
        settle(lab, machine, round + 100, 1, 0).await;
        let reports = (2..8).map(|serial| settle(lab, machine, round + 100, serial, serial * 1_000));
        let (attached, _) = tokio::join!(lab.attach(person, account, machine), join_all(reports));
        attached.unwrap();
        settle(lab, machine, round + 100, 9, 9_000).await;
        assert_eq!(own(lab, machine).await, 9_000, "round {round}");
    }
    let on_account = on_account(lab, account).await;
    assert!(on_account <= 6 * 9_000, "{on_account}");
}

async fn a_new_month_and_a_bigger_plan_are_the_accounts(lab: &Lab) {
    let House { machines, account, .. } = house(lab, 1).await;
    assert!(settle(lab, machines[0], 1, 1, 10 * MIB).await.exhausted);
    let next_month = UnixMillis(1_801_440_000_000);
    let grant = lab.accounts().settle_relay(report(machines[0], 2, 1, 0), next_month).await.unwrap();
    assert!(!grant.exhausted);
    assert_eq!(lab.accounts().relayed_on(account, Month::of(next_month)).await.unwrap(), 0);
    lab.people().assign_account_plan(account, "premium").await.unwrap();
    assert!(!settle(lab, machines[0], 3, 1, MIB).await.exhausted);
    assert_eq!(on_account(lab, account).await, 11 * MIB);
}

async fn an_erased_account_leaves_no_count(lab: &Lab) {
    let House { machines, account, .. } = house(lab, 1).await;
    settle(lab, machines[0], 1, 1, MIB).await;
    lab.people().erase(Actor::Operator, account, NOW).await.unwrap();
    assert_eq!(on_account(lab, account).await, 0);
    settle(lab, machines[0], 1, 2, 2 * MIB).await;
    assert_eq!((on_account(lab, account).await, own(lab, machines[0]).await), (0, 2 * MIB));
}

/// An account with machines, on a plan of ten MiB.
struct House {
    machines: Vec<ClientId>,
    person: PersonId,
    account: AccountId,
}

async fn house(lab: &Lab, machines: usize) -> House {
    lab.execute(&format!("INSERT INTO plans VALUES ('small', 5, 5, 1000, {}, 256)", 10 * MIB)).await;
    let (person, account) = lab.person("anna@example.test").await;
    lab.people().assign_account_plan(account, "small").await.unwrap();
    let clients = lab.clients(machines).await;
    for client in &clients {
        lab.attach(person, account, *client).await.unwrap();
    }
    assert!(lab.people().carry_out_for(person, account, AccountOrder::MakeCode, fresh(), NOW).await.is_ok());
    House { machines: clients, person, account }
}

async fn on_plan(lab: &Lab, plan: &str) -> ClientId {
    let client = lab.client().await;
    lab.accounts().assign_plan(client, plan).await.unwrap();
    client
}

async fn settle(lab: &Lab, client: ClientId, lease: u8, serial: u64, spent: u64) -> RelayGrant {
    lab.accounts().settle_relay(report(client, lease, serial, spent), NOW).await.unwrap()
}

async fn on_account(lab: &Lab, account: AccountId) -> u64 {
    lab.accounts().relayed_on(account, Month::of(NOW)).await.unwrap()
}

async fn own(lab: &Lab, client: ClientId) -> u64 {
    lab.accounts().relayed(PayerId::from(client), Month::of(NOW)).await.unwrap()
}

fn report(client: ClientId, lease: u8, serial: u64, spent: u64) -> RelayReport {
    let known = serial > 1;
    RelayReport { lease: LeaseId::from_bytes([lease; 16]), payer: client.into(), serial, spent, ends: false, known }
}
