//! Who gets in, and what that costs whom.

use contract::{auth::LoginRefusal, session::SessionChange};
use gateway::metrics::Turned;
use wire::{
    Code,
    control::{ClientFrame, Login, MAX_FRAME, ServerFrame},
    secure::{MAX_RECORD, SecureError, ServerSecret},
};

use crate::{
    client::{Client, id, login},
    lab::{Lab, change, reflectors, until},
};

#[tokio::test]
async fn a_client_logs_in_and_is_told_everything() {
    let mut lab = Lab::new().await;
    lab.script.changes.lock().unwrap().push(change(0, 3));
    let mut client = Client::plain(lab.gateway()).await;
    let (welcome, changes) = client.log_in(1).await;
    assert_eq!(welcome.client, id(1));
    assert_eq!(welcome.reflectors, reflectors());
    assert_eq!((welcome.prefix4, welcome.prefix6), (10, 48));
    assert!(welcome.token.is_some());
    assert_eq!(changes, [ServerFrame::Change(change(0, 3))]);
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up));
    assert_eq!(lab.presence.find(&[id(1)]).await.unwrap()[0].unwrap().tag, welcome.tag);
    assert_eq!(lab.gateway().metrics.sessions.get(), 1);
    assert_eq!(lab.gateway().metrics.logins.get(), 1);
    client.is_alive().await;
    lab.end().await;
}

#[tokio::test]
async fn a_websocket_over_tls_carries_the_same_session() {
    let mut lab = Lab::new().await;
    let mut client = Client::web(lab.gateway()).await;
    let (welcome, _) = client.log_in(1).await;
    assert_eq!(welcome.client, id(1));
    assert_eq!(lab.changed().await, (id(1), SessionChange::Up));
    client.is_alive().await;
    client.send(&ClientFrame::Goodbye).await;
    assert_eq!(lab.changed().await, (id(1), SessionChange::Down));
    lab.end().await;
}

#[tokio::test]
async fn a_client_without_a_pin_learns_the_key() {
    let lab = Lab::new().await;
    let mut client = Client::dial(lab.gateway(), None).await;
    assert_eq!(client.open().await, Ok(lab.gateway().key));
    client.log_in(1).await;
    lab.end().await;
}

#[tokio::test]
async fn a_client_with_a_wrong_pin_learns_that() {
    let lab = Lab::new().await;
    let mut client = Client::dial(lab.gateway(), Some(ServerSecret::from_bytes([9; 32]).public())).await;
    assert_eq!(client.open().await, Err(SecureError::KeyMismatch));
    lab.end().await;
}

#[tokio::test]
async fn a_wrong_signature_is_refused_before_anybody_is_asked() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    let hash = *client.channel.handshake_hash().unwrap();
    let forged = Login { signature: login(2, &hash).signature, ..login(1, &hash) };
    client.send(&ClientFrame::Login(Box::new(forged))).await;
    assert_eq!(client.refusal().await, Code::SignatureInvalid);
    assert_eq!(lab.script.logins(), 0);
    assert_eq!(lab.epoch(id(1)).await, None);
    assert_eq!(lab.gateway().metrics.turned(Turned::Refused).get(), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_tunnel_key_of_somebody_else_is_refused() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    let hash = *client.channel.handshake_hash().unwrap();
    let other = login(2, &hash);
    let stolen = Login { tunnel: other.tunnel, tunnel_signature: other.tunnel_signature, ..login(1, &hash) };
    client.send(&ClientFrame::Login(Box::new(stolen))).await;
    assert_eq!(client.refusal().await, Code::SignatureInvalid);
    assert_eq!(lab.script.logins(), 0);
    lab.end().await;
}

#[tokio::test]
async fn a_login_recorded_on_another_connection_is_refused() {
    let lab = Lab::new().await;
    let mut victim = Client::plain(lab.gateway()).await;
    let recorded = login(1, victim.channel.handshake_hash().unwrap());
    victim.send(&ClientFrame::Login(Box::new(recorded.clone()))).await;
    victim.welcome().await;

    let mut relayed = Client::plain(lab.gateway()).await;
    relayed.send(&ClientFrame::Login(Box::new(recorded))).await;
    assert_eq!(relayed.refusal().await, Code::SignatureInvalid);
    assert_eq!(lab.script.logins(), 1);
    victim.is_alive().await;
    lab.end().await;
}

