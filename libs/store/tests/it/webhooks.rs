//! Webhooks: whose turn it is, in which order, and what is kept of it.

use domain::{ClientId, Event, EventKind, InstanceId, UnixMillis, WebhookId};
use futures_util::future::join_all;
use store::{
    ChangeWebhookError, DeliveryState, Due, Held, KEPT_DELIVERIES, MAX_DEAD_LETTERS, MAX_WEBHOOKS, MakeWebhookError,
    Then, Tried, Webhook, WebhookState, WebhookTerms,
};

use crate::lab::{HOUR, Lab, NOW};

crate::conformance! {
    a_webhook_is_told_what_happens_after_it_was_made,
    a_webhook_is_told_by_one_process_at_a_time,
    what_is_not_taken_holds_up_what_comes_after_it,
    what_is_given_up_is_kept_and_sent_again,
    a_webhook_that_takes_nothing_for_long_is_told_nothing_until_it_is_changed,
    of_many_writers_that_saw_one_version_one_wins,
    a_rotated_secret_has_a_past,
    there_are_only_so_many_webhooks_and_deliveries,
    who_lost_its_lease_moves_nothing,
    what_is_tried_again_and_passed_is_given_up,
    what_an_empty_log_forgot_is_missed,
    kinds_of_a_newer_program_are_left_out,
}

async fn a_webhook_is_told_what_happens_after_it_was_made(lab: &Lab) {
    happen(lab, 1).await;
    let webhook = make(lab, 1).await;
    assert!(take(lab, 1, NOW).await.is_none(), "there is nothing to do");
    happen(lab, 2).await;
    let taken = take(lab, 1, NOW).await.unwrap();
    assert_eq!((taken.id, taken.place), (webhook.id, webhook.place));
    assert_eq!(due(lab, &taken).await, [2]);
    assert!(settle(lab, &taken, 2, Then::Taken).await);
    lab.stores().webhooks.release_webhook(webhook.id, instance(1)).await.unwrap();
    assert!(take(lab, 1, NOW).await.is_none());
    let shown = lab.stores().webhooks.webhook(webhook.id).await.unwrap().unwrap();
    assert_eq!((shown.delivered, shown.place, shown.tried, shown.failing), (1, 2, Some(NOW), None));
}

async fn a_webhook_is_told_by_one_process_at_a_time(lab: &Lab) {
    let other = lab.reopened(domain::AddressPool::DEFAULT).await;
    for id in 1..=4 {
        make(lab, id).await;
    }
    happen(lab, 1).await;
    let takers = (0..20_u8).map(|nth| {
        let webhooks = if nth % 2 == 0 { &lab.stores().webhooks } else { &other.webhooks };
        webhooks.take_webhook(instance(nth), NOW.plus(HOUR), NOW)
    });
    let mut taken: Vec<_> = join_all(takers).await.into_iter().filter_map(Result::unwrap).map(|one| one.id).collect();
    // Two may look at the same moment and choose the same one: the second leaves empty-handed, and looks again.
    for nth in 30..40 {
        taken.extend(take(lab, nth, NOW).await.map(|one| one.id));
    }
    taken.sort();
    assert_eq!(taken, [1, 2, 3, 4].map(id));
    assert!(take(lab, 9, UnixMillis(NOW.plus(HOUR).0 - 1)).await.is_none());
    assert!(take(lab, 9, NOW.plus(HOUR)).await.is_some(), "a process that died held it until then");
    other.close().await;
}

async fn what_is_not_taken_holds_up_what_comes_after_it(lab: &Lab) {
    make(lab, 1).await;
    for nth in 1..=3 {
        happen(lab, nth).await;
    }
    let taken = take(lab, 1, NOW).await.unwrap();
    let later = NOW.plus(HOUR);
    assert!(!settle(lab, &taken, 1, Then::TryAgain { due: later }).await, "its turn is over");
    release(lab).await;
    assert!(take(lab, 1, UnixMillis(later.0 - 1)).await.is_none());
    let again = take(lab, 1, later).await.unwrap();
    assert_eq!((due(lab, &again).await, again.failing), (vec![1, 2, 3], Some(NOW)));
    let page = lab.stores().webhooks.due_deliveries(again.id, again.place, 10).await.unwrap();
    assert!(matches!(page.due[..], [Due::Event { tries: 1, .. }, Due::Event { tries: 0, .. }, _]));
    assert_eq!(deliveries(lab, None).await, [(1, DeliveryState::Retrying, 1)]);
}

