//! What operators hold against whom.

use std::time::Duration;

use domain::{AccountOrder, Block, BlockId, BlockSubject, ClientId, Degree, EventKind, UnixMillis};
use futures_util::future::join_all;
use store::{
    AccountError, Actor, BlockChange, ChangeBlockError, HeldAgainst, JoinError, MAX_BLOCKS, MakeBlockError, NewBlock,
    SLOW_JOINS,
};

use crate::lab::{HOUR, Lab, NOW, fresh, joined};

crate::conformance! {
    a_block_counts_until_it_ends_and_leaves_nothing,
    of_two_blocks_on_one_subject_the_first_stands,
    there_are_only_so_many_blocks,
    a_block_is_changed_by_whoever_saw_it_last,
    blocks_come_in_pages,
    what_is_held_against_a_client_and_its_account_is_found_at_once,
    nobody_joins_a_blocked_network_and_few_a_slowed_one,
    a_block_is_about_whom_it_is_about,
    an_erased_account_or_network_takes_its_block_along,
    what_happens_to_a_block_is_told_and_what_is_refused_is_not,
}

async fn a_block_counts_until_it_ends_and_leaves_nothing(lab: &Lab) {
    let made = make(lab, 1, prefix("192.0.2.0/24"), Degree::Refuse).await;
    assert_eq!((made.revision, made.made, made.maker.as_str()), (1, NOW, "root"));
    let last = UnixMillis(made.expires.0 - 1);
    assert_eq!(lab.accounts().block(made.id, last).await.unwrap(), Some(made.clone()));
    assert_eq!(lab.accounts().prefix_blocks(last).await.unwrap(), std::slice::from_ref(&made));
    let over = made.expires;
    assert_eq!(lab.accounts().block(made.id, over).await.unwrap(), None);
    assert_eq!(lab.accounts().prefix_blocks(over).await.unwrap(), []);
    assert_eq!(lab.accounts().blocks(None, 9, over).await.unwrap(), []);
    let lifted = lab.accounts().lift_block(made.id, None, over).await;
    assert!(matches!(lifted, Err(ChangeBlockError::Unknown)), "{lifted:?}");
    assert_eq!(lab.accounts().prune_blocks(last).await.unwrap(), 0);
    assert_eq!(lab.accounts().prune_blocks(over).await.unwrap(), 1);
    assert_eq!(lab.accounts().prune_blocks(over).await.unwrap(), 0);
}

async fn of_two_blocks_on_one_subject_the_first_stands(lab: &Lab) {
    let subject = BlockSubject::Client(ClientId::from_bytes([9; 16]));
    let makers = (1..=16).map(|number| lab.accounts().make_block(new(number, subject, Degree::Slow), NOW));
    let made = join_all(makers).await;
    let stands: Vec<_> = made.iter().flatten().map(|block| block.id).collect();
    assert_eq!(stands.len(), 1);
    for refused in made.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, MakeBlockError::Exists(id) if id == stands[0]), "{refused:?}");
    }
    let wider = make(lab, 20, prefix("192.0.0.0/16"), Degree::Slow).await;
    make(lab, 21, prefix("192.0.0.0/24"), Degree::Slow).await;
    let later = wider.expires;
    let again = lab.accounts().make_block(new(22, wider.subject, Degree::Refuse), later).await.unwrap();
    assert_eq!(again.made, later, "what is over is in nobody's way");
}

async fn there_are_only_so_many_blocks(lab: &Lab) {
    let row = |number: u32| format!("('id {number}', 1, 'target {number}', 0, 'r', 'root', 0, {}, 1)", i64::MAX);
    let rows: Vec<_> = (0..MAX_BLOCKS).map(row).collect();
    lab.execute(&format!("INSERT INTO blocks VALUES {}", rows.join(", "))).await;
    let refused = lab.accounts().make_block(new(1, prefix("192.0.2.0/24"), Degree::Slow), NOW).await;
    assert!(matches!(refused, Err(MakeBlockError::LimitReached { limit: MAX_BLOCKS })), "{refused:?}");
    lab.execute("UPDATE blocks SET expires_ms = 1 WHERE id = 'id 7'").await;
    make(lab, 1, prefix("192.0.2.0/24"), Degree::Slow).await;
}

