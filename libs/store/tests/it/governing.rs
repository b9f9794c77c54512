//! Roles, and what owners and admins order.

use domain::{ClientId, MAX_APPLICANTS, MAX_BANS, Member, NetworkId, NetworkOrder, Revision, Role};
use futures_util::future::join_all;
use store::{Admission, Announcement, CreateError, JoinError, KeyHolder, LeaveError, OrderError};

use crate::lab::{Lab, NOW, new_network};

crate::conformance! {
    orders_are_for_those_who_may,
    an_evicted_member_may_return_and_a_banned_client_may_not,
    a_role_is_told_and_gone_after_an_eviction,
    a_transfer_leaves_one_owner,
    a_departing_owner_hands_over_to_an_admin_first,
    a_locked_network_takes_nobody,
    a_renamed_network_keeps_its_password_and_its_first_name,
    a_deleted_network_is_gone_once_its_members_were_told,
    an_applicant_is_let_in_or_sent_away,
    an_approval_obeys_seats_and_bans,
    lists_have_their_limits,
    an_approval_and_an_eviction_at_once_end_in_one_of_two_ways,
    a_transfer_and_a_deletion_at_once_leave_no_orphan,
}

async fn orders_are_for_those_who_may(lab: &Lab) {
    let [owner, admin, member, stranger] = lab.clients(4).await.try_into().unwrap();
    let network = lab.network("rules", owner).await;
    lab.join(network, admin).await;
    lab.join(network, member).await;
    lab.order(network, owner, NetworkOrder::Promote(admin)).await;
    let before = revision(lab, network, owner).await;

    for (actor, order) in [
        (member, NetworkOrder::Lock),
        (member, NetworkOrder::Evict(admin)),
        (member, NetworkOrder::Approve(stranger)),
        (admin, NetworkOrder::Evict(owner)),
        (admin, NetworkOrder::Ban(admin)),
        (admin, NetworkOrder::Promote(member)),
        (admin, NetworkOrder::Delete),
        (admin, NetworkOrder::Rename("other".parse().unwrap())),
        (owner, NetworkOrder::Evict(owner)),
        (owner, NetworkOrder::Demote(owner)),
        (owner, NetworkOrder::Transfer(owner)),
    ] {
        let refused = lab.networks().carry_out(network, actor, order.clone(), NOW).await;
        assert!(matches!(refused, Err(OrderError::NotPermitted)), "{order:?}: {refused:?}");
    }
    let refused = lab.networks().carry_out(network, stranger, NetworkOrder::Lock, NOW).await;
    assert!(matches!(refused, Err(OrderError::NotAMember)), "{refused:?}");
    for order in [
        NetworkOrder::Evict(stranger),
        NetworkOrder::Promote(stranger),
        NetworkOrder::Transfer(stranger),
        NetworkOrder::Unban(stranger),
        NetworkOrder::Approve(stranger),
        NetworkOrder::Reject(stranger),
        NetworkOrder::Ban(ClientId::from_bytes([0xee; 16])),
    ] {
        let refused = lab.networks().carry_out(network, owner, order.clone(), NOW).await;
        assert!(matches!(refused, Err(OrderError::MemberUnknown)), "{order:?}: {refused:?}");
    }
    assert!(matches!(lab.networks().admissions(network, member, NOW).await, Err(OrderError::NotPermitted)));
    assert!(matches!(lab.networks().admissions(network, stranger, NOW).await, Err(OrderError::NotAMember)));
    assert_eq!(revision(lab, network, owner).await, before, "what was refused left no trace");
}

async fn an_evicted_member_may_return_and_a_banned_client_may_not(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("door", owner).await;
    lab.join(network, guest).await;

    let Announcement { change, to, .. } = lab.order(network, owner, NetworkOrder::Evict(guest)).await;
    assert_eq!(to, [owner]);
    assert!(change.members.iter().any(|member| member.client == guest && member.gone));
    lab.join(network, guest).await;

    lab.order(network, owner, NetworkOrder::Ban(guest)).await;
    assert!(lab.networks().snapshot(guest, &[]).await.unwrap().networks.is_empty());
    let refused = lab.networks().join(network, guest, [1; 16], NOW).await;
    assert!(matches!(refused, Err(JoinError::Banned)), "{refused:?}");
    let lists = lab.networks().admissions(network, owner, NOW).await.unwrap();
    assert_eq!((lists.bans.len(), lists.bans[0].client, lists.applicants.len()), (1, guest, 0));

    lab.order(network, owner, NetworkOrder::Unban(guest)).await;
    lab.join(network, guest).await;
}

