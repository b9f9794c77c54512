//! Clients that change their keys, and all that stays theirs.

use domain::{
    ClientId, IdentityKey, KeyRotation, MAX_SUCCESSIONS, NetworkOrder, PayerId, Revision, Signature, Succession,
    TunnelKey, UnixMillis,
};
use futures_util::future::join_all;
use store::{JoinError, Login, LoginError, RotateError, Rotated, Rotation, Standing};

use crate::lab::{HOUR, Lab, NOW, login};

crate::conformance! {
    a_client_keeps_all_but_its_keys,
    a_key_that_was_given_up_opens_nothing_and_makes_no_client,
    a_repeated_rotation_changes_nothing,
    of_two_rotations_at_once_one_counts,
    a_rotation_and_logins_at_once_leave_one_client,
    nobody_takes_a_key_that_is_or_was_somebodys,
    bans_and_blocks_outlive_a_key,
    what_was_proved_and_sealed_for_the_tunnel_key_before_is_gone,
    keys_end_after_so_many,
    keys_that_were_given_up_lately_are_known,
    members_are_told_how_a_key_came_to_be,
}

async fn a_client_keeps_all_but_its_keys(lab: &Lab) {
    let [owner, client] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("friday", owner).await;
    let joined = lab.join(network, client).await;
    lab.order(network, owner, NetworkOrder::Promote(client)).await;
    let (anna, account) = lab.person("anna@example.test").await;
    lab.attach(anna, account, client).await.unwrap();

    let Rotated { networks, at } = rotate(lab, client, 1, 50).await.unwrap();
    assert_eq!((networks, at), (vec![network], NOW));
    let logged_in = lab.accounts().login(later(50, Some(client)), NOW).await.unwrap();
    assert_eq!((logged_in.client, logged_in.registered), (client, false));
    // Whose it is has to be said: what is held against a client is looked up by that.
    assert!(matches!(lab.accounts().login(later(50, None), NOW).await, Err(LoginError::Rotated)));

    let snapshot = lab.networks().snapshot(client, &[]).await.unwrap();
    assert_eq!(snapshot.addresses, joined.addresses);
    let member = snapshot.networks[0].members.iter().find(|member| member.client == client).unwrap();
    assert_eq!((member.addresses, member.role), (joined.addresses, domain::Role::Admin));
    assert_eq!((member.identity, member.tunnel), (key(50), TunnelKey::from_bytes([50; 32])));
    assert_eq!(lab.people().attachment(client).await.unwrap().unwrap().account, account);
}

async fn a_key_that_was_given_up_opens_nothing_and_makes_no_client(lab: &Lab) {
    let client = lab.client().await;
    rotate(lab, client, 0, 50).await.unwrap();
    rotate(lab, client, 50, 51).await.unwrap();
    for passed in [login(0, 0), later(50, Some(client)), later(50, None)] {
        let refused = lab.accounts().login(passed, NOW).await;
        assert!(matches!(refused, Err(LoginError::Rotated)), "{refused:?}");
    }
    // A key never seen, said to be a client's.
    let made_up = lab.accounts().login(later(77, Some(client)), NOW).await;
    assert!(matches!(made_up, Err(LoginError::Rotated)));
    let other = lab.client().await;
    let foreign = lab.accounts().login(later(51, Some(other)), NOW).await;
    assert!(matches!(foreign, Err(LoginError::Rotated)));
    assert_eq!(lab.accounts().login(later(51, Some(client)), NOW).await.unwrap().client, client);
    assert!(lab.accounts().login(later(77, None), NOW).await.unwrap().registered, "nothing was made of it");
}

async fn a_repeated_rotation_changes_nothing(lab: &Lab) {
    let client = lab.client().await;
    rotate(lab, client, 0, 50).await.unwrap();
    let again = lab.accounts().rotate(rotation(client, 0, 50), NOW.plus(HOUR)).await.unwrap();
    assert_eq!(again, Rotated { networks: Vec::new(), at: NOW });
    rotate(lab, client, 50, 51).await.unwrap();
    // Whoever repeats what was said long ago brings nothing back.
    let replayed = rotate(lab, client, 0, 50).await;
    assert!(matches!(replayed, Err(RotateError::Rotated)), "{replayed:?}");
    assert_eq!(lab.accounts().lineage(client).await.unwrap().unwrap().newest(), key(51));
}

