//! The log of events: whose order it is, what is in it, and how long.

use std::collections::BTreeSet;

use domain::{ClientId, Event, EventKind, InstanceId, LeaseId, NetworkOrder, PayerId, RelayReport, UnixMillis};
use futures_util::future::join_all;
use store::{EVENT_MEMORY, MAX_EVENTS, Standing};

use crate::lab::{HOUR, Lab, NOW};

crate::conformance! {
    what_changes_is_told_by_the_transaction_that_changes_it,
    what_is_refused_is_not_told,
    quotas_are_told_once_at_each_share,
    whoever_reads_on_misses_nothing,
    an_event_that_comes_twice_is_kept_once,
    what_only_a_newer_program_can_tell_waits_for_it,
    the_oldest_events_are_forgotten,
    one_process_leads_until_its_lease_ends,
}

async fn what_changes_is_told_by_the_transaction_that_changes_it(lab: &Lab) {
    let (anna, bert, cleo) = (lab.client().await, lab.client().await, lab.client().await);
    let network = lab.network("friday", anna).await;
    lab.join(network, bert).await;
    lab.join(network, cleo).await;
    for order in
        [NetworkOrder::Evict(bert), NetworkOrder::Ban(cleo), NetworkOrder::Ban(cleo), NetworkOrder::Unban(cleo)]
    {
        lab.networks().carry_out(network, anna, order, NOW).await.unwrap();
    }
    lab.networks().carry_out(network, anna, NetworkOrder::AskApproval, NOW).await.unwrap();
    for _ in 0..2 {
        lab.networks().join(network, bert, [7; 16], NOW).await.unwrap();
    }
    for order in [NetworkOrder::Approve(bert), NetworkOrder::Rename("saturday".parse().unwrap())] {
        lab.networks().carry_out(network, anna, order, NOW).await.unwrap();
    }
    lab.networks().leave(network, bert, NOW).await.unwrap();
    lab.networks().leave(network, anna, NOW).await.unwrap();
    let (person, account) = lab.person("anna@example.test").await;
    lab.attach(person, account, anna).await.unwrap();
    let other = lab.network("sunday", anna).await;
    lab.people().set_account_standing(account, Standing::Blocked, NOW).await.unwrap();
    lab.people().set_account_standing(account, Standing::Blocked, NOW).await.unwrap();

    let told = told(lab).await;
    let mut expected: Vec<_> = [anna, bert, cleo].map(|client| (EventKind::ClientRegistered, Some(client))).to_vec();
    expected.extend([
        (EventKind::NetworkCreated, Some(anna)),
        (EventKind::MemberJoined, Some(bert)),
        (EventKind::MemberJoined, Some(cleo)),
        (EventKind::MemberRemoved, Some(bert)),
        (EventKind::MemberBanned, Some(cleo)),
        (EventKind::MemberUnbanned, Some(cleo)),
        (EventKind::MemberApplied, Some(bert)),
        (EventKind::MemberApproved, Some(bert)),
        (EventKind::NetworkRenamed, None),
        (EventKind::MemberLeft, Some(bert)),
        (EventKind::MemberLeft, Some(anna)),
        (EventKind::NetworkDeleted, None),
        (EventKind::AccountCreated, None),
        (EventKind::NetworkCreated, Some(anna)),
        (EventKind::AccountSuspended, None),
    ]);
    let mut found: Vec<_> = told.iter().map(|event| (event.kind, event.client)).collect();
    // All of them are of one millisecond: their order is that of the draw.
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(told.iter().all(|event| event.is_whole() && event.at == NOW));
    let made = told.iter().find(|event| event.network == Some(other)).unwrap();
    assert_eq!(made.account, Some(account), "an event of a network says whose it is");
}

async fn what_is_refused_is_not_told(lab: &Lab) {
    let (anna, bert) = (lab.client().await, lab.client().await);
    let network = lab.network("friday", anna).await;
    lab.join(network, bert).await;
    let before = told(lab).await.len();
    assert!(lab.networks().carry_out(network, bert, NetworkOrder::Evict(anna), NOW).await.is_err());
    assert!(lab.networks().carry_out(network, anna, NetworkOrder::Unban(bert), NOW).await.is_err());
    assert!(lab.networks().leave(network, lab.client().await, NOW).await.is_err());
    let told = told(lab).await;
    assert_eq!(told.len(), before + 1, "only the third client: {told:?}");
}

async fn quotas_are_told_once_at_each_share(lab: &Lab) {
    let client = lab.client().await;
    lab.execute("UPDATE plans SET relay_bytes_per_month = 1000").await;
    let payer = PayerId::from(client);
    for (serial, spent) in [(1, 0), (2, 799), (3, 800), (4, 999), (5, 1_000)] {
        let lease = LeaseId::from_bytes([1; 16]);
        let report = RelayReport { lease, payer, serial, spent, ends: false, known: false };
        lab.accounts().settle_relay(report, NOW).await.unwrap();
    }
    let told = told(lab).await;
    let quota: Vec<_> = told.iter().filter(|event| event.kind == EventKind::QuotaReached).collect();
    assert_eq!(quota.iter().filter_map(|event| event.percent).collect::<BTreeSet<_>>(), BTreeSet::from([80, 100]));
    assert!(quota.len() == 2 && quota.iter().all(|event| event.client == Some(client) && event.is_whole()));
}

