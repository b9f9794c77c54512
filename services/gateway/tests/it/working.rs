//! Work before the login, and what operators hold against clients.

use contract::{
    admin::SessionsFrom,
    auth::{
        LoginRefusal,
        blocks::{Blocked, BlocksChanged},
    },
    gateway::CountSessions,
};
use domain::{AddressPrefix, BlockNotice, Degree, UnixMillis};
use gateway::metrics::Work;
use tokio::sync::mpsc;
use wire::{
    Code,
    control::{ClientFrame, Login, Refused, ServerFrame},
    work::{Puzzle, Solution},
};

use crate::{
    client::{Client, code, id, login},
    lab::{Lab, until},
};

const BITS: u8 = 8;

#[tokio::test]
async fn a_client_that_did_its_work_gets_in() {
    let lab = asking().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.send_login(1, None).await;
    let puzzle = puzzle(&mut client).await;
    assert_eq!(puzzle.bits, BITS);
    let number = puzzle.search(0, u64::MAX).unwrap();
    client.send(&ClientFrame::Worked(Box::new(Solution { puzzle, number }))).await;
    assert_eq!(client.welcome().await.0.client, id(1));
    assert_eq!(lab.script.logins(), 2);
    assert_eq!((work(&lab, Work::Asked), work(&lab, Work::Done)), (1, 1));
    lab.end().await;
}

#[tokio::test]
async fn work_that_is_none_asks_nobody_anything() {
    let lab = asking().await;
    let mut first = Client::plain(lab.gateway()).await;
    first.send_login(1, None).await;
    let given = puzzle(&mut first).await;
    let solved = |puzzle: Puzzle| Solution { puzzle, number: puzzle.search(0, u64::MAX).unwrap() };
    let wrong = (0..).find(|&number| !given.is_solved_by(number)).unwrap();
    let forgeries: [fn(Puzzle) -> Puzzle; 3] = [
        |puzzle| Puzzle { bits: 0, ..puzzle },
        |puzzle| Puzzle { until: UnixMillis(u64::MAX), ..puzzle },
        |puzzle| Puzzle { seed: [0; 32], ..puzzle },
    ];
    for forged in forgeries {
        let mut client = Client::plain(lab.gateway()).await;
        client.send_login(1, None).await;
        let puzzle = puzzle(&mut client).await;
        client.send(&ClientFrame::Worked(Box::new(solved(forged(puzzle))))).await;
        assert_eq!(client.refusal().await, Code::WorkInvalid);
    }
    // What was solved for another connection of the same client, or for another client, is worth nothing here.
    for seed in [1, 2] {
        let mut client = Client::plain(lab.gateway()).await;
        client.send_login(seed, None).await;
        puzzle(&mut client).await;
        client.send(&ClientFrame::Worked(Box::new(solved(given)))).await;
        assert_eq!(client.refusal().await, Code::WorkInvalid);
    }
    let asked = lab.script.logins();
    first.send(&ClientFrame::Worked(Box::new(Solution { puzzle: given, number: wrong }))).await;
    assert_eq!(first.refusal().await, Code::WorkInvalid);
    assert_eq!((lab.script.logins(), work(&lab, Work::Wrong)), (asked, 6));
    lab.end().await;
}

#[tokio::test]
async fn a_client_that_says_something_else_or_nothing_instead_is_refused() {
    let lab = asking().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.send_login(1, None).await;
    puzzle(&mut client).await;
    client.send(&ClientFrame::Ping(1)).await;
    assert_eq!(client.refusal().await, Code::WorkInvalid);
    let mut client = Client::plain(lab.gateway()).await;
    client.send_login(1, None).await;
    puzzle(&mut client).await;
    drop(client);
    until("both are counted", async || work(&lab, Work::Abandoned) == 2).await;
    lab.end().await;
}

#[tokio::test]
async fn an_older_client_is_told_that_it_cannot() {
    let lab = asking().await;
    let mut client = Client::plain(lab.gateway()).await;
    let older = Login { version: 1, ..login(1, client.channel.handshake_hash().unwrap()) };
    client.send(&ClientFrame::Login(Box::new(older))).await;
    let Some(ServerFrame::Refused(refused)) = client.receive().await else { panic!("no refusal") };
    assert_eq!((code(&refused), refused.retry_after_ms), (Code::WorkRequired, Some(300_000)));
    assert_eq!(work(&lab, Work::Unable), 1);
    lab.end().await;
}

