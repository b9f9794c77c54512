//! How often one may guess.

use std::time::Duration;

use futures_util::future::join_all;
use store::{Admission, Budget, BudgetKind, Guess, JoinError};

use crate::lab::{Lab, NOW};

crate::conformance! {
    a_budget_is_exact_under_concurrency,
    one_empty_budget_spends_nothing_of_the_others,
    a_success_gives_the_attempt_back,
    successes_at_once_give_back_every_attempt,
    an_admission_gives_its_attempt_back_once,
    a_window_ends,
    without_an_attempt_nothing_is_told_of_a_password,
}

const WINDOW: Duration = Duration::from_secs(3600);

async fn a_budget_is_exact_under_concurrency(lab: &Lab) {
    let budget = budget(BudgetKind::Client, 10);
    let guesses = join_all((0..40).map(|_| lab.networks().guess(std::slice::from_ref(&budget), NOW))).await;
    let allowed = guesses.into_iter().filter(|guess| matches!(guess, Ok(Guess::Allowed))).count();
    assert_eq!(allowed, 10);
}

async fn one_empty_budget_spends_nothing_of_the_others(lab: &Lab) {
    let (roomy, empty) = (budget(BudgetKind::Network, 2), budget(BudgetKind::Source, 0));
    for _ in 0..5 {
        let guess = lab.networks().guess(&[empty, roomy], NOW).await.unwrap();
        assert!(matches!(guess, Guess::Exhausted { .. }));
    }
    assert_eq!(lab.networks().guess(&[roomy], NOW).await.unwrap(), Guess::Allowed);
    assert_eq!(lab.networks().guess(&[roomy], NOW).await.unwrap(), Guess::Allowed);
    assert_eq!(lab.networks().guess(&[roomy], NOW).await.unwrap(), Guess::Exhausted { retry_after: WINDOW });
}

async fn a_success_gives_the_attempt_back(lab: &Lab) {
    let budget = budget(BudgetKind::Client, 1);
    for _ in 0..3 {
        assert_eq!(lab.networks().guess(&[budget], NOW).await.unwrap(), Guess::Allowed);
        lab.networks().forgive(&[budget], NOW).await.unwrap();
    }
    lab.networks().forgive(&[budget], NOW).await.unwrap();
    assert_eq!(lab.networks().guess(&[budget], NOW).await.unwrap(), Guess::Allowed);
    assert!(matches!(lab.networks().guess(&[budget], NOW).await.unwrap(), Guess::Exhausted { .. }), "not below zero");
}

async fn successes_at_once_give_back_every_attempt(lab: &Lab) {
    let kinds = [BudgetKind::Network, BudgetKind::Client, BudgetKind::Source, BudgetKind::Neighbours];
    let budgets = kinds.map(|kind| budget(kind, 40));
    let successes = (0..40).map(|_| async {
        assert_eq!(lab.networks().guess(&budgets, NOW).await.unwrap(), Guess::Allowed);
        lab.networks().forgive(&budgets, NOW).await.unwrap();
    });
    join_all(successes).await;
    for spent in 0..=40 {
        let guess = lab.networks().guess(&budgets, NOW).await.unwrap();
        assert_eq!(guess == Guess::Allowed, spent < 40, "{spent}");
    }
}

async fn an_admission_gives_its_attempt_back_once(lab: &Lab) {
    let [owner, guest] = lab.clients(2).await.try_into().unwrap();
    let network = lab.network("club", owner).await;
    let budgets = [budget(BudgetKind::Network, 3), budget(BudgetKind::Source, 3)];
    for _ in 0..3 {
        assert_eq!(lab.networks().guess(&budgets, NOW).await.unwrap(), Guess::Allowed);
    }
    let join = async |request| lab.networks().join_by_password(network, guest, request, &budgets, NOW, NOW).await;
    assert!(matches!(join([1; 16]).await.unwrap(), Admission::Joined(_)));
    assert!(matches!(join([1; 16]).await.unwrap(), Admission::Joined(_)), "the answer again, and nothing else");
    assert!(matches!(join([2; 16]).await, Err(JoinError::AlreadyMember)), "the caller gives that one back");
    assert_eq!(lab.networks().guess(&budgets, NOW).await.unwrap(), Guess::Allowed);
    assert!(matches!(lab.networks().guess(&budgets, NOW).await.unwrap(), Guess::Exhausted { .. }));
}

async fn a_window_ends(lab: &Lab) {
    let budget = budget(BudgetKind::Client, 1);
    lab.networks().guess(&[budget], NOW).await.unwrap();
    let half = NOW.plus(WINDOW / 2);
    assert_eq!(lab.networks().guess(&[budget], half).await.unwrap(), Guess::Exhausted { retry_after: WINDOW / 2 });
    assert_eq!(lab.networks().prune_budgets(half).await.unwrap(), 0);

    let over = NOW.plus(WINDOW);
    assert_eq!(lab.networks().guess(&[budget], over).await.unwrap(), Guess::Allowed);
    lab.networks().forgive(&[budget], NOW).await.unwrap();
    assert!(
        matches!(lab.networks().guess(&[budget], over).await.unwrap(), Guess::Exhausted { .. }),
        "an older window's"
    );
    assert_eq!(lab.networks().prune_budgets(over.plus(WINDOW)).await.unwrap(), 1);
}

fn budget(kind: BudgetKind, limit: u32) -> Budget {
    Budget { kind, key: [5; 16], limit, window: WINDOW }
}

async fn without_an_attempt_nothing_is_told_of_a_password(lab: &Lab) {
    let owner = lab.client().await;
    let network = lab.network("guarded", owner).await;
    let (name, budget) = ("guarded".parse().unwrap(), budget(BudgetKind::Client, 1));
    let ask = || lab.networks().guess_password(&name, std::slice::from_ref(&budget), NOW);
    let (guess, record) = ask().await.unwrap();
    assert_eq!((guess, record.map(|record| record.network)), (Guess::Allowed, Some(network)));
    assert_eq!(ask().await.unwrap(), (Guess::Exhausted { retry_after: WINDOW }, None));
}