/// Two processes number, many write: whoever goes on after the last number it saw sees each event once.
async fn whoever_reads_on_misses_nothing(lab: &Lab) {
    let other = lab.reopened(domain::AddressPool::DEFAULT).await;
    let writers = join_all((0..30).map(|_| lab.client()));
    let recorders = join_all((0..20_u8).map(|nth| {
        let events = if nth % 2 == 0 { &lab.stores().events } else { &other.events };
        events.record_events(vec![online(nth, u64::from(nth))])
    }));
    let reading = async {
        let (mut after, mut seen) = (0, Vec::new());
        while seen.len() < 50 {
            let page = lab.stores().events.events_after(after, 7).await.unwrap();
            assert!(page.events.iter().map(|one| one.sequence).is_sorted() && page.newest >= after);
            after = page.events.last().map_or(after, |last| last.sequence);
            seen.extend(page.events);
            lab.stores().events.record_events(Vec::new()).await.unwrap();
        }
        seen
    };
    let (clients, recorded, seen) = tokio::join!(writers, recorders, reading);
    assert!(recorded.into_iter().all(|recorded| recorded.is_ok()));
    let registered: BTreeSet<_> = seen.iter().filter_map(|one| one.event.client).collect();
    assert!(clients.iter().all(|client| registered.contains(client)));
    assert_eq!(seen.iter().map(|one| one.event.id).collect::<BTreeSet<_>>().len(), 50);
    other.close().await;
}

async fn an_event_that_comes_twice_is_kept_once(lab: &Lab) {
    let events = &lab.stores().events;
    let head = events.record_events(vec![online(1, 1), online(1, 1), online(2, 2)]).await.unwrap();
    assert_eq!(head, 2);
    assert_eq!(events.record_events(vec![online(2, 2)]).await.unwrap(), 2);
    assert_eq!(events.events_after(0, 10).await.unwrap().events.len(), 2);
    assert_eq!(events.events_after(1, 10).await.unwrap().events[0].event, online(2, 2));
}

async fn what_only_a_newer_program_can_tell_waits_for_it(lab: &Lab) {
    lab.client().await;
    lab.execute("UPDATE event_outbox SET kind = 'planet.moved'").await;
    assert_eq!(told(lab).await, []);
    let known = lab.client().await;
    assert_eq!(told(lab).await.iter().map(|event| event.client).collect::<Vec<_>>(), [Some(known)]);
    assert_eq!(lab.scalar("SELECT COUNT(*) FROM event_outbox").await, 1);
    lab.execute("UPDATE event_outbox SET kind = 'client.registered'").await;
    assert_eq!(told(lab).await.len(), 2);
    assert_eq!(lab.scalar("SELECT COUNT(*) FROM event_outbox").await, 0);
}

async fn the_oldest_events_are_forgotten(lab: &Lab) {
    let events = &lab.stores().events;
    events.record_events(vec![online(1, NOW.0), online(2, NOW.0 + 1)]).await.unwrap();
    assert_eq!(events.forget_events(NOW.plus(EVENT_MEMORY)).await.unwrap(), 0);
    assert_eq!(
        events.forget_events(NOW.plus(EVENT_MEMORY).plus(std::time::Duration::from_millis(1))).await.unwrap(),
        1
    );
    let page = events.events_after(0, 10).await.unwrap();
    assert_eq!((page.oldest, page.newest, page.events.len()), (2, 2, 1));
    lab.execute(&format!("UPDATE event_head SET sequence = {}", MAX_EVENTS + 1)).await;
    events.record_events(vec![online(3, NOW.0)]).await.unwrap();
    let page = events.events_after(0, 10).await.unwrap();
    assert_eq!((page.oldest, page.newest), (MAX_EVENTS + 2, MAX_EVENTS + 2));

    // Without an admin process nobody empties the outbox.
    lab.client().await;
    lab.networks().prune_budgets(NOW.plus(EVENT_MEMORY)).await.unwrap();
    assert_eq!(lab.scalar("SELECT COUNT(*) FROM event_outbox").await, 1);
    lab.networks().prune_budgets(NOW.plus(EVENT_MEMORY).plus(HOUR)).await.unwrap();
    assert_eq!(lab.scalar("SELECT COUNT(*) FROM event_outbox").await, 0);
}

async fn one_process_leads_until_its_lease_ends(lab: &Lab) {
    let lead = |holder, at| lab.stores().events.lead_events(InstanceId::from_bytes([holder; 16]), HOUR, at);
    assert!(lead(1, NOW).await.unwrap() && !lead(2, NOW).await.unwrap() && lead(1, NOW).await.unwrap());
    assert!(!lead(2, UnixMillis(NOW.plus(HOUR).0 - 1)).await.unwrap());
    assert!(lead(2, NOW.plus(HOUR)).await.unwrap() && !lead(1, NOW.plus(HOUR)).await.unwrap());
}

async fn told(lab: &Lab) -> Vec<Event> {
    lab.stores().events.record_events(Vec::new()).await.unwrap();
    let page = lab.stores().events.events_after(0, 500).await.unwrap();
    page.events.into_iter().map(|one| one.event).collect()
}

fn online(drawn: u8, at: u64) -> Event {
    Event::new(EventKind::ClientOnline, UnixMillis(at), [drawn; 10]).client(ClientId::from_bytes([9; 16]))
}