async fn a_block_is_changed_by_whoever_saw_it_last(lab: &Lab) {
    let made = make(lab, 1, prefix("2001:db8::/48"), Degree::Slow).await;
    let change = || BlockChange { degree: Some(Degree::Challenge), ..BlockChange::default() };
    let changes = (0..8).map(|_| lab.accounts().change_block(made.id, Some(1), change(), NOW));
    let changed: Vec<_> = join_all(changes).await;
    assert_eq!(changed.iter().flatten().count(), 1);
    assert!(changed.iter().filter_map(|one| one.as_ref().err()).all(|one| matches!(one, ChangeBlockError::Changed)));
    let (before, after) = changed.into_iter().flatten().next().unwrap();
    assert_eq!(before, made);
    assert_eq!(after, Block { degree: Degree::Challenge, revision: 2, ..made.clone() });
    assert_eq!(lab.accounts().block(made.id, NOW).await.unwrap(), Some(after.clone()));

    let (reason, expires) = ("another".parse().unwrap(), NOW.plus(2 * HOUR));
    let rest = BlockChange { degree: None, reason: Some(reason), expires: Some(expires) };
    let (_, after) = lab.accounts().change_block(made.id, None, rest, NOW).await.unwrap();
    assert_eq!((after.degree, after.reason.as_str(), after.expires), (Degree::Challenge, "another", expires));
    let lifted = lab.accounts().lift_block(made.id, Some(2), NOW).await;
    assert!(matches!(lifted, Err(ChangeBlockError::Changed)), "{lifted:?}");
    assert_eq!(lab.accounts().block(made.id, NOW).await.unwrap().unwrap().revision, 3, "a refused one leaves no trace");
    assert_eq!(lab.accounts().lift_block(made.id, Some(3), NOW).await.unwrap(), after);
    let gone = lab.accounts().change_block(made.id, None, BlockChange::default(), NOW).await;
    assert!(matches!(gone, Err(ChangeBlockError::Unknown)), "{gone:?}");
}

async fn blocks_come_in_pages(lab: &Lab) {
    for number in [3, 1, 2] {
        make(lab, number, BlockSubject::Client(ClientId::from_bytes([number; 16])), Degree::Slow).await;
    }
    let ids = |blocks: Vec<Block>| blocks.into_iter().map(|block| block.id).collect::<Vec<_>>();
    let first = ids(lab.accounts().blocks(None, 2, NOW).await.unwrap());
    assert_eq!(first, [id(1), id(2)]);
    assert_eq!(ids(lab.accounts().blocks(Some(id(2)), 2, NOW).await.unwrap()), [id(3)]);
}

async fn what_is_held_against_a_client_and_its_account_is_found_at_once(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let (client, other) = (lab.client().await, lab.client().await);
    lab.attach(anna, account, client).await.unwrap();
    let held = |client| async move { lab.accounts().held_against(client, NOW).await.unwrap() };
    let free = held(client).await;
    assert!(free.registered && free.identity.is_some() && free.block.is_none());
    let unknown = ClientId::from_bytes([9; 16]);
    assert_eq!(held(unknown).await, HeldAgainst::default());

    let on_account = make(lab, 1, BlockSubject::Account(account), Degree::Challenge).await;
    assert_eq!(held(client).await.block, Some(on_account.clone()));
    let milder = make(lab, 2, BlockSubject::Client(client), Degree::Slow).await;
    assert_eq!(held(client).await.block, Some(on_account.clone()));
    let severer = BlockChange { degree: Some(Degree::Refuse), ..BlockChange::default() };
    let (_, severer) = lab.accounts().change_block(milder.id, None, severer, NOW).await.unwrap();
    assert_eq!(held(client).await.block, Some(severer));
    let on_unknown = make(lab, 3, BlockSubject::Client(unknown), Degree::Refuse).await;
    assert_eq!(held(unknown).await, HeldAgainst { block: Some(on_unknown.clone()), ..HeldAgainst::default() });
    assert_eq!(held(other).await.block, None);
    let later = lab.accounts().held_against(client, on_unknown.expires).await.unwrap();
    assert_eq!(later, free);
    let order = AccountOrder::DetachClient(client);
    let left = lab.people().carry_out_for(anna, account, order, fresh(), NOW).await;
    assert!(matches!(left, Err(AccountError::Suspended)), "{left:?}");
    let left = lab.people().detach(client, NOW).await;
    assert!(matches!(left, Err(AccountError::Suspended)), "{left:?}");
    let erased = lab.people().erase(Actor::Person(anna), account, NOW).await;
    assert!(matches!(erased, Err(AccountError::Suspended)), "{erased:?}");

    let mut blocked = lab.accounts().blocked_clients(9, NOW).await.unwrap();
    let mut expected = vec![client, unknown];
    expected.sort_unstable();
    blocked.sort_unstable();
    assert_eq!(blocked, expected);
    assert_eq!(lab.accounts().blocked_clients(1, NOW).await.unwrap().len(), 1);
    assert_eq!(lab.accounts().blocked_clients(9, on_unknown.expires).await.unwrap(), []);
}