#[tokio::test]
async fn nothing_but_a_login_is_understood_before_it() {
    let lab = Lab::new().await;
    for bytes in [ClientFrame::Ping(1).encode(), b"nonsense".to_vec(), Vec::new(), vec![0xff; MAX_FRAME]] {
        let mut client = Client::plain(lab.gateway()).await;
        client.send_sealed(&bytes).await;
        assert_eq!(client.refusal().await, Code::Malformed);
    }
    assert_eq!(lab.script.logins(), 0);
    lab.end().await;
}

#[tokio::test]
async fn an_oversized_record_is_refused_unread() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.send_raw(&u16::try_from(MAX_RECORD + 1).unwrap().to_be_bytes()).await;
    assert_eq!(client.refusal().await, Code::TooLarge);
    lab.end().await;
}

#[tokio::test]
async fn another_protocol_gets_no_answer() {
    let lab = Lab::new().await;
    let mut client = Client::dial(lab.gateway(), None).await;
    client.send_raw(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.receive().await, None);
    let turned = lab.gateway().metrics.turned(Turned::Foreign);
    until("it is counted", async || turned.get() == 1).await;
    lab.end().await;
}

#[tokio::test]
async fn a_token_spares_the_call_to_auth() {
    let lab = Lab::new().await;
    let mut first = Client::plain(lab.gateway()).await;
    let token = first.log_in(1).await.0.token;
    assert_eq!(lab.script.logins(), 1);

    let mut second = Client::plain(lab.gateway()).await;
    second.send_login(1, token).await;
    assert_eq!(second.welcome().await.0.client, id(1));
    assert_eq!(lab.script.logins(), 1);
    assert_eq!(lab.gateway().metrics.resumed.get(), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_token_of_another_client_or_none_at_all_asks_auth() {
    let lab = Lab::new().await;
    let mut first = Client::plain(lab.gateway()).await;
    let token = first.log_in(1).await.0.token.unwrap();

    for bad in [token.clone(), format!("{token}x"), "no token".to_owned(), "x".repeat(4096)] {
        let asked = lab.script.logins();
        let mut thief = Client::plain(lab.gateway()).await;
        thief.send_login(2, Some(bad)).await;
        assert_eq!(thief.welcome().await.0.client, id(2), "the token is ignored, the signature counts");
        assert_eq!(lab.script.logins(), asked + 1);
    }
    assert_eq!(lab.gateway().metrics.resumed.get(), 0);
    first.is_alive().await;
    lab.end().await;
}

#[tokio::test]
async fn a_token_is_renewed_at_half_of_its_life() {
    let lab = Lab::new().await;
    lab.script.token_lifetime_ms.store(11_000, std::sync::atomic::Ordering::SeqCst);
    let mut client = Client::plain(lab.gateway()).await;
    let token = client.log_in(1).await.0.token.unwrap();
    match client.receive().await {
        Some(ServerFrame::Token(fresh)) => assert_ne!(fresh, token),
        other => panic!("no token but {other:?}"),
    }
    assert_eq!(lab.script.renewals.load(std::sync::atomic::Ordering::SeqCst), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_refusal_of_auth_reaches_the_client_with_its_delay() {
    let lab = Lab::new().await;
    for (refusal, code, retry_after_ms) in [
        (LoginRefusal::RegistrationLimited { retry_after_ms: 7_000 }, Code::RegistrationLimited, Some(7_000)),
        (LoginRefusal::Blocked, Code::Blocked, None),
        (LoginRefusal::Signature, Code::SignatureInvalid, None),
    ] {
        *lab.script.login_refusal.lock().unwrap() = Some(refusal);
        let mut client = Client::plain(lab.gateway()).await;
        client.send_login(1, None).await;
        match client.receive().await {
            Some(ServerFrame::Refused(refused)) => {
                assert_eq!((refused.code, refused.retry_after_ms), (code.number(), retry_after_ms));
            }
            other => panic!("no refusal but {other:?}"),
        }
    }
    *lab.script.login_refusal.lock().unwrap() = Some(LoginRefusal::Internal { incident: 77 });
    let mut client = Client::plain(lab.gateway()).await;
    client.send_login(1, None).await;
    match client.receive().await {
        Some(ServerFrame::Refused(refused)) => assert_eq!(refused.incident, Some(77)),
        other => panic!("no refusal but {other:?}"),
    }
    assert_eq!(lab.epoch(id(1)).await, None);
    assert_eq!(lab.gateway().metrics.turned(Turned::Failed).get(), 4);
    lab.end().await;
}