async fn what_is_given_up_is_kept_and_sent_again(lab: &Lab) {
    make(lab, 1).await;
    for nth in 1..=4 {
        happen(lab, nth).await;
    }
    let taken = take(lab, 1, NOW).await.unwrap();
    for (nth, then) in [(1, Then::GiveUp), (2, Then::Taken), (3, Then::GiveUp)] {
        assert!(settle(lab, &taken, nth, then).await);
    }
    release(lab).await;
    let dead = deliveries(lab, Some(DeliveryState::Dead)).await;
    assert_eq!(dead, [(3, DeliveryState::Dead, 1), (1, DeliveryState::Dead, 1)]);
    // The event itself may be forgotten meanwhile.
    lab.execute("DELETE FROM events WHERE sequence < 4").await;
    let webhooks = &lab.stores().webhooks;
    assert_eq!(webhooks.replay_deliveries(id(1), Some(event(9).id), NOW).await.unwrap(), 0);
    assert_eq!(webhooks.replay_deliveries(id(1), Some(event(3).id), NOW).await.unwrap(), 1);
    assert_eq!(webhooks.replay_deliveries(id(1), None, NOW).await.unwrap(), 1);
    let taken = take(lab, 1, NOW).await.unwrap();
    assert_eq!(due(lab, &taken).await, [1, 3, 4], "what is sent again comes first, in its order");
    let page = webhooks.due_deliveries(taken.id, taken.place, 2).await.unwrap();
    assert!(matches!(page.due[..], [Due::Again { .. }, Due::Again { .. }]), "there may be more of it");
    assert_eq!(page.place, taken.place);
    let page = webhooks.due_deliveries(taken.id, taken.place, 10).await.unwrap();
    assert!(matches!(&page.due[0], Due::Again { body, tries: 0, .. } if body == "body 1"));
    for nth in [1, 3] {
        let tried = Tried { again: true, ..tried(nth, Then::Taken) };
        assert!(webhooks.settle_delivery(held(&taken), tried).await.unwrap());
    }
    assert!(settle(lab, &taken, 4, Then::Taken).await);
    assert!(deliveries(lab, Some(DeliveryState::Dead)).await.is_empty());
    assert_eq!(deliveries(lab, None).await.iter().map(|one| one.0).collect::<Vec<_>>(), [4, 3, 2, 1]);
}

async fn a_webhook_that_takes_nothing_for_long_is_told_nothing_until_it_is_changed(lab: &Lab) {
    let webhook = make(lab, 1).await;
    happen(lab, 1).await;
    for (at, still) in [(NOW, true), (UnixMillis(NOW.plus(HOUR).0 - 1), true), (NOW.plus(HOUR), false)] {
        let taken = take(lab, 1, at).await.unwrap();
        let then = Then::TryAgain { due: at };
        lab.stores().webhooks.settle_delivery(held_at(&taken, at), Tried { at, ..tried(1, then) }).await.unwrap();
        release(lab).await;
        let state = lab.stores().webhooks.webhook(webhook.id).await.unwrap().unwrap().state;
        assert_eq!(state == WebhookState::Active, still, "{state:?}");
    }
    let later = NOW.plus(HOUR * 9);
    assert!(take(lab, 1, later).await.is_none());
    lab.stores().webhooks.change_webhook(webhook.id, webhook.terms.clone(), None, later).await.unwrap();
    let taken = take(lab, 1, later).await.unwrap();
    assert_eq!(due(lab, &taken).await, [1]);

    // What is sent again has it told again, too, unless an operator paused it.
    let webhooks = &lab.stores().webhooks;
    assert!(settle_at(lab, &taken, 1, Then::GiveUp, later).await);
    lab.execute("UPDATE webhooks SET state = 2, failing_ms = 1").await;
    assert_eq!(webhooks.replay_deliveries(webhook.id, None, later).await.unwrap(), 1);
    let shown = webhooks.webhook(webhook.id).await.unwrap().unwrap();
    assert_eq!((shown.state, shown.failing, shown.due), (WebhookState::Active, None, later));
    lab.execute("UPDATE webhooks SET state = 1").await;
    lab.execute("UPDATE webhook_deliveries SET state = 3").await;
    assert_eq!(webhooks.replay_deliveries(webhook.id, None, later).await.unwrap(), 1);
    assert_eq!(webhooks.webhook(webhook.id).await.unwrap().unwrap().state, WebhookState::Paused);
}

async fn of_many_writers_that_saw_one_version_one_wins(lab: &Lab) {
    let webhook = make(lab, 1).await;
    let changes = (0..8).map(|nth| {
        let terms = WebhookTerms { name: format!("name {nth}"), ..webhook.terms.clone() };
        lab.stores().webhooks.change_webhook(webhook.id, terms, Some(webhook.revision), NOW)
    });
    let changed = join_all(changes).await;
    assert_eq!(changed.iter().filter(|changed| changed.is_ok()).count(), 1);
    assert!(changed.iter().all(|changed| matches!(changed, Ok(_) | Err(ChangeWebhookError::Changed))));
    let webhooks = &lab.stores().webhooks;
    assert!(matches!(webhooks.delete_webhook(webhook.id, Some(1)).await, Err(ChangeWebhookError::Changed)));
    webhooks.delete_webhook(webhook.id, Some(2)).await.unwrap();
    assert!(matches!(webhooks.delete_webhook(webhook.id, None).await, Err(ChangeWebhookError::Unknown)));
}