async fn of_two_rotations_at_once_one_counts(lab: &Lab) {
    let client = lab.client().await;
    lab.network("friday", client).await;
    let tries = join_all((50..58).map(|next| lab.accounts().rotate(rotation(client, 0, next), NOW))).await;
    let taken: Vec<_> = tries.iter().filter(|tried| tried.is_ok()).collect();
    assert_eq!(taken.len(), 1);
    assert!(tries.iter().all(|tried| matches!(tried, Ok(_) | Err(RotateError::Rotated))), "{tries:?}");
    assert_eq!(lab.accounts().lineage(client).await.unwrap().unwrap().successions().len(), 1);
}

async fn a_rotation_and_logins_at_once_leave_one_client(lab: &Lab) {
    for round in 0..8_u8 {
        let client = lab.accounts().login(login(u64::from(round) + 100, 0), NOW).await.unwrap().client;
        let first = u64::from(round) + 100;
        let changing = rotation_of(client, IdentityKey::from_bytes(first_key(first)), 60 + round);
        let (rotated, before, after) = tokio::join!(
            lab.accounts().rotate(changing, NOW),
            lab.accounts().login(login(first, 9), NOW),
            lab.accounts().login(later(60 + round, Some(client)), NOW),
        );
        rotated.unwrap();
        assert!(before.is_err() || before.unwrap().client == client);
        assert!(after.is_err() || after.unwrap().client == client);
        assert!(matches!(lab.accounts().login(login(first, 9), NOW).await, Err(LoginError::Rotated)));
        let member = lab.accounts().login(later(60 + round, Some(client)), NOW).await.unwrap();
        assert!(!member.registered && member.client == client);
    }
}

async fn nobody_takes_a_key_that_is_or_was_somebodys(lab: &Lab) {
    let [client, other] = lab.clients(2).await.try_into().unwrap();
    rotate(lab, other, 1, 50).await.unwrap();
    for taken in [key(50), IdentityKey::from_bytes(first_key(1)), IdentityKey::from_bytes(first_key(0))] {
        let mut wanted = rotation(client, 0, 51);
        wanted.keys.succession.identity = taken;
        let refused = lab.accounts().rotate(wanted, NOW).await;
        assert!(matches!(refused, Err(RotateError::Taken | RotateError::Rotated)), "{taken:?} {refused:?}");
    }
    assert_eq!(lab.accounts().lineage(client).await.unwrap().unwrap().successions().len(), 0);
    let foreign = rotate(lab, client, 50, 51).await;
    assert!(matches!(foreign, Err(RotateError::Rotated)), "{foreign:?}");
    let unknown = lab.accounts().rotate(rotation(ClientId::from_bytes([9; 16]), 0, 51), NOW).await;
    assert!(matches!(unknown, Err(RotateError::Store(store::Error::UnknownClient))), "{unknown:?}");
}

async fn bans_and_blocks_outlive_a_key(lab: &Lab) {
    let [owner, client] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("friday", owner).await;
    lab.join(network, client).await;
    lab.order(network, owner, NetworkOrder::Ban(client)).await;
    rotate(lab, client, 1, 50).await.unwrap();
    let banned = lab.networks().join(network, client, [1; 16], NOW).await;
    assert!(matches!(banned, Err(JoinError::Banned)), "{banned:?}");

    lab.accounts().set_standing(client, Standing::Blocked).await.unwrap();
    assert_eq!(lab.accounts().login(later(50, Some(client)), NOW).await.unwrap().standing, Standing::Blocked);
    let refused = rotate(lab, client, 50, 51).await;
    assert!(matches!(refused, Err(RotateError::Blocked)), "{refused:?}");
}

async fn what_was_proved_and_sealed_for_the_tunnel_key_before_is_gone(lab: &Lab) {
    let [owner, client] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("friday", owner).await;
    lab.join(network, client).await;
    let proof = domain::SecretProof([7; 16]);
    lab.networks().prove(network, client, domain::SecretEpoch::FIRST, proof, NOW).await.unwrap();
    let holders = lab.networks().holders(network, owner, None, 10).await.unwrap();
    assert!(holders.iter().any(|holder| holder.client == client));
    rotate(lab, client, 1, 50).await.unwrap();
    let holders = lab.networks().holders(network, owner, None, 10).await.unwrap();
    assert!(holders.iter().all(|holder| holder.client != client), "{holders:?}");
}