#[tokio::test]
async fn what_is_held_against_a_client_is_told_with_its_reason_and_end() {
    let lab = Lab::new().await;
    let notice = |degree| Box::new(BlockNotice { degree, reason: "spam".parse().unwrap(), until: UnixMillis(9) });
    let of_client = |degree| LoginRefusal::Withheld { notice: notice(degree), retry_after_ms: 7 };
    let of_address = |degree| LoginRefusal::RegistrationWithheld { notice: notice(degree), retry_after_ms: 7 };
    for (refusal, degree, expected) in [
        (of_client(Degree::Refuse), Degree::Refuse, Code::Blocked),
        (of_client(Degree::Slow), Degree::Slow, Code::Slowed),
        (of_address(Degree::Refuse), Degree::Refuse, Code::RegistrationBlocked),
        (of_address(Degree::Slow), Degree::Slow, Code::RegistrationLimited),
    ] {
        *lab.script.login_refusal.lock().unwrap() = Some(refusal);
        let mut client = Client::plain(lab.gateway()).await;
        client.send_login(1, None).await;
        let Some(ServerFrame::Refused(refused)) = client.receive().await else { panic!("no refusal") };
        let block = Some(notice(degree));
        assert_eq!(refused, Refused { retry_after_ms: Some(7), block, ..Refused::because(expected) });
    }
    lab.end().await;
}

#[tokio::test]
async fn the_token_of_a_blocked_client_spares_nothing() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    let token = client.log_in(1).await.0.token;
    let resumed = || lab.gateway().metrics.resumed.get();
    let again = async || {
        let mut client = Client::plain(lab.gateway()).await;
        client.send_login(1, token.clone()).await;
        client.welcome().await;
    };
    again().await;
    assert_eq!((resumed(), lab.script.logins()), (1, 1));

    for blocked in [Blocked::These(vec![id(1)]), Blocked::Everybody] {
        *lab.script.blocked.lock().unwrap() = blocked;
        let heard = lab.script.asked_who_is_blocked();
        lab.bus.publish(&BlocksChanged).await.unwrap();
        until("auth is asked who is blocked", async || lab.script.asked_who_is_blocked() > heard).await;
        let before = (resumed(), lab.script.logins());
        until_asked(&lab, async || again().await, before.1).await;
        assert!(resumed() <= before.0 + 1);
    }
    *lab.script.blocked.lock().unwrap() = Blocked::These(vec![id(2)]);
    lab.bus.publish(&BlocksChanged).await.unwrap();
    let before = resumed();
    while resumed() == before {
        again().await;
    }
    lab.end().await;
}

#[tokio::test]
async fn sessions_are_counted_by_where_they_come_from() {
    let lab = Lab::new().await;
    let mut clients = Vec::new();
    for seed in 1..=3 {
        let mut client = Client::plain(lab.gateway()).await;
        client.log_in(seed).await;
        clients.push(client);
    }
    let (tell, mut told) = mpsc::channel(9);
    let _told = lab
        .bus
        .subscribe(1, move |answer: SessionsFrom| {
            let tell = tell.clone();
            async move { tell.send(answer).await }
        })
        .await
        .unwrap();
    for (from, sessions) in [("127.0.0.0/16", 3), ("127.0.0.1/32", 3), ("127.1.0.0/16", 0), ("2001:db8::/32", 0)] {
        let from: AddressPrefix = from.parse().unwrap();
        lab.bus.publish(&CountSessions { question: 7, from }).await.unwrap();
        let answer = told.recv().await.unwrap();
        assert_eq!(answer, SessionsFrom { question: 7, instance: lab.gateway().instance, sessions }, "{from}");
    }
    lab.end().await;
}

/// Repeats `login` until one of them asked auth: what a gateway knows changes a moment after it was told.
async fn until_asked(lab: &Lab, mut login: impl AsyncFnMut(), logins: usize) {
    while lab.script.logins() == logins {
        login().await;
    }
}

/// A service that asks every client for work.
async fn asking() -> Lab {
    let lab = Lab::new().await;
    *lab.script.login_refusal.lock().unwrap() = Some(LoginRefusal::WorkNeeded { bits: BITS });
    lab
}

async fn puzzle(client: &mut Client) -> Puzzle {
    match client.receive().await {
        Some(ServerFrame::Work(puzzle)) => *puzzle,
        other => panic!("no puzzle but {other:?}"),
    }
}

fn work(lab: &Lab, outcome: Work) -> u64 {
    lab.gateway().metrics.work(outcome).get()
}