async fn a_rotated_secret_has_a_past(lab: &Lab) {
    let webhook = make(lab, 1).await;
    let until = NOW.plus(HOUR);
    let rotated = lab.stores().webhooks.rotate_webhook(webhook.id, [7; 16], until, None).await.unwrap();
    assert_eq!((rotated.nonce, rotated.old_nonce), ([7; 16], Some((webhook.nonce, until))));
    assert_eq!((rotated.revision, rotated.terms), (webhook.revision + 1, webhook.terms));
}

async fn there_are_only_so_many_webhooks_and_deliveries(lab: &Lab) {
    let made = make(lab, 0).await;
    for nth in 1..MAX_WEBHOOKS {
        make(lab, u8::try_from(nth).unwrap()).await;
    }
    let more = lab.stores().webhooks.make_webhook(id(200), terms(), [1; 16], NOW).await;
    assert!(matches!(more, Err(MakeWebhookError::LimitReached { limit: MAX_WEBHOOKS })));
    for (state, kept) in [(0, KEPT_DELIVERIES), (3, MAX_DEAD_LETTERS)] {
        let rows: Vec<_> = (0..kept + 5)
            .map(|nth| format!("('{nth}', {}, {state}, 1, 0, '', '', 0)", nth + state * 10_000 + 100))
            .collect();
        let mut insert = "INSERT INTO webhook_deliveries (event, sequence, state, tries, status, reason, body, tried_ms, webhook, kind) VALUES ".to_owned();
        let rows: Vec<_> =
            rows.iter().map(|row| row.replace(", 0)", &format!(", 0, {}, 'client.online')", hex(lab)))).collect();
        insert += &rows.join(", ");
        lab.execute(&insert).await;
    }
    happen(lab, 1).await;
    let taken = take_this(lab, made.id).await;
    settle(lab, &taken, 1, Then::Taken).await;
    let count = |state: i64| lab_count(lab, state);
    assert_eq!((count(0).await, count(3).await), (i64::from(KEPT_DELIVERIES), i64::from(MAX_DEAD_LETTERS)));
}

async fn who_lost_its_lease_moves_nothing(lab: &Lab) {
    make(lab, 1).await;
    happen(lab, 1).await;
    let first = take(lab, 1, NOW).await.unwrap();
    let later = NOW.plus(HOUR);
    let second = take(lab, 2, later).await.unwrap();
    assert!(!settle(lab, &first, 1, Then::GiveUp).await);
    assert!(!lab.stores().webhooks.pass_webhook(held(&first), 1, 0).await.unwrap());
    assert_eq!(deliveries(lab, None).await, []);
    let held = Held { holder: instance(2), ..held_at(&second, later) };
    assert!(lab.stores().webhooks.settle_delivery(held, Tried { at: later, ..tried(1, Then::Taken) }).await.unwrap());
}

async fn what_is_tried_again_and_passed_is_given_up(lab: &Lab) {
    make(lab, 1).await;
    for nth in 1..=3 {
        happen(lab, nth).await;
    }
    let taken = take(lab, 1, NOW).await.unwrap();
    assert!(!settle(lab, &taken, 1, Then::TryAgain { due: NOW }).await);
    let webhooks = &lab.stores().webhooks;
    assert!(webhooks.pass_webhook(held(&taken), 2, 2).await.unwrap());
    assert_eq!(deliveries(lab, None).await, [(1, DeliveryState::Dead, 1)]);
    let shown = webhooks.webhook(taken.id).await.unwrap().unwrap();
    assert_eq!((shown.place, shown.dead, shown.missed), (2, 1, 1), "each counts once");
    assert_eq!(webhooks.replay_deliveries(taken.id, None, NOW).await.unwrap(), 1);
    assert!(webhooks.pass_webhook(held(&taken), 3, 0).await.unwrap());
    assert_eq!(deliveries(lab, None).await, [(1, DeliveryState::Replaying, 0)], "an operator wants it");
}

async fn what_an_empty_log_forgot_is_missed(lab: &Lab) {
    make(lab, 1).await;
    for nth in 1..=2 {
        happen(lab, nth).await;
    }
    lab.execute("DELETE FROM events").await;
    let taken = take(lab, 1, NOW).await.unwrap();
    let page = lab.stores().webhooks.due_deliveries(taken.id, taken.place, 10).await.unwrap();
    assert_eq!((page.due, page.place, page.oldest), (Vec::new(), 2, 3));
}

