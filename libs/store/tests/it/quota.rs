//! What is relayed is counted once, and never granted twice.

use std::time::Duration;

use domain::{ClientId, LEASE_LIFETIME, LeaseId, MOST_PER_REPORT, Month, PayerId, Quota, RelayReport, UnixMillis};
use futures_util::future::join_all;
use store::SettleError;

use crate::lab::{Lab, NOW};

crate::conformance! {
    the_shipped_plans_have_quotas,
    a_report_counts_once_however_often_it_arrives,
    concurrent_leases_never_hold_more_than_the_quota,
    a_lease_that_is_not_renewed_frees_what_it_held_and_still_counts,
    a_forgotten_lease_is_not_opened_again_by_a_late_report,
    a_new_month_or_a_bigger_plan_lifts_a_spent_quota,
    reports_that_cannot_be_true_are_refused,
    the_owner_pays_when_its_plan_is_what_the_pair_gets,
}

const MIB: u64 = 1 << 20;

async fn the_shipped_plans_have_quotas(lab: &Lab) {
    let quotas: Vec<_> = lab.accounts().plans().await.unwrap().into_iter().map(|plan| plan.relay_quota).collect();
    assert_eq!(quotas, [Quota::from_bytes(10 << 30), Quota::UNLIMITED, Quota::from_bytes(500 << 30)]);
}

async fn a_report_counts_once_however_often_it_arrives(lab: &Lab) {
    let client = lab.client().await;
    let reports =
        [(1, 0), (2, 5 * MIB), (3, 7 * MIB), (4, 7 * MIB)].map(|(serial, spent)| report(client, 1, serial, spent));
    lab.accounts().settle_relay(reports[0], NOW).await.unwrap();
    // Three times each, from everywhere at once, in the wrong order, too.
    let all: Vec<_> = reports.iter().chain(reports.iter().rev()).chain(&reports).collect();
    for settled in join_all(all.into_iter().map(|&report| lab.accounts().settle_relay(report, NOW))).await {
        assert!(!settled.unwrap().exhausted);
    }
    assert_eq!(used(lab, client).await, 7 * MIB);

    let ends = RelayReport { ends: true, ..report(client, 1, 5, 8 * MIB) };
    assert_eq!(lab.accounts().settle_relay(ends, NOW).await.unwrap().granted, 8 * MIB);
    lab.accounts().settle_relay(ends, NOW).await.unwrap();
    lab.accounts().settle_relay(report(client, 1, 6, 9 * MIB), NOW).await.unwrap();
    assert_eq!(used(lab, client).await, 8 * MIB, "an ended lease counts no more");
}

async fn concurrent_leases_never_hold_more_than_the_quota(lab: &Lab) {
    let client = small_plan(lab, 5 * MIB).await;
    let open = (0..30).map(|lease| lab.accounts().settle_relay(report(client, lease, 1, 0), NOW));
    let grants: Vec<_> = join_all(open).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(grants.iter().map(|grant| grant.granted).sum::<u64>(), 5 * MIB);
    assert!(grants.iter().any(|grant| grant.exhausted), "somebody came too late");

    for (lease, grant) in (0..).zip(&grants) {
        let ends = RelayReport { ends: true, ..report(client, lease, 2, grant.granted) };
        lab.accounts().settle_relay(ends, NOW).await.unwrap();
    }
    assert_eq!(used(lab, client).await, 5 * MIB);
}

async fn a_lease_that_is_not_renewed_frees_what_it_held_and_still_counts(lab: &Lab) {
    let client = small_plan(lab, MIB).await;
    for lease in 0..4 {
        assert!(!lab.accounts().settle_relay(report(client, lease, 1, 0), NOW).await.unwrap().exhausted);
    }
    let fifth = report(client, 5, 1, 0);
    assert!(lab.accounts().settle_relay(fifth, NOW).await.unwrap().exhausted);

    let later = NOW.plus(LEASE_LIFETIME);
    let grant = lab.accounts().settle_relay(RelayReport { serial: 2, ..fifth }, later).await.unwrap();
    assert_eq!(grant.granted, MIB / 4);
    lab.accounts().settle_relay(report(client, 0, 2, 100), later).await.unwrap();
    assert_eq!(used(lab, client).await, 100, "late, but true");
}