async fn a_role_is_told_and_gone_after_an_eviction(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("roles", owner).await;
    lab.join(network, guest).await;

    let told = lab.order(network, owner, NetworkOrder::Promote(guest)).await;
    assert_eq!(
        told.change.members.iter().map(|one| (one.client, one.role)).collect::<Vec<_>>(),
        [(guest, Role::Admin)]
    );
    let told = lab.order(network, owner, NetworkOrder::Demote(guest)).await;
    assert_eq!(told.change.members[0].role, Role::Member);
    lab.order(network, owner, NetworkOrder::Promote(guest)).await;
    lab.order(network, owner, NetworkOrder::Evict(guest)).await;
    lab.join(network, guest).await;
    assert_eq!(roles(lab, network, owner).await, sorted([(owner, Role::Owner), (guest, Role::Member)]));
}

async fn a_transfer_leaves_one_owner(lab: &Lab) {
    let [owner, heir] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("heirloom", owner).await;
    lab.join(network, heir).await;

    let told = lab.order(network, owner, NetworkOrder::Transfer(heir)).await;

    let expected = sorted([(owner, Role::Admin), (heir, Role::Owner)]);
    assert_eq!(of(&told.change.members), expected);
    assert_eq!(roles(lab, network, owner).await, expected);
    assert_eq!(lab.networks().list(None, 10).await.unwrap()[0].owner, heir);
    let refused = lab.networks().carry_out(network, owner, NetworkOrder::Transfer(owner), NOW).await;
    assert!(matches!(refused, Err(OrderError::NotPermitted)), "{refused:?}");
}

async fn a_departing_owner_hands_over_to_an_admin_first(lab: &Lab) {
    let [owner, older, admin] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("heirs", owner).await;
    lab.join(network, older).await;
    lab.networks().join(network, admin, [1; 16], NOW.plus(std::time::Duration::from_secs(1))).await.unwrap();
    lab.order(network, owner, NetworkOrder::Promote(admin)).await;

    lab.networks().leave(network, owner, NOW).await.unwrap();
    assert_eq!(roles(lab, network, admin).await, sorted([(older, Role::Member), (admin, Role::Owner)]));
}

async fn a_locked_network_takes_nobody(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("shut", owner).await;

    let told = lab.order(network, owner, NetworkOrder::Lock).await;
    assert!(told.change.terms.locked && told.change.members.is_empty());
    let refused = lab.networks().join(network, guest, [1; 16], NOW).await;
    assert!(matches!(refused, Err(JoinError::Locked)), "{refused:?}");
    let snapshot = lab.networks().snapshot(owner, &[]).await.unwrap();
    assert!(snapshot.networks[0].terms.locked);

    assert!(!lab.order(network, owner, NetworkOrder::Unlock).await.change.terms.locked);
    lab.join(network, guest).await;
}

async fn a_renamed_network_keeps_its_password_and_its_first_name(lab: &Lab) {
    let [owner, other] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("before", owner).await;
    lab.network("taken", other).await;

    let refused = lab.networks().carry_out(network, owner, NetworkOrder::Rename("Taken".parse().unwrap()), NOW).await;
    assert!(matches!(refused, Err(OrderError::NameTaken)), "{refused:?}");
    let told = lab.order(network, owner, NetworkOrder::Rename("After".parse().unwrap())).await;
    assert_eq!(told.change.name.as_str(), "After");

    let before = "before".parse().unwrap();
    assert_eq!(lab.password_record(&before).await, None);
    let record = lab.password_record(&"after".parse().unwrap()).await.unwrap();
    assert_eq!((record.network, record.credential), (network, before.key()));
    assert!(!lab.networks().is_free(&before).await.unwrap(), "its password still belongs to that name");
    let refused = lab.networks().create(new_network("before", other), NOW).await;
    assert!(matches!(refused, Err(CreateError::NameTaken)), "{refused:?}");
    lab.order(network, owner, NetworkOrder::Rename("before".parse().unwrap())).await;
    assert!(lab.networks().is_free(&"after".parse().unwrap()).await.unwrap());
}

