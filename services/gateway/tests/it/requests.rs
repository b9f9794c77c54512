//! What clients ask, and what they are told unasked.

use contract::{gateway::Notice, rendezvous::PunchSaid, session::SessionChange};
use domain::{AccountId, AttachCode, ClientAccount, NatProfile, NetworkOrder, PunchId, PunchReport, Revision};
use wire::{
    Code,
    control::{ClientFrame, MAX_MEMBERS_PER_FRAME, NatReport, Refused, Reply, Request, ServerFrame},
};

use crate::{
    client::{Client, id},
    lab::{Lab, NETWORK, OTHERS, change, until},
};

#[tokio::test]
async fn a_join_is_passed_on_in_two_halves() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    let start = Request::JoinStart("lan".parse().unwrap(), b"ke1".to_vec());
    client.send(&ClientFrame::Request(1, start)).await;
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(1, Reply::Credential(b"ke1".to_vec()))));

    client.send(&ClientFrame::Request(2, Request::JoinFinish(b"right".to_vec()))).await;
    assert_eq!(client.receive().await, Some(ServerFrame::Change(change(0, 1))));
    match client.receive().await {
        Some(ServerFrame::Reply(2, Reply::Joined(joined))) => {
            assert_eq!(joined.network, NETWORK);
            assert_eq!(joined.warning, Some(Code::AddressPoolExhausted));
        }
        other => panic!("not joined but {other:?}"),
    }
    assert_eq!(lab.gateway().metrics.requests.get(), 2);
    lab.end().await;
}

#[tokio::test]
async fn a_join_is_finished_once() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    client.send(&ClientFrame::Request(1, Request::JoinFinish(b"right".to_vec()))).await;
    assert_eq!(client.receive().await, Some(refusal(1, Code::Malformed)));

    let start = Request::JoinStart("lan".parse().unwrap(), b"ke1".to_vec());
    client.send(&ClientFrame::Request(2, start)).await;
    client.receive().await.unwrap();
    client.send(&ClientFrame::Request(3, Request::JoinFinish(b"wrong".to_vec()))).await;
    assert_eq!(client.receive().await, Some(refusal(3, Code::NetworkDenied)));
    client.send(&ClientFrame::Request(4, Request::JoinFinish(b"right".to_vec()))).await;
    assert_eq!(client.receive().await, Some(refusal(4, Code::Malformed)));
    lab.end().await;
}

#[tokio::test]
async fn an_order_is_answered_with_its_change() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    client.send(&ClientFrame::Request(1, Request::Order(NETWORK, NetworkOrder::Lock))).await;
    assert_eq!(client.receive().await, Some(ServerFrame::Change(change(1, 2))));
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(1, Reply::Done)));
    for (order, code) in [
        (NetworkOrder::Unlock, Code::NotPermitted),
        (NetworkOrder::Delete, Code::LimitReached),
        (NetworkOrder::AskApproval, Code::MemberUnknown),
    ] {
        client.send(&ClientFrame::Request(2, Request::Order(NETWORK, order))).await;
        assert_eq!(client.receive().await, Some(refusal(2, code)));
    }
    client.send(&ClientFrame::Request(3, Request::Admissions(NETWORK))).await;
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(3, Reply::Admissions(Box::default()))));
    lab.end().await;
}

#[tokio::test]
async fn a_client_joins_and_leaves_an_account() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    let attach = |bits| Request::AttachAccount(AttachCode::from_random(bits));
    client.send(&ClientFrame::Request(1, attach(0))).await;
    let account = ClientAccount { account: AccountId::from_bytes([6; 16]), plan: "free".into() };
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(1, Reply::Account(Some(Box::new(account))))));
    let codes = [
        (1, Code::AttachCodeInvalid),
        (2, Code::AttachedElsewhere),
        (3, Code::AccountFull),
        (4, Code::AccountSuspended),
    ];
    for (bits, code) in codes {
        client.send(&ClientFrame::Request(2, attach(bits))).await;
        assert_eq!(client.receive().await, Some(refusal(2, code)));
    }
    client.send(&ClientFrame::Request(3, Request::Account)).await;
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(3, Reply::Account(None))));
    client.send(&ClientFrame::Request(4, Request::DetachAccount)).await;
    assert_eq!(client.receive().await, Some(refusal(4, Code::NotAttached)));
    lab.end().await;
}

#[tokio::test]
async fn an_applicant_is_told_to_wait() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    let start = Request::JoinStart("lan".parse().unwrap(), b"ke1".to_vec());
    client.send(&ClientFrame::Request(1, start)).await;
    client.receive().await.unwrap();
    client.send(&ClientFrame::Request(2, Request::JoinFinish(b"not yet".to_vec()))).await;
    let awaiting = Reply::Awaiting(NETWORK, "lan".parse().unwrap());
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(2, awaiting)));
    client.send(&ClientFrame::Request(3, Request::Keys(NETWORK))).await;
    assert_eq!(client.receive().await, Some(refusal(3, Code::AwaitingApproval)));
    lab.end().await;
}

