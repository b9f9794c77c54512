//! How people come to be, prove themselves and log in.

use std::time::Duration;

use domain::{EmailAddress, PersonId};
use futures_util::future::join_all;
use store::{MAX_SESSIONS, MailKind, PasswordHash, ProviderError, Sessions, Vouched};

use crate::lab::{HOUR, Lab, NOW, fresh, session};

crate::conformance! {
    an_address_is_proved_once_by_one_of_many_who_try,
    a_sign_up_with_a_known_address_only_mails,
    whoever_proves_the_address_takes_it_from_all_others,
    a_token_is_worth_nothing_after_its_time_or_for_another_purpose,
    a_reset_ends_every_session_and_is_used_once,
    another_password_keeps_one_session,
    sessions_end_and_are_bounded,
    each_mail_is_taken_by_one_at_a_time,
    a_provider_makes_connects_and_never_takes_over,
    what_is_over_is_pruned,
}

async fn an_address_is_proved_once_by_one_of_many_who_try(lab: &Lab) {
    let fresh = fresh();
    lab.people().ask_sign_up(anna(), hash("one"), fresh, NOW).await.unwrap();
    assert_eq!(lab.people().sign_up_password(fresh.token, NOW).await.unwrap(), Some(hash("one")));
    assert_eq!(lab.people().credentials(&anna()).await.unwrap(), None, "nobody is there before the proof");

    let tries = join_all((0..8).map(|_| lab.people().confirm_sign_up(fresh.token, session(), NOW))).await;
    let made: Vec<PersonId> = tries.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(made.len(), 1);
    let known = lab.people().credentials(&anna()).await.unwrap().unwrap();
    assert_eq!((known.person, known.password), (made[0], Some(hash("one"))));
}

async fn a_sign_up_with_a_known_address_only_mails(lab: &Lab) {
    let (person, _) = lab.person("anna@example.test").await;
    drain(lab).await;
    let again = fresh();
    lab.people().ask_sign_up(anna(), hash("mine now"), again, NOW).await.unwrap();
    assert_eq!(lab.people().sign_up_password(again.token, NOW).await.unwrap(), None);
    assert_eq!(lab.people().confirm_sign_up(again.token, session(), NOW).await.unwrap(), None);
    assert_eq!(drain(lab).await, [MailKind::Known]);
    assert_eq!(lab.people().credentials(&anna()).await.unwrap().unwrap().person, person);
}

async fn whoever_proves_the_address_takes_it_from_all_others(lab: &Lab) {
    let [mallory, owner] = [fresh(), fresh()];
    lab.people().ask_sign_up(anna(), hash("mallory's"), mallory, NOW).await.unwrap();
    lab.people().ask_sign_up(anna(), hash("anna's"), owner, NOW).await.unwrap();
    lab.people().confirm_sign_up(owner.token, session(), NOW).await.unwrap().unwrap();
    assert_eq!(lab.people().confirm_sign_up(mallory.token, session(), NOW).await.unwrap(), None);
    assert_eq!(lab.people().credentials(&anna()).await.unwrap().unwrap().password, Some(hash("anna's")));
}

async fn a_token_is_worth_nothing_after_its_time_or_for_another_purpose(lab: &Lab) {
    let fresh = fresh();
    lab.people().ask_sign_up(anna(), hash("one"), fresh, NOW).await.unwrap();
    assert!(!lab.people().reset(fresh.token, hash("two"), NOW).await.unwrap());
    let client = lab.client().await;
    assert!(lab.people().attach(client, fresh.token, NOW).await.is_err());
    let (person, _) = lab.person("bert@example.test").await;
    assert!(lab.people().accept(person, fresh.token, NOW).await.is_err());
    let late = NOW.plus(HOUR);
    assert_eq!(lab.people().sign_up_password(fresh.token, late).await.unwrap(), None);
    assert_eq!(lab.people().confirm_sign_up(fresh.token, session(), late).await.unwrap(), None);
    let just = domain::UnixMillis(late.0 - 1);
    assert!(lab.people().confirm_sign_up(fresh.token, session(), just).await.unwrap().is_some());
}

async fn a_reset_ends_every_session_and_is_used_once(lab: &Lab) {
    let (person, _) = lab.person("anna@example.test").await;
    let open = session();
    lab.people().open_session(person, open, NOW).await.unwrap();
    drain(lab).await;
    lab.people().ask_reset("nobody@example.test".parse().unwrap(), fresh(), NOW).await.unwrap();
    assert!(drain(lab).await.is_empty(), "nobody is mailed");

    let [first, second] = [fresh(), fresh()];
    lab.people().ask_reset(anna(), first, NOW).await.unwrap();
    lab.people().ask_reset(anna(), second, NOW).await.unwrap();
    let used = join_all((0..4).map(|_| lab.people().reset(first.token, hash("new"), NOW))).await;
    assert_eq!(used.into_iter().filter(|used| *used.as_ref().unwrap()).count(), 1);
    assert!(!lab.people().reset(second.token, hash("newer"), NOW).await.unwrap(), "a reset voids the others");
    assert_eq!(lab.people().person(open.token, NOW).await.unwrap(), None);
    assert_eq!(lab.people().credentials(&anna()).await.unwrap().unwrap().password, Some(hash("new")));
    assert_eq!(drain(lab).await, [MailKind::Reset, MailKind::Reset, MailKind::Changed]);
}

