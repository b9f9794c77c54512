//! Clients that change their keys, and what becomes of sessions and tokens under the old ones.

use contract::auth::{KeyRetired, LoginRefusal, RetiredKey};
use domain::{IdentityKey, KeyRotation, Signature, Succession, TunnelKey, UnixMillis};
use wire::{
    Code,
    control::{ClientFrame, Refused, Reply, Request, ServerFrame},
};

use crate::{
    client::{Client, id, identity},
    lab::Lab,
};

#[tokio::test]
async fn a_client_asks_for_other_keys() {
    let lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    client.log_in(1).await;
    let codes = [
        Code::KeyRotated,
        Code::SignatureInvalid,
        Code::KeyTaken,
        Code::KeyLimit,
        Code::Blocked,
        Code::Internal,
        Code::Unavailable,
    ];
    for (number, code) in (1..).zip(codes) {
        client.send(&ClientFrame::Request(number, rotation(u8::try_from(number).unwrap()))).await;
        let Some(ServerFrame::Refusal(answered, refused)) = client.receive().await else { panic!("no refusal") };
        assert_eq!((answered, Code::from_number(refused.code)), (number, Some(code)));
        assert_eq!(refused.incident, (code == Code::Internal).then_some(7));
    }
    client.send(&ClientFrame::Request(9, rotation(0))).await;
    assert_eq!(client.receive().await, Some(ServerFrame::Reply(9, Reply::Done)));
    lab.end().await;
}

#[tokio::test]
async fn sessions_and_tokens_under_a_key_that_was_given_up_end() {
    let lab = Lab::new().await;
    let (mut given_up, mut other) = (Client::plain(lab.gateway()).await, Client::plain(lab.gateway()).await);
    let token = given_up.log_in(1).await.0.token;
    other.log_in(2).await;
    lab.bus.publish(&KeyRetired { key: retired(1) }).await.unwrap();
    assert_eq!(given_up.receive().await, Some(ServerFrame::Goodbye(Refused::because(Code::KeyRotated))));
    // Of another client of that key, which is none of this one's.
    let foreign = RetiredKey { client: id(3), ..retired(2) };
    lab.bus.publish(&KeyRetired { key: foreign }).await.unwrap();
    other.is_alive().await;

    *lab.script.login_refusal.lock().unwrap() = Some(LoginRefusal::Rotated);
    let mut again = Client::plain(lab.gateway()).await;
    again.send_login(1, token).await;
    assert_eq!(again.receive().await, Some(ServerFrame::Refused(Refused::because(Code::KeyRotated))));
    assert_eq!(lab.gateway().metrics.resumed.get(), 0);
    lab.end().await;
}

#[tokio::test]
async fn a_gateway_that_did_not_hear_of_it_is_told_with_the_keys_of_tokens() {
    let mut lab = Lab::new().await;
    let mut client = Client::plain(lab.gateway()).await;
    let token = client.log_in(1).await.0.token;
    lab.script.retired.lock().unwrap().push(retired(1));
    *lab.script.login_refusal.lock().unwrap() = Some(LoginRefusal::Rotated);
    // It just began, and knows no keys.
    lab.second_gateway().await;
    let mut stolen = Client::plain(&lab.gateways[1]).await;
    stolen.send_login(1, token).await;
    assert_eq!(stolen.receive().await, Some(ServerFrame::Refused(Refused::because(Code::KeyRotated))));
    assert_eq!(lab.gateways[1].metrics.resumed.get(), 0);
    lab.end().await;
}

fn rotation(first: u8) -> Request {
    let mut key = [9; 32];
    key[0] = first;
    let [farewell, consent, tunnel_signature] = [1, 2, 3].map(|byte| Signature::from_bytes([byte; 64]));
    let succession = Succession { identity: IdentityKey::from_bytes(key), farewell, consent };
    Request::RotateKey(Box::new(KeyRotation { succession, tunnel: TunnelKey::from_bytes([4; 32]), tunnel_signature }))
}

fn retired(seed: u8) -> RetiredKey {
    RetiredKey { identity: identity(seed), client: id(seed), until: UnixMillis(u64::MAX) }
}
