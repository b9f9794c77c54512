//! Passwords, budgets and seats.

use contract::network::{Admission, CreateStart, JoinFinish, Leave, Refusal, SetNick};
use domain::{AddressPool, ClientId};
use network::{Limits, Outcome};

use crate::lab::{Lab, finalization, join_start, source};

#[tokio::test(flavor = "multi_thread")]
async fn the_right_password_opens_the_network() {
    let mut lab = Lab::new().await;
    let [owner, guest] = clients(&mut lab).await;
    let created = lab.create(owner, "home", "correct horse").await.unwrap();
    let joined = lab.join(guest, "Home", "correct horse").await.unwrap();

    assert_eq!(joined.network, created.network);
    assert_eq!(joined.wrapped_secret, created.wrapped_secret);
    assert_eq!(joined.change.members.len(), 2);
    assert!(joined.addresses.v4.is_some() && !joined.pool_exhausted);
    assert_eq!(lab.metrics.joins(Outcome::Done), 2);
    assert_eq!(lab.metrics.creations(Outcome::Done), 2);
    assert_eq!(lab.metrics.password_seconds.get_sample_count(), 3);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_network_look_the_same() {
    let mut lab = Lab::new().await;
    let [owner, guest] = clients(&mut lab).await;
    lab.create(owner, "home", "correct horse").await.unwrap();

    let mut answers = Vec::new();
    for name in ["home", "away"] {
        let (login, start) = join_start(guest, name, "wrong", "203.0.113.1");
        let started = lab.call(start).await.unwrap();
        assert!(finalization(login, "wrong", &started.response).is_none(), "{name}");
        let sizes = (started.response.len(), started.pending.len());
        let proof = JoinFinish { client: guest, pending: started.pending, finalization: vec![1; 64] };
        answers.push((sizes, lab.call(proof).await));
    }

    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].1, Err(Refusal::Denied));
    assert_eq!(lab.metrics.joins(Outcome::Denied), 2);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_a_client_run_out_and_right_passwords_are_free() {
    let limits = Limits { guesses_per_client: 2, ..Limits::default() };
    let mut lab = Lab::with(limits, AddressPool::DEFAULT).await;
    let [owner, guest, other] = clients(&mut lab).await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;

    for _ in 0..3 {
        lab.join(guest, "home", "right").await.unwrap();
        lab.call(Leave { client: guest, network }).await.unwrap();
    }
    assert_eq!(lab.join(guest, "home", "wrong").await, Err(Refusal::Denied));
    assert_eq!(lab.join(guest, "no such network", "wrong").await, Err(Refusal::Denied));
    let refused = lab.join(guest, "home", "right").await;
    assert!(matches!(refused, Err(Refusal::GuessLimit { retry_after_ms: 1.. })), "{refused:?}");
    lab.join(other, "home", "right").await.unwrap();
    assert_eq!(lab.metrics.joins(Outcome::Limited), 1);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_a_name_run_out_whether_it_exists_or_not() {
    let limits = Limits { guesses_per_network: 1, ..Limits::default() };
    let mut lab = Lab::with(limits, AddressPool::DEFAULT).await;
    let [owner, guest, other] = clients(&mut lab).await;
    lab.create(owner, "home", "right").await.unwrap();

    for name in ["home", "away"] {
        assert_eq!(lab.join(guest, name, "wrong").await, Err(Refusal::Denied));
        assert!(matches!(lab.join(other, name, "wrong").await, Err(Refusal::GuessLimit { .. })), "{name}");
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_from_a_source_run_out_for_all_its_clients() {
    let limits = Limits { guesses_per_source: 1, ..Limits::default() };
    let mut lab = Lab::with(limits, AddressPool::DEFAULT).await;
    let [owner, guest, other] = clients(&mut lab).await;
    lab.create(owner, "home", "right").await.unwrap();

    assert_eq!(lab.join(guest, "home", "wrong").await, Err(Refusal::Denied));
    assert!(matches!(lab.join(other, "home", "right").await, Err(Refusal::GuessLimit { .. })));
    let (_, elsewhere) = join_start(other, "home", "right", "198.51.100.7");
    assert!(lab.call(elsewhere).await.is_ok());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_from_neighbours_run_out_for_all_of_them() {
    let limits = Limits { guesses_per_neighbours: 2, ..Limits::default() };
    let mut lab = Lab::with(limits, AddressPool::DEFAULT).await;
    let [owner, guest] = clients(&mut lab).await;
    lab.create(owner, "home", "right").await.unwrap();

    let guess = |from| join_start(guest, "home", "wrong", from).1;
    assert!(lab.call(guess("198.51.100.7")).await.is_ok());
    assert!(lab.call(guess("198.51.100.8")).await.is_ok());
    assert!(matches!(lab.call(guess("198.51.100.9")).await, Err(Refusal::GuessLimit { .. })));
    assert!(lab.call(guess("198.51.101.9")).await.is_ok());
    lab.end().await;
}

/// The limits as they are shipped, and somebody with a thousand keys behind as many addresses.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_guessed_at_a_hundred_times_a_day_from_however_many_keys_and_prefixes() {
    let mut lab = Lab::with(Limits::default(), AddressPool::DEFAULT).await;
    let [owner, member] = clients(&mut lab).await;
    lab.create(owner, "home", "right").await.unwrap();

    let mut answered = 0;
    for number in 0..1_000_u32 {
        let guesser = ClientId::from_bytes(u128::from(number + 1).to_be_bytes());
        let from = std::net::Ipv4Addr::from_bits(0x0b00_0000 + (number << 10)).to_string();
        match lab.call(join_start(guesser, "home", &format!("guess {number}"), &from).1).await {
            Ok(_) => answered += 1,
            Err(refused) => assert!(matches!(refused, Refusal::GuessLimit { retry_after_ms } if retry_after_ms > 0)),
        }
    }
    assert_eq!(answered, 100);
    assert!(
        matches!(lab.join(member, "home", "right").await, Err(Refusal::GuessLimit { .. })),
        "until the day is over"
    );
    assert_eq!(lab.metrics.joins(Outcome::Limited), 901);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_does_not_answer_for_a_name_that_exists() {
    let limits = Limits { creations_per_client: 3, ..Limits::default() };
    let mut lab = Lab::with(limits, AddressPool::DEFAULT).await;
    let [owner, thief] = clients(&mut lab).await;
    lab.create(owner, "home", "right").await.unwrap();

    for _ in 0..3 {
        assert_eq!(lab.create(thief, "HOME", "guess").await, Err(Refusal::NameTaken));
    }
    let refused = lab.create(thief, "other", "guess").await;
    assert!(matches!(refused, Err(Refusal::RateLimited { .. })), "{refused:?}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_network_and_a_member_are_told_so_after_the_password() {
    let mut lab = Lab::new().await;
    let [owner, one, two, three, four, five] = clients(&mut lab).await;
    lab.create(owner, "home", "right").await.unwrap();
    for guest in [one, two, three, four] {
        lab.join(guest, "home", "right").await.unwrap();
    }

    assert_eq!(lab.join(five, "home", "right").await, Err(Refusal::Full));
    assert_eq!(lab.join(five, "home", "wrong").await, Err(Refusal::Denied));
    assert_eq!(lab.join(one, "home", "right").await, Err(Refusal::AlreadyMember));
    assert_eq!(lab.metrics.joins(Outcome::Refused), 2);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_pool_is_a_warning() {
    let pool = AddressPool::new("100.64.0.0/30".parse().unwrap(), false).unwrap();
    let mut lab = Lab::with(Limits::default(), pool).await;
    let [owner, one, two] = clients(&mut lab).await;
    lab.create(owner, "home", "right").await.unwrap();
    assert!(!lab.join(one, "home", "right").await.unwrap().pool_exhausted);

    let joined = lab.join(two, "home", "right").await.unwrap();
    assert!(joined.pool_exhausted && joined.addresses.v4.is_none());
    assert_eq!(lab.metrics.pool_exhausted.get(), 1);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_another_began_is_refused() {
    let mut lab = Lab::new().await;
    let [owner, guest, thief] = clients(&mut lab).await;
    lab.create(owner, "home", "right").await.unwrap();
    let (login, start) = join_start(guest, "home", "right", "203.0.113.1");
    let started = lab.call(start).await.unwrap();
    let proof = finalization(login, "right", &started.response).unwrap();

    let stolen = JoinFinish { client: thief, pending: started.pending.clone(), finalization: proof.clone() };
    assert_eq!(lab.call(stolen).await, Err(Refusal::Malformed));
    let own = JoinFinish { client: guest, pending: started.pending, finalization: proof };
    let Admission::Joined(joined) = lab.call(own.clone()).await.unwrap() else { panic!("not joined") };
    let Admission::Joined(again) = lab.call(own).await.unwrap() else { panic!("not joined") };
    assert_eq!(again.wrapped_secret, joined.wrapped_secret, "a repeated call is answered again");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_messages_are_malformed() {
    let mut lab = Lab::new().await;
    let [client] = clients(&mut lab).await;
    let name: domain::NetworkName = "home".parse().unwrap();
    for request in [vec![], vec![0; 32], vec![0xff; 4_000]] {
        let create = CreateStart { client, name: name.clone(), request, source: source("203.0.113.1") };
        assert_eq!(lab.call(create).await, Err(Refusal::Malformed));
    }
    let finish = JoinFinish { client, pending: vec![0; 200], finalization: vec![] };
    assert_eq!(lab.call(finish).await, Err(Refusal::Malformed));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nicknames_are_changed_a_few_times_an_hour() {
    let limits = Limits { renames_per_client: 1, ..Limits::default() };
    let mut lab = Lab::with(limits, AddressPool::DEFAULT).await;
    let [client] = clients(&mut lab).await;
    let rename = SetNick { client, nick: "Ada".parse().unwrap() };
    lab.call(rename.clone()).await.unwrap();
    assert!(matches!(lab.call(rename).await, Err(Refusal::RateLimited { .. })));
    lab.end().await;
}

async fn clients<const N: usize>(lab: &mut Lab) -> [ClientId; N] {
    let mut clients = Vec::new();
    for _ in 0..N {
        clients.push(lab.client().await);
    }
    clients.try_into().unwrap()
}