async fn nobody_joins_a_blocked_network_and_few_a_slowed_one(lab: &Lab) {
    let clients = lab.clients(4).await;
    let network = lab.network("friday", clients[0]).await;
    let block = make(lab, 1, BlockSubject::Network(network), Degree::Refuse).await;
    let join = |nth: usize, at| lab.networks().join(network, clients[nth], [u8::try_from(nth).unwrap(); 16], at);
    let refused = join(1, NOW).await;
    assert!(matches!(&refused, Err(JoinError::Blocked { notice }) if **notice == block.notice()), "{refused:?}");
    assert_eq!(lab.accounts().held_against(clients[0], NOW).await.unwrap().block, None, "members are not touched");

    let slower = BlockChange { degree: Some(Degree::Slow), ..BlockChange::default() };
    lab.accounts().change_block(block.id, None, slower, NOW).await.unwrap();
    let soon = NOW.plus(SLOW_JOINS / 2);
    match join(1, soon).await {
        Err(JoinError::Slowed { retry_after, .. }) => assert_eq!(retry_after, SLOW_JOINS / 2),
        other => panic!("{other:?}"),
    }
    let turn = NOW.plus(SLOW_JOINS);
    joined(join(1, turn).await);
    assert!(matches!(join(2, turn).await, Err(JoinError::Slowed { .. })));
    joined(join(2, block.expires).await);
    joined(join(3, block.expires).await);
}

async fn a_block_is_about_whom_it_is_about(lab: &Lab) {
    let (anna, account) = lab.person("anna@example.test").await;
    let mut clients = lab.clients(3).await;
    clients.sort_unstable();
    let network = lab.network("friday", clients[0]).await;
    lab.join(network, clients[1]).await;
    lab.attach(anna, account, clients[2]).await.unwrap();
    let about = |subject, after, limit| async move { lab.accounts().clients_of(subject, after, limit).await.unwrap() };
    assert_eq!(about(BlockSubject::Client(clients[0]), None, 9).await, [clients[0]]);
    assert_eq!(about(BlockSubject::Client(ClientId::from_bytes([9; 16])), None, 9).await, []);
    assert_eq!(about(BlockSubject::Account(account), None, 9).await, [clients[2]]);
    assert_eq!(about(BlockSubject::Network(network), None, 9).await, clients[..2]);
    assert_eq!(about(BlockSubject::Network(network), None, 1).await, clients[..1]);
    assert_eq!(about(BlockSubject::Network(network), Some(clients[0]), 9).await, clients[1..2]);
    assert_eq!(about(prefix("192.0.2.0/24"), None, 9).await, []);
}