async fn a_forgotten_lease_is_not_opened_again_by_a_late_report(lab: &Lab) {
    let client = lab.client().await;
    lab.accounts().settle_relay(report(client, 1, 1, 1_000), NOW).await.unwrap();
    let much_later = NOW.plus(LEASE_LIFETIME + Duration::from_secs(24 * 3600));
    lab.accounts().settle_relay(report(client, 2, 1, 0), much_later).await.unwrap();

    let late = lab.accounts().settle_relay(report(client, 1, 2, 1_500), much_later).await;
    assert!(matches!(late, Err(SettleError::UnknownLease)), "{late:?}");
    assert_eq!(used(lab, client).await, 1_000);
}

async fn a_new_month_or_a_bigger_plan_lifts_a_spent_quota(lab: &Lab) {
    let client = small_plan(lab, MIB).await;
    let spent = |serial, spent| report(client, 1, serial, spent);
    let last_minute = UnixMillis(1_801_440_000_000 - 60_000);
    assert!(lab.accounts().settle_relay(spent(1, MIB), last_minute).await.unwrap().exhausted);

    let next_month = UnixMillis(1_801_440_000_000);
    let grant = lab.accounts().settle_relay(spent(2, MIB + 10), next_month).await.unwrap();
    assert_eq!(grant.granted, MIB + 10 + MIB / 4);
    assert_eq!(used(lab, client).await, MIB);
    let payer = PayerId::from(client);
    assert_eq!(lab.accounts().relayed(payer, Month::of(next_month)).await.unwrap(), 10);

    assert!(lab.accounts().settle_relay(spent(3, 3 * MIB), next_month).await.unwrap().exhausted);
    lab.accounts().assign_plan(client, "premium").await.unwrap();
    assert!(!lab.accounts().settle_relay(spent(4, 3 * MIB), next_month).await.unwrap().exhausted);
}

async fn reports_that_cannot_be_true_are_refused(lab: &Lab) {
    let client = lab.client().await;
    let most = lab.accounts().settle_relay(report(client, 1, 1, MOST_PER_REPORT), NOW).await;
    assert!(most.unwrap().exhausted);
    let more = lab.accounts().settle_relay(report(client, 2, 1, MOST_PER_REPORT + 1), NOW).await;
    assert!(matches!(more, Err(SettleError::Implausible)), "{more:?}");
    let nobody = report(ClientId::from_bytes([9; 16]), 1, 1, 0);
    assert!(matches!(lab.accounts().settle_relay(nobody, NOW).await, Err(SettleError::UnknownPayer)));
}

async fn the_owner_pays_when_its_plan_is_what_the_pair_gets(lab: &Lab) {
    let [owner, one, two] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("paid", owner).await;
    lab.join(network, one).await;
    lab.join(network, two).await;
    let payers = || async { lab.networks().pair_plan(one, two).await.unwrap().unwrap().payers };
    assert_eq!(payers().await, [one, two].map(PayerId::from), "as good as their own");
    lab.accounts().assign_plan(owner, "standard").await.unwrap();
    assert_eq!(payers().await, [owner; 2].map(PayerId::from));
    let peers = lab.networks().peers(two).await.unwrap();
    assert_eq!(peers.iter().find(|peer| peer.client == one).unwrap().payers, [owner; 2].map(PayerId::from));
    lab.accounts().assign_plan(one, "premium").await.unwrap();
    assert_eq!(payers().await, [owner; 2].map(PayerId::from), "the other one's plan is the lower");
    lab.accounts().assign_plan(two, "premium").await.unwrap();
    assert_eq!(payers().await, [one, two].map(PayerId::from));
}

/// A client whose plan has this monthly quota.
async fn small_plan(lab: &Lab, bytes: u64) -> ClientId {
    lab.execute(&format!("INSERT INTO plans VALUES ('small', 5, 5, 1000, {bytes}, 256)")).await;
    let client = lab.client().await;
    lab.accounts().assign_plan(client, "small").await.unwrap();
    client
}

async fn used(lab: &Lab, client: ClientId) -> u64 {
    lab.accounts().relayed(client.into(), Month::of(NOW)).await.unwrap()
}

fn report(client: ClientId, lease: u8, serial: u64, spent: u64) -> RelayReport {
    let known = serial > 1;
    RelayReport { lease: LeaseId::from_bytes([lease; 16]), payer: client.into(), serial, spent, ends: false, known }
}