async fn keys_end_after_so_many(lab: &Lab) {
    let client = lab.client().await;
    rotate(lab, client, 0, 50).await.unwrap();
    let last = 50 + u8::try_from(MAX_SUCCESSIONS).unwrap() - 1;
    for next in 51..=last {
        rotate(lab, client, next - 1, next).await.unwrap();
    }
    let over = rotate(lab, client, last, last + 1).await;
    assert!(matches!(over, Err(RotateError::LimitReached)), "{over:?}");
    assert_eq!(lab.accounts().login(later(last, Some(client)), NOW).await.unwrap().client, client);
}

async fn keys_that_were_given_up_lately_are_known(lab: &Lab) {
    let [one, other] = lab.clients(2).await.try_into().unwrap();
    rotate(lab, one, 0, 50).await.unwrap();
    lab.accounts().rotate(rotation(other, 1, 51), NOW.plus(HOUR)).await.unwrap();
    let since = |at: UnixMillis, limit: u16| lab.accounts().given_up_since(at, limit);
    let all = since(NOW, 10).await.unwrap();
    let keys: Vec<_> = all.iter().map(|given_up| (given_up.client, given_up.identity)).collect();
    let first = |number| IdentityKey::from_bytes(first_key(number));
    assert_eq!(keys, [(other, first(1)), (one, first(0))], "newest first");
    assert_eq!(since(UnixMillis(NOW.0 + 1), 10).await.unwrap(), all[..1]);
    assert_eq!(since(NOW, 1).await.unwrap(), all[..1]);
}

async fn members_are_told_how_a_key_came_to_be(lab: &Lab) {
    let [owner, client] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("friday", owner).await;
    lab.join(network, client).await;
    let before = lab.networks().changes_since(network, owner, Revision::ZERO).await.unwrap().unwrap();
    assert!(before.members.iter().all(|member| member.lineage.is_none()));
    rotate(lab, client, 1, 50).await.unwrap();
    rotate(lab, client, 50, 51).await.unwrap();

    // By the difference, by the whole, and by the outbox.
    let change = lab.networks().changes_since(network, owner, before.revision).await.unwrap().unwrap();
    let whole = lab.networks().changes_since(network, owner, Revision::ZERO).await.unwrap().unwrap();
    let unannounced = lab.networks().unannounced(NOW.plus(HOUR), 10).await.unwrap();
    assert_eq!(change.members.len(), 1);
    assert_eq!(unannounced.len(), 1);
    for told in [&change, &whole, &unannounced[0].change] {
        let member = told.members.iter().find(|member| member.client == client).unwrap();
        let lineage = member.lineage.as_ref().unwrap();
        let keys: Vec<_> = lineage.keys().copied().collect();
        assert_eq!(keys, [IdentityKey::from_bytes(first_key(1)), key(50), key(51)]);
        assert_eq!(lineage.successions()[1].farewell, Signature::from_bytes([51; 64]));
        assert_eq!(member.identity, key(51));
    }
    assert!(whole.members.iter().find(|member| member.client == owner).unwrap().lineage.is_none());
    let relayed = lab.accounts().relayed(PayerId::from(client), domain::Month::of(NOW)).await.unwrap();
    assert_eq!(relayed, 0);
}

async fn rotate(lab: &Lab, client: ClientId, before: u8, next: u8) -> Result<Rotated, RotateError> {
    lab.accounts().rotate(rotation(client, before, next), NOW).await
}

/// From the key with this number, of the lab's clients below 50, to a later one.
fn rotation(client: ClientId, before: u8, next: u8) -> Rotation {
    let from = if before < 50 { IdentityKey::from_bytes(first_key(before.into())) } else { key(before) };
    rotation_of(client, from, next)
}

fn rotation_of(client: ClientId, from: IdentityKey, next: u8) -> Rotation {
    let [farewell, consent] = [next, next ^ 0x80].map(|byte| Signature::from_bytes([byte; 64]));
    let succession = Succession { identity: key(next), farewell, consent };
    let (tunnel, tunnel_signature) = (TunnelKey::from_bytes([next; 32]), Signature::from_bytes([next; 64]));
    Rotation { client, from, keys: KeyRotation { succession, tunnel, tunnel_signature } }
}

fn first_key(number: u64) -> [u8; 32] {
    *login(number, 0).identity.as_bytes()
}

fn key(number: u8) -> IdentityKey {
    IdentityKey::from_bytes([number; 32])
}

fn later(number: u8, client: Option<ClientId>) -> Login {
    Login {
        identity: key(number),
        tunnel: TunnelKey::from_bytes([number; 32]),
        tunnel_signature: Signature::from_bytes([number; 64]),
        nick: None,
        client,
    }
}