async fn a_deleted_network_is_gone_once_its_members_were_told(lab: &Lab) {
    let [owner, guest, outlaw] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("doomed", owner).await;
    lab.join(network, guest).await;
    lab.order(network, owner, NetworkOrder::Ban(outlaw)).await;

    let Announcement { change, to, .. } = lab.order(network, owner, NetworkOrder::Delete).await;

    assert!(to.is_empty() && change.members.iter().all(|member| member.gone));
    assert_eq!(change.members.len(), 2);
    assert!(lab.networks().is_free(&"doomed".parse().unwrap()).await.unwrap());
    assert!(lab.networks().list(None, 10).await.unwrap().is_empty());
    assert!(lab.networks().snapshot(guest, &[]).await.unwrap().networks.is_empty());
    let refused = lab.networks().join(network, outlaw, [1; 16], NOW).await;
    assert!(matches!(refused, Err(JoinError::Gone)), "{refused:?}");
    let refused = lab.networks().leave(network, guest, NOW).await;
    assert!(matches!(refused, Err(LeaveError::NotAMember)), "{refused:?}");

    let waiting = lab.networks().unannounced(domain::UnixMillis(u64::MAX), 10).await.unwrap();
    assert_eq!(waiting.len(), 1, "until then the outbox has it");
    // Noted together with what was told of another network.
    let other = lab.network("other", owner).await;
    let told = [(other, Revision(1)), (network, change.revision)];
    lab.networks().announced(&told).await.unwrap();
    assert!(lab.networks().unannounced(domain::UnixMillis(u64::MAX), 10).await.unwrap().is_empty());
    assert_ne!(lab.network("doomed", guest).await, network);
}

async fn an_applicant_is_let_in_or_sent_away(lab: &Lab) {
    let [owner, guest, other] = lab.clients(3).await.try_into().unwrap();
    let network = lab.network("polite", owner).await;
    lab.order(network, owner, NetworkOrder::AskApproval).await;

    for client in [guest, other, guest] {
        let asked = lab.networks().join(network, client, rand::random(), NOW).await.unwrap();
        let Admission::Awaiting { name, announcement } = asked else { panic!("let in: {asked:?}") };
        assert_eq!((name.as_str(), announcement.to), ("polite", vec![owner]));
        assert_eq!(lab.networks().keys(network, client).await.unwrap(), KeyHolder::Applicant);
    }
    assert_eq!(lab.networks().admissions(network, owner, NOW).await.unwrap().applicants.len(), 2);

    let told = lab.order(network, owner, NetworkOrder::Approve(guest)).await;
    assert_eq!((told.change.members[0].client, told.change.terms.applicants), (guest, 1));
    assert!(told.change.members[0].addresses.v4.is_some());
    assert!(matches!(lab.networks().keys(network, guest).await.unwrap(), KeyHolder::Member { .. }));

    lab.order(network, owner, NetworkOrder::Reject(other)).await;
    assert_eq!(lab.networks().keys(network, other).await.unwrap(), KeyHolder::Stranger);
    lab.order(network, owner, NetworkOrder::WaiveApproval).await;
    lab.join(network, other).await;
}

async fn an_approval_obeys_seats_and_bans(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("full soon", owner).await;
    lab.order(network, owner, NetworkOrder::AskApproval).await;
    let guests = lab.clients(6).await;
    for &guest in &guests {
        lab.networks().join(network, guest, rand::random(), NOW).await.unwrap();
    }
    lab.order(network, owner, NetworkOrder::Ban(guests[5])).await;
    let refused = lab.networks().carry_out(network, owner, NetworkOrder::Approve(guests[5]), NOW).await;
    assert!(matches!(refused, Err(OrderError::MemberUnknown)), "{refused:?}");

    let approvals =
        guests[..5].iter().map(|&guest| lab.networks().carry_out(network, owner, NetworkOrder::Approve(guest), NOW));
    let outcomes = join_all(approvals).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 4, "five seats, one is the owner's");
    let refused = outcomes.into_iter().find_map(Result::err);
    assert!(matches!(refused, Some(OrderError::Full { seats: 5 })), "{refused:?}");
}