async fn an_erased_account_or_network_takes_its_block_along(lab: &Lab) {
    let (_, account) = lab.person("anna@example.test").await;
    let client = lab.client().await;
    let network = lab.network("friday", client).await;
    make(lab, 1, BlockSubject::Account(account), Degree::Refuse).await;
    make(lab, 2, BlockSubject::Network(network), Degree::Refuse).await;
    lab.people().erase(Actor::Operator, account, NOW).await.unwrap();
    lab.networks().leave(network, client, NOW).await.unwrap();
    assert_eq!(lab.accounts().blocks(None, 9, NOW).await.unwrap(), []);
}

async fn make(lab: &Lab, number: u8, subject: BlockSubject, degree: Degree) -> Block {
    lab.accounts().make_block(new(number, subject, degree), NOW).await.unwrap()
}

async fn what_happens_to_a_block_is_told_and_what_is_refused_is_not(lab: &Lab) {
    let (client, owner) = (ClientId::from_bytes([9; 16]), lab.client().await);
    let network = lab.network("friday", owner).await;
    let (_, account) = lab.person("anna@example.test").await;
    let told = async |at| {
        lab.stores().events.record_events(Vec::new()).await.unwrap();
        let events = lab.stores().events.events_after(0, 200).await.unwrap().events;
        let mut kinds = std::collections::BTreeSet::new();
        for event in events.into_iter().map(|one| one.event).filter(|event| event.block.is_some() && event.at == at) {
            assert!(event.is_whole(), "{event:?}");
            assert!(kinds.insert((event.block, event.kind, event.client, event.network, event.account)));
        }
        kinds
    };
    let on_client = make(lab, 1, BlockSubject::Client(client), Degree::Slow).await;
    let on_network = make(lab, 2, BlockSubject::Network(network), Degree::Slow).await;
    let on_account = make(lab, 3, BlockSubject::Account(account), Degree::Slow).await;
    let on_addresses = make(lab, 4, prefix("192.0.2.0/24"), Degree::Slow).await;
    assert!(lab.accounts().make_block(new(5, on_client.subject, Degree::Slow), NOW).await.is_err());
    let made = EventKind::BlockMade;
    let expected = [
        (Some(on_client.id), made, Some(client), None, None),
        (Some(on_network.id), made, None, Some(network), None),
        (Some(on_account.id), made, None, None, Some(account)),
        (Some(on_addresses.id), made, None, None, None),
    ];
    assert_eq!(told(NOW).await, expected.into());

    let later = NOW.plus(Duration::from_secs(60));
    let harder = || BlockChange { degree: Some(Degree::Refuse), ..BlockChange::default() };
    lab.accounts().change_block(on_client.id, Some(1), harder(), later).await.unwrap();
    assert!(lab.accounts().change_block(on_client.id, Some(1), harder(), later).await.is_err());
    lab.accounts().lift_block(on_network.id, None, later).await.unwrap();
    assert!(lab.accounts().lift_block(on_network.id, None, later).await.is_err());
    let expected = [
        (Some(on_client.id), EventKind::BlockChanged, Some(client), None, None),
        (Some(on_network.id), EventKind::BlockLifted, None, Some(network), None),
    ];
    assert_eq!(told(later).await, expected.into());

    let over = on_client.expires;
    assert_eq!(lab.accounts().prune_blocks(over).await.unwrap(), 3);
    assert_eq!(lab.accounts().prune_blocks(over).await.unwrap(), 0);
    let expired = EventKind::BlockExpired;
    let expected = [
        (Some(on_client.id), expired, Some(client), None, None),
        (Some(on_account.id), expired, None, None, Some(account)),
        (Some(on_addresses.id), expired, None, None, None),
    ];
    assert_eq!(told(over).await, expected.into());
}

fn new(number: u8, subject: BlockSubject, degree: Degree) -> NewBlock {
    let expires = NOW.plus(Duration::from_secs(600));
    NewBlock {
        id: id(number),
        subject,
        degree,
        reason: "scripted sign-ups".parse().unwrap(),
        maker: "root".into(),
        expires,
    }
}

fn prefix(text: &str) -> BlockSubject {
    BlockSubject::Prefix(text.parse().unwrap())
}

fn id(number: u8) -> BlockId {
    BlockId::from_bytes([number; 16])
}
