//! Orders of owners and admins, and who is told.

use std::time::Duration;

use contract::{
    gateway::Notice,
    network::{Admissions, Keys, Leave, Order, Redeem, Refusal},
    rendezvous::Wanted,
};
use domain::{AddressPool, ClientId, InviteToken, NetworkId, NetworkOrder, NewInvite, Role};
use network::{Limits, Outcome};

use crate::lab::{HOME, Lab, join_start, source};

const SESSION: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_removed_is_told_like_everybody_else() {
    let mut lab = Lab::new().await;
    let [owner, guest] = [lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    lab.join(guest, "home", "right").await.unwrap();
    lab.quiet().await;
    lab.seat(guest, &gateway, SESSION).await;

    let answer = order(&lab, owner, network, NetworkOrder::Ban(guest)).await.unwrap();
    assert!(answer.members[0].gone && !answer.left);
    let (to, notice) = gateway.told_that(|notice| matches!(notice, Notice::Change(_))).await;
    let Notice::Change(change) = notice else { panic!("{notice:?}") };
    assert_eq!((to, change.left, change.members.len(), change.revision), (vec![guest], true, 0, answer.revision));

    assert_eq!(lab.join(guest, "home", "right").await, Err(Refusal::Banned));
    assert_eq!(lab.join(guest, "home", "wrong").await, Err(Refusal::Denied), "the password comes first");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_told_to_all_and_the_sweep_repairs_it() {
    let mut lab = Lab::new().await;
    let [owner, guest] = [lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    lab.join(guest, "home", "right").await.unwrap();
    lab.quiet().await;
    lab.seat(guest, &gateway, SESSION).await;

    // Past the role: nobody announces it but the sweep.
    let at = domain::UnixMillis(1);
    lab.stores.networks.carry_out(network, owner, NetworkOrder::Delete, at).await.unwrap();

    let left = |notice: &Notice| matches!(notice, Notice::Change(change) if change.left);
    let (to, _) = gateway.told_that(left).await;
    assert_eq!(to, [guest]);
    lab.quiet().await;
    lab.create(guest, "home", "other").await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_deletes_is_told_so_by_the_answer() {
    let mut lab = Lab::new().await;
    let owner = lab.client().await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    let answer = order(&lab, owner, network, NetworkOrder::Delete).await.unwrap();
    assert!(answer.left && answer.members.is_empty());
    assert_eq!(lab.join(owner, "home", "right").await, Err(Refusal::Denied));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applicant_gets_the_keys_when_it_is_approved() {
    let mut lab = Lab::new().await;
    let [owner, guest, other] = [lab.client().await, lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let created = lab.create(owner, "home", "right").await.unwrap();
    let network = created.network;
    order(&lab, owner, network, NetworkOrder::AskApproval).await.unwrap();
    lab.quiet().await;
    lab.seat(owner, &gateway, SESSION).await;

    assert_eq!(lab.join(guest, "home", "right").await, Err(Refusal::AwaitingApproval));
    assert_eq!(lab.join(other, "home", "right").await, Err(Refusal::AwaitingApproval));
    let waits = |notice: &Notice| matches!(notice, Notice::Change(change) if change.terms.applicants == 2);
    gateway.told_that(waits).await;
    assert_eq!(lab.call(Keys { client: guest, network }).await, Err(Refusal::AwaitingApproval));
    let lists = lab.call(Admissions { client: owner, network }).await.unwrap();
    assert_eq!(lists.applicants.len(), 2);

    lab.seat(guest, &gateway, SESSION).await;
    lab.seat(other, &gateway, SESSION).await;
    order(&lab, owner, network, NetworkOrder::Approve(guest)).await.unwrap();
    assert_eq!(lab.call(Keys { client: guest, network }).await.unwrap().wrapped_secret, created.wrapped_secret);
    let pair = lab.wanted(Wanted::Online).await;
    assert_eq!((pair.a, pair.b), (guest, owner));

    order(&lab, owner, network, NetworkOrder::Reject(other)).await.unwrap();
    let (to, _) = gateway.told_that(|notice| matches!(notice, Notice::Change(change) if change.left)).await;
    assert_eq!(to, [other]);
    assert_eq!(lab.call(Keys { client: other, network }).await, Err(Refusal::NotAMember));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_redeemed_by_its_token() {
    let limits = Limits { guesses_per_client: 2, ..Limits::default() };
    let mut lab = Lab::with(limits, AddressPool::DEFAULT).await;
    let [owner, guest, other] = [lab.client().await, lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    lab.quiet().await;
    lab.seat(owner, &gateway, SESSION).await;
    let token = InviteToken([5; 32]);
    let new = NewInvite {
        id: token.id(),
        sealed_secret: b"sealed for the link".to_vec(),
        uses: 1,
        lifetime_s: 60,
        door: domain::SecretEpoch::FIRST,
    };
    order(&lab, owner, network, NetworkOrder::Invite(new)).await.unwrap();

    let redeem = |client, token| Redeem { client, token, request: [1; 16], source: source(HOME) };
    let joined = lab.call(redeem(guest, token)).await.unwrap();
    assert_eq!((joined.network, joined.wrapped_secret), (network, b"sealed for the link".to_vec()));
    let (to, _) = gateway
        .told_that(
            |notice| matches!(notice, Notice::Change(change) if change.members.iter().any(|m| m.client == guest)),
        )
        .await;
    assert_eq!(to, [owner]);

    assert_eq!(lab.call(redeem(other, token)).await, Err(Refusal::InviteUsedUp), "which costs nothing");
    for wrong in 0..2 {
        assert_eq!(lab.call(redeem(other, InviteToken([wrong; 32]))).await, Err(Refusal::InviteInvalid));
    }
    let refused = lab.call(redeem(other, token)).await;
    assert!(matches!(refused, Err(Refusal::GuessLimit { retry_after_ms: 1.. })), "{refused:?}");
    let broken = NewInvite {
        id: token.id(),
        sealed_secret: Vec::new(),
        uses: 1,
        lifetime_s: 60,
        door: domain::SecretEpoch::FIRST,
    };
    assert_eq!(order(&lab, owner, network, NetworkOrder::Invite(broken)).await, Err(Refusal::Malformed));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_network_opens_with_its_password_under_its_new_name() {
    let mut lab = Lab::new().await;
    let [owner, guest] = [lab.client().await, lab.client().await];
    let created = lab.create(owner, "before", "right").await.unwrap();
    let renamed = NetworkOrder::Rename("after".parse().unwrap());
    order(&lab, owner, created.network, renamed).await.unwrap();

    assert_eq!(lab.join(guest, "before", "right").await, Err(Refusal::Denied));
    assert_eq!(lab.create(guest, "before", "right").await, Err(Refusal::NameTaken));
    let joined = lab.join(guest, "after", "right").await.unwrap();
    assert_eq!(joined.wrapped_secret, created.wrapped_secret);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_said_as_what_they_are() {
    let mut lab = Lab::new().await;
    let [owner, guest, stranger] = [lab.client().await, lab.client().await, lab.client().await];
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    lab.create(owner, "taken", "right").await.unwrap();
    lab.join(guest, "home", "right").await.unwrap();
    for (actor, wish, refusal) in [
        (guest, NetworkOrder::Lock, Refusal::NotPermitted),
        (stranger, NetworkOrder::Lock, Refusal::NotAMember),
        (owner, NetworkOrder::Evict(stranger), Refusal::MemberUnknown),
        (owner, NetworkOrder::Rename("taken".parse().unwrap()), Refusal::NameTaken),
    ] {
        assert_eq!(order(&lab, actor, network, wish).await, Err(refusal));
    }
    assert_eq!(lab.metrics.orders(Outcome::Refused), 4);

    order(&lab, owner, network, NetworkOrder::Lock).await.unwrap();
    assert_eq!(lab.join(stranger, "home", "right").await, Err(Refusal::Locked));
    assert_eq!(lab.metrics.orders(Outcome::Done), 1);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_run_out() {
    let limits = Limits { orders_per_client: 2, ..Limits::default() };
    let mut lab = Lab::with(limits, AddressPool::DEFAULT).await;
    let owner = lab.client().await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    for wish in [NetworkOrder::Lock, NetworkOrder::Unlock] {
        order(&lab, owner, network, wish).await.unwrap();
    }
    let refused = order(&lab, owner, network, NetworkOrder::Lock).await;
    assert!(matches!(refused, Err(Refusal::RateLimited { retry_after_ms: 1.. })), "{refused:?}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heir_learns_that_it_owns_the_network() {
    let mut lab = Lab::new().await;
    let [owner, guest] = [lab.client().await, lab.client().await];
    let mut gateway = lab.gateway(1).await;
    let network = lab.create(owner, "home", "right").await.unwrap().network;
    lab.join(guest, "home", "right").await.unwrap();
    lab.quiet().await;
    lab.seat(guest, &gateway, SESSION).await;

    lab.call(Leave { client: owner, network }).await.unwrap();
    let inherits = |notice: &Notice| {
        let heir = |member: &domain::Member| member.client == guest && member.role == Role::Owner;
        matches!(notice, Notice::Change(change) if change.members.iter().any(heir))
    };
    gateway.told_that(inherits).await;
    // A name nobody has is answered as ever.
    let (_, start) = join_start(owner, "nowhere", "right", "203.0.113.1");
    assert!(lab.call(start).await.is_ok());
    lab.end().await;
}

async fn order(
    lab: &Lab,
    client: ClientId,
    network: NetworkId,
    order: NetworkOrder,
) -> Result<domain::NetworkChange, Refusal> {
    lab.call(Order { client, network, order }).await
}