async fn lists_have_their_limits(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("crowd", owner).await;
    lab.order(network, owner, NetworkOrder::AskApproval).await;
    let crowd = lab.clients(MAX_BANS as usize + 1).await;

    for (nth, &client) in crowd.iter().take(MAX_APPLICANTS as usize + 1).enumerate() {
        let asked = lab.networks().join(network, client, rand::random(), NOW).await;
        let fits = nth < MAX_APPLICANTS as usize;
        assert_eq!(asked.is_ok(), fits, "{nth}");
        assert!(fits || matches!(asked, Err(JoinError::TooManyApplicants)));
    }
    for (nth, &client) in crowd.iter().enumerate() {
        let banned = lab.networks().carry_out(network, owner, NetworkOrder::Ban(client), NOW).await;
        let fits = nth < MAX_BANS as usize;
        assert_eq!(banned.is_ok(), fits, "{nth}");
        assert!(fits || matches!(banned, Err(OrderError::LimitReached { limit: MAX_BANS })));
    }
    let lists = lab.networks().admissions(network, owner, NOW).await.unwrap();
    assert_eq!((lists.applicants.len(), lists.bans.len()), (0, MAX_BANS as usize));
}

async fn an_approval_and_an_eviction_at_once_end_in_one_of_two_ways(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("race", owner).await;
    lab.order(network, owner, NetworkOrder::AskApproval).await;
    for _ in 0..12 {
        lab.networks().join(network, guest, rand::random(), NOW).await.unwrap();
        let (approved, evicted) = tokio::join!(
            lab.networks().carry_out(network, owner, NetworkOrder::Approve(guest), NOW),
            lab.networks().carry_out(network, owner, NetworkOrder::Evict(guest), NOW),
        );
        approved.unwrap();
        let inside = roles(lab, network, owner).await.len() == 2;
        match evicted {
            Ok(_) => assert!(!inside),
            Err(OrderError::MemberUnknown) => {
                assert!(inside);
                lab.order(network, owner, NetworkOrder::Evict(guest)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn a_transfer_and_a_deletion_at_once_leave_no_orphan(lab: &Lab) {
    for turn in 0..12 {
        let [owner, heir] = lab.clients(2).await.try_into().unwrap();
        let network = lab.network(&format!("race {turn}"), owner).await;
        lab.join(network, heir).await;
        let (transferred, deleted) = tokio::join!(
            lab.networks().carry_out(network, owner, NetworkOrder::Transfer(heir), NOW),
            lab.networks().carry_out(network, owner, NetworkOrder::Delete, NOW),
        );
        match (transferred, deleted) {
            (Ok(_), Err(OrderError::NotPermitted)) => {
                assert_eq!(roles(lab, network, heir).await, sorted([(owner, Role::Admin), (heir, Role::Owner)]));
            }
            (Err(OrderError::NotAMember), Ok(_)) => {
                assert!(lab.networks().snapshot(heir, &[]).await.unwrap().networks.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn revision(lab: &Lab, network: NetworkId, client: ClientId) -> Revision {
    lab.networks().changes_since(network, client, Revision::ZERO).await.unwrap().unwrap().revision
}

/// Everybody's role as `client` is told, by id.
async fn roles(lab: &Lab, network: NetworkId, client: ClientId) -> Vec<(ClientId, Role)> {
    let change = lab.networks().changes_since(network, client, Revision::ZERO).await.unwrap().unwrap();
    of(&change.members)
}

fn of(members: &[Member]) -> Vec<(ClientId, Role)> {
    sorted(members.iter().map(|member| (member.client, member.role)))
}

fn sorted(roles: impl IntoIterator<Item = (ClientId, Role)>) -> Vec<(ClientId, Role)> {
    let mut roles: Vec<_> = roles.into_iter().collect();
    roles.sort_unstable();
    roles
}