#[tokio::test]
async fn refusals_and_silence_have_their_codes() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    client.send(&ClientFrame::Request(1, Request::Leave(NETWORK))).await;
    assert_eq!(client.receive().await, Some(refusal(1, Code::NotAMember)));
    client.send(&ClientFrame::Request(2, Request::Connect(id(2)))).await;
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(2, Reply::Done)));
    client.send(&ClientFrame::Request(3, Request::Why(id(2)))).await;
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(3, Reply::Why(None))));
    // Nobody serves this one.
    client.send(&ClientFrame::Request(4, Request::SetNick("n".parse().unwrap()))).await;
    assert_eq!(client.receive().await, Some(refusal(4, Code::Unavailable)));
    client.send(&ClientFrame::Request(5, Request::ChangesSince(NETWORK, Revision(1)))).await;
    assert_eq!(client.receive().await, Some(ServerFrame::Change(change(1, 2))));
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(5, Reply::Done)));
    lab.end().await;
}

#[tokio::test]
async fn a_message_of_a_newer_client_is_ignored() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    client.send_sealed(&[0x82, 0x18, 0xff, 0x80]).await;
    client.is_alive().await;
    lab.end().await;
}

#[tokio::test]
async fn a_malformed_frame_ends_the_session_with_a_code() {
    let mut lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    client.send_sealed(b"nonsense").await;
    assert_eq!(client.refusal().await, Code::Malformed);
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up));
    assert_eq!(lab.changed().await, (id(1), SessionChange::Lost));
    assert_eq!(lab.epoch(id(1)).await, None);
    lab.end().await;
}

#[tokio::test]
async fn a_profile_goes_to_presence_and_is_told() {
    let mut lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    let report = NatReport { profile: NatProfile::BLOCKED, observations: Vec::new() };
    client.send(&ClientFrame::Nat(report)).await;
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up));
    assert_eq!(lab.changed().await, (id(1), SessionChange::Profiled));
    let seat = lab.presence.find(&[id(1)]).await.unwrap()[0].unwrap();
    assert_eq!(seat.profile, Some(NatProfile::BLOCKED));
    lab.end().await;
}

#[tokio::test]
async fn a_word_of_a_negotiation_reaches_its_leader() {
    let mut lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    let welcome = client.log_in(1).await.0;
    let punch = PunchId { leader: OTHERS, number: 3 };
    let report = PunchReport { punch, endpoint: None, rtt_us: 0, packets: 4, took_us: 0 };
    client.send(&ClientFrame::PunchReport(report)).await;
    let word = lab.words.recv().await.unwrap();
    assert_eq!((word.from, word.tag, word.said), (id(1), welcome.tag, PunchSaid::Report(report)));
    lab.end().await;
}

#[tokio::test]
async fn a_word_says_how_long_the_control_connection_takes() {
    let mut lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    // Each answers the questions of the gateway that came meanwhile.
    for _ in 0..6 {
        client.is_alive().await;
    }
    let punch = PunchId { leader: OTHERS, number: 3 };
    let report = PunchReport { punch, endpoint: None, rtt_us: 0, packets: 4, took_us: 0 };
    client.send(&ClientFrame::PunchReport(report)).await;
    let word = lab.words.recv().await.unwrap();
    assert!(word.control_rtt_us > 0);
    assert!(word.control_jitter_us.is_some());
    lab.end().await;
}

#[tokio::test]
async fn a_push_reaches_its_session_and_no_older_one() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    let old = lab.presence.find(&[id(1)]).await.unwrap()[0].unwrap();
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;

    let to = vec![contract::gateway::Target { client: id(1), epoch: old.epoch }];
    let push = contract::gateway::Push { to, notice: Notice::PeerDown(id(3)) };
    lab.bus.publish_to(old.gateway, &push).await.unwrap();
    let metrics = &lab.gateway().metrics;
    until("the push is missed", async || metrics.pushes_missed.get() == 1).await;
    lab.push(id(1), Notice::PeerUp(id(2))).await;
    assert_eq!(client.receive().await, Some(ServerFrame::PeerUp(id(2))));
    assert_eq!(metrics.pushes.get(), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_large_change_travels_in_frames_without_a_gap() {
    let lab = Lab::new().await;
    let members = u64::try_from(MAX_MEMBERS_PER_FRAME * 2 + 5).unwrap();
    let mut large = change(0, members);
    large.members = (1..=members).map(crate::lab::member).collect();
    lab.script.changes.lock().unwrap().push(large);
    let mut client = Client::plain(lab.gateway()).await;
    let (_, frames) = client.log_in(1).await;
    let mut reached = Revision::ZERO;
    let mut count = 0;
    for frame in frames {
        let ServerFrame::Change(change) = frame else { panic!("no change but {frame:?}") };
        assert_eq!(change.since, reached);
        reached = change.revision;
        count += change.members.len();
    }
    assert_eq!((reached, count), (Revision(members), usize::try_from(members).unwrap()));
    lab.end().await;
}

#[tokio::test]
async fn after_a_gap_of_the_bus_every_session_is_asked_to_catch_up() {
    let lab = Lab::new().await;
    let mut clients = Vec::new();
    for seed in 1..4 {
        let mut client = Client::plain(lab.gateway()).await;
        client.log_in(seed).await;
        client.is_alive().await;
        clients.push(client);
    }
    lab.hub.interrupt();
    lab.hub.restore();
    for client in &mut clients {
        assert_eq!(client.receive().await, Some(ServerFrame::Resync));
        client.send(&ClientFrame::Sync(Vec::new())).await;
        assert!(matches!(client.receive().await, Some(ServerFrame::Synced(..))));
    }
    lab.end().await;
}

fn refusal(number: u32, code: Code) -> ServerFrame {
    ServerFrame::Refusal(number, Refused::because(code))
}