async fn kinds_of_a_newer_program_are_left_out(lab: &Lab) {
    let webhook = make(lab, 1).await;
    for (kept, known) in [
        ("planet.moved client.online", vec![EventKind::ClientOnline]),
        // Nothing, which is not all.
        ("planet.moved", vec![EventKind::WebhookTest]),
        ("", Vec::new()),
    ] {
        lab.execute(&format!("UPDATE webhooks SET kinds = '{kept}'")).await;
        let shown = lab.stores().webhooks.webhook(webhook.id).await.unwrap().unwrap();
        assert_eq!(shown.terms.kinds, known, "{kept}");
    }
}

/// The one webhook that has this id, whoever comes before it.
async fn take_this(lab: &Lab, wanted: WebhookId) -> Webhook {
    loop {
        let taken = take(lab, 1, NOW).await.unwrap();
        if taken.id == wanted {
            return taken;
        }
    }
}

async fn lab_count(lab: &Lab, state: i64) -> i64 {
    lab.scalar(&format!("SELECT COUNT(*) FROM webhook_deliveries WHERE state = {state}")).await
}

/// The id of the first webhook, as a literal of the engine.
fn hex(lab: &Lab) -> String {
    let digits = "00".repeat(16);
    if lab.url.starts_with("sqlite") { format!("X'{digits}'") } else { format!("'\\x{digits}'") }
}

async fn make(lab: &Lab, nth: u8) -> Webhook {
    lab.stores().webhooks.make_webhook(id(nth), terms(), [nth; 16], NOW).await.unwrap()
}

fn terms() -> WebhookTerms {
    WebhookTerms {
        name: "n \u{1f41f}".into(),
        url: "https://example.test/hook".into(),
        kinds: vec![EventKind::ClientOnline, EventKind::MemberLeft],
        networks: vec![domain::NetworkId::from_bytes([5; 16])],
        accounts: Vec::new(),
        paused: false,
    }
}

async fn happen(lab: &Lab, nth: u8) {
    lab.stores().events.record_events(vec![event(nth)]).await.unwrap();
}

fn event(nth: u8) -> Event {
    Event::new(EventKind::ClientOnline, NOW, [nth; 10]).client(ClientId::from_bytes([9; 16]))
}

async fn take(lab: &Lab, holder: u8, at: UnixMillis) -> Option<Webhook> {
    lab.stores().webhooks.take_webhook(instance(holder), at.plus(HOUR), at).await.unwrap()
}

async fn release(lab: &Lab) {
    lab.stores().webhooks.release_webhook(id(1), instance(1)).await.unwrap();
}

/// The numbers of what is due.
async fn due(lab: &Lab, webhook: &Webhook) -> Vec<u64> {
    let page = lab.stores().webhooks.due_deliveries(webhook.id, webhook.place, 100).await.unwrap();
    let number = |due: &Due| match due {
        Due::Event { event, .. } => event.sequence,
        Due::Again { sequence, .. } => *sequence,
    };
    page.due.iter().map(number).collect()
}

async fn settle(lab: &Lab, webhook: &Webhook, nth: u8, then: Then) -> bool {
    lab.stores().webhooks.settle_delivery(held(webhook), tried(nth, then)).await.unwrap()
}

async fn settle_at(lab: &Lab, webhook: &Webhook, nth: u8, then: Then, at: UnixMillis) -> bool {
    let tried = Tried { at, ..tried(nth, then) };
    lab.stores().webhooks.settle_delivery(held_at(webhook, at), tried).await.unwrap()
}

fn tried(nth: u8, then: Then) -> Tried {
    Tried {
        sequence: nth.into(),
        event: event(nth).id,
        kind: EventKind::ClientOnline,
        body: format!("body {nth}"),
        tries: 1,
        status: Some(500),
        reason: "failed",
        at: NOW,
        then,
        again: false,
        patience: HOUR,
    }
}

fn held(webhook: &Webhook) -> Held {
    held_at(webhook, NOW)
}

fn held_at(webhook: &Webhook, at: UnixMillis) -> Held {
    let until = at.plus(HOUR);
    Held { id: webhook.id, holder: instance(1), revision: webhook.revision, until }
}

async fn deliveries(lab: &Lab, state: Option<DeliveryState>) -> Vec<(u64, DeliveryState, u32)> {
    let found = lab.stores().webhooks.deliveries(id(1), state, None, 100).await.unwrap();
    found.into_iter().map(|one| (one.sequence, one.state, one.tries)).collect()
}

fn id(nth: u8) -> WebhookId {
    WebhookId::from_bytes([nth; 16])
}

fn instance(nth: u8) -> InstanceId {
    InstanceId::from_bytes([nth; 16])
}
