//! Clients that change their keys.

use auth::Config;
use bus::CallError;
use contract::auth::{KeyRetired, Keys, Login, LoginRefusal, RotateKey, RotateRefusal};
use domain::{ClientId, IdentityKey, KeyRotation, Lineage, Signature, Succession, TUNNEL_KEY_CONTEXT, TunnelKey};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use store::Standing;
use tokio::sync::mpsc;

use crate::{Lab, entry};

#[tokio::test]
async fn a_client_goes_over_to_another_key_and_the_old_one_is_refused() {
    let lab = Lab::new(Config::default()).await;
    let (tell, mut told) = mpsc::channel(8);
    let _served =
        lab.bus.subscribe(1, move |event: KeyRetired| std::future::ready(tell.try_send(event))).await.unwrap();
    let client = lab.login(1).await.unwrap().client;
    let (line, call) = rotation(client, &Lineage::new(key(1)), 1, 2);
    lab.bus.call(&call).await.unwrap();
    let event = told.recv().await.unwrap();
    assert_eq!((event.key.client, event.key.identity), (client, key(1)));
    assert_eq!(lab.metrics.keys_rotated.get(), 1);

    assert!(matches!(lab.login(1).await, Err(CallError::Refused(LoginRefusal::Rotated))));
    assert_eq!(lab.bus.call(&later(2, client)).await.unwrap().client, client);
    assert!(matches!(lab.login(2).await, Err(CallError::Refused(LoginRefusal::Rotated))), "whose it is was not said");
    // Said again, as after a lost answer: the same answer, and counted once.
    lab.bus.call(&call).await.unwrap();
    assert_eq!(lab.metrics.keys_rotated.get(), 1);
    let known = lab.bus.call(&Keys).await.unwrap().retired;
    assert_eq!(known.iter().map(|key| key.identity).collect::<Vec<_>>(), [key(1)]);
    assert_eq!(known[0].until, event.key.until);

    // And once more, after which the first change means nothing.
    let (_, next) = rotation(client, &line, 2, 3);
    lab.bus.call(&next).await.unwrap();
    assert_eq!(lab.bus.call(&call).await, Err(CallError::Refused(RotateRefusal::Rotated)));
    assert_eq!(lab.bus.call(&later(3, client)).await.unwrap().client, client);
    lab.end().await;
}

#[tokio::test]
async fn nobody_else_changes_a_key() {
    let lab = Lab::new(Config::default()).await;
    let (client, other) = (lab.login(1).await.unwrap().client, lab.login(5).await.unwrap().client);
    let line = Lineage::new(key(1));
    let (_, good) = rotation(client, &line, 1, 2);
    let with = |change: fn(&mut RotateKey)| {
        let mut call = good.clone();
        change(&mut call);
        call
    };
    let (_, by_another) = rotation(client, &line, 5, 2);
    let (_, elsewhere) = rotation(other, &Lineage::new(key(5)), 5, 2);
    let of_another = RotateKey { client, from: key(1), ..elsewhere };
    for (call, refusal) in [
        (by_another, RotateRefusal::Signature),
        (of_another, RotateRefusal::Signature),
        (with(|call| call.rotation.succession.consent = call.rotation.succession.farewell), RotateRefusal::Signature),
        (with(|call| call.rotation.tunnel = TunnelKey::from_bytes([9; 32])), RotateRefusal::Signature),
        (with(|call| call.from = key(5)), RotateRefusal::Rotated),
        (with(|call| call.client = ClientId::from_bytes([9; 16])), RotateRefusal::Rotated),
        (rotation(client, &line, 1, 5).1, RotateRefusal::Taken),
    ] {
        assert_eq!(lab.bus.call(&call).await, Err(CallError::Refused(refusal)), "{call:?}");
    }
    lab.stores.accounts.set_standing(client, Standing::Blocked).await.unwrap();
    assert_eq!(lab.bus.call(&good).await, Err(CallError::Refused(RotateRefusal::Blocked)));
    assert_eq!(lab.metrics.key_rotations_failed.get(), 8);
    lab.stores.accounts.set_standing(client, Standing::Good).await.unwrap();
    assert_eq!(lab.login(1).await.unwrap().client, client, "it has its key still");
    lab.end().await;
}

#[tokio::test]
async fn a_later_key_is_never_registered_and_costs_no_registration() {
    let config = Config { registrations_per_source: std::num::NonZeroU32::MIN, ..Config::default() };
    let lab = Lab::new(config).await;
    let client = lab.login(1).await.unwrap().client;
    let claim = later(7, client);
    assert_eq!(lab.bus.call(&claim).await, Err(CallError::Refused(LoginRefusal::Rotated)));
    let (_, call) = rotation(client, &Lineage::new(key(1)), 1, 7);
    lab.bus.call(&call).await.unwrap();
    assert_eq!(lab.bus.call(&claim).await.unwrap().client, client);
    lab.end().await;
}

/// With a key that is not the client's first.
fn later(seed: u8, client: ClientId) -> Login {
    Login { client: Some(client), ..entry(seed) }
}

/// The call for the key of `seed` to follow, signed with that of `signer`; and the line of keys afterwards, if it is good.
fn rotation(client: ClientId, line: &Lineage, signer: u8, seed: u8) -> (Lineage, RotateKey) {
    let statement = line.statement(&key(seed));
    let succession =
        Succession { identity: key(seed), farewell: sign(signer, &statement), consent: sign(seed, &statement) };
    let tunnel = TunnelKey::from_bytes([seed; 32]);
    let tunnel_signature = sign(seed, &[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()].concat());
    let call =
        RotateKey { client, from: line.newest(), rotation: KeyRotation { succession, tunnel, tunnel_signature } };
    (line.clone().followed_by(succession).unwrap_or_else(|_| line.clone()), call)
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn key(seed: u8) -> IdentityKey {
    IdentityKey::try_from(pair(seed).public_key().as_ref()).unwrap()
}

fn sign(seed: u8, message: &[u8]) -> Signature {
    Signature::try_from(pair(seed).sign(message).as_ref()).unwrap()
}