async fn another_password_keeps_one_session(lab: &Lab) {
    let (person, _) = lab.person("anna@example.test").await;
    let [kept, other] = [session(), session()];
    lab.people().open_session(person, kept, NOW).await.unwrap();
    lab.people().open_session(person, other, NOW).await.unwrap();
    lab.people().set_password(person, hash("new"), kept.token).await.unwrap();
    assert_eq!(lab.people().person(kept.token, NOW).await.unwrap().unwrap().person, person);
    assert_eq!(lab.people().person(other.token, NOW).await.unwrap(), None);
}

async fn sessions_end_and_are_bounded(lab: &Lab) {
    let (person, _) = lab.person("anna@example.test").await;
    let first = session();
    lab.people().open_session(person, first, NOW).await.unwrap();
    assert!(lab.people().person(first.token, NOW.plus(HOUR)).await.unwrap().is_none(), "it is over");
    assert_eq!(lab.people().end_sessions(Sessions::One(first.token)).await.unwrap(), 1);
    assert!(lab.people().person(first.token, NOW).await.unwrap().is_none());

    for later in 0..40 {
        lab.people().open_session(person, session(), NOW.plus(Duration::from_millis(later))).await.unwrap();
    }
    assert_eq!(lab.people().end_sessions(Sessions::AllOf(person)).await.unwrap(), MAX_SESSIONS.unsigned_abs());
}

async fn each_mail_is_taken_by_one_at_a_time(lab: &Lab) {
    lab.people().ask_sign_up(anna(), hash("one"), fresh(), NOW).await.unwrap();
    let lease = Duration::from_secs(60);
    let taken = join_all((0..6).map(|_| lab.people().take_mail(lease, NOW))).await;
    let taken: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].kind, &taken[0].recipient, taken[0].tries), (MailKind::SignUp, &anna(), 1));

    let again = lab.people().take_mail(lease, NOW.plus(lease)).await.unwrap().unwrap();
    assert_eq!((again.id, again.nonce, again.tries), (taken[0].id, taken[0].nonce, 2));
    lab.people().postpone_mail(again.id, NOW.plus(HOUR)).await.unwrap();
    assert_eq!(lab.people().take_mail(lease, NOW.plus(2 * lease)).await.unwrap(), None);
    lab.people().forget_mail(again.id).await.unwrap();
    assert_eq!(lab.people().take_mail(lease, NOW.plus(2 * HOUR)).await.unwrap(), None);
}

async fn a_provider_makes_connects_and_never_takes_over(lab: &Lab) {
    let vouched = |subject: &str, email: &str| Vouched {
        issuer: "https://id.example".into(),
        subject: subject.into(),
        email: email.parse().unwrap(),
    };
    let (anna, _) = lab.person("anna@example.test").await;
    let begin = async |person| {
        let flow = fresh().token;
        lab.people().start_provider(flow, person, NOW.plus(HOUR)).await.unwrap();
        flow
    };
    let finish = async |flow, who| lab.people().finish_provider(flow, who, session(), NOW).await;

    let stranger = finish(fresh().token, vouched("1", "bert@example.test")).await;
    assert!(matches!(stranger, Err(ProviderError::Flow)), "{stranger:?}");
    let bert = finish(begin(None).await, vouched("1", "bert@example.test")).await.unwrap();
    let again = begin(None).await;
    assert_eq!(finish(again, vouched("1", "another@example.test")).await.unwrap(), bert, "known by the subject");
    assert!(matches!(finish(again, vouched("1", "bert@example.test")).await, Err(ProviderError::Flow)), "used once");

    let taken_over = finish(begin(None).await, vouched("2", "anna@example.test")).await;
    assert!(matches!(taken_over, Err(ProviderError::Connect)), "{taken_over:?}");
    assert_eq!(finish(begin(Some(anna)).await, vouched("2", "anna@example.test")).await.unwrap(), anna);
    assert_eq!(finish(begin(None).await, vouched("2", "anna@example.test")).await.unwrap(), anna);
    let double = finish(begin(Some(anna)).await, vouched("1", "bert@example.test")).await;
    assert!(matches!(double, Err(ProviderError::Taken)), "{double:?}");
}

async fn what_is_over_is_pruned(lab: &Lab) {
    let (person, _) = lab.person("anna@example.test").await;
    lab.people().open_session(person, session(), NOW).await.unwrap();
    lab.people().ask_reset(anna(), fresh(), NOW).await.unwrap();
    assert_eq!(lab.people().prune_people(NOW).await.unwrap(), 0);
    assert_eq!(lab.people().prune_people(NOW.plus(HOUR)).await.unwrap(), 3);
}

fn anna() -> EmailAddress {
    "anna@example.test".parse().unwrap()
}

fn hash(text: &str) -> PasswordHash {
    PasswordHash(text.to_owned())
}

/// Takes every mail that is due.
async fn drain(lab: &Lab) -> Vec<MailKind> {
    let mut kinds = Vec::new();
    while let Some(mail) = lab.people().take_mail(HOUR, NOW).await.unwrap() {
        lab.people().forget_mail(mail.id).await.unwrap();
        kinds.push(mail.kind);
    }
    kinds.sort_by_key(|kind| *kind as i64);
    kinds
}
