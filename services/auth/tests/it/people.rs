//! People sign up, prove their address, log in, and rule their accounts.

use std::time::Duration;

use auth::{
    Config, Limits, PeopleConfig,
    metrics::{PersonOutcome, Post},
};
use bus::CallError;
use contract::account::{
    Accept, AccountOfClient, AccountRefusal, AccountSearch, AskReset, AssignAccountPlan, AttachClient, ChangePassword,
    DetachClient, DetachFromAccount, EraseAccount, ExportAccount, ListAccounts, LogOut, Offered, OfferedProvider,
    OperatorErase, OperatorExport, OperatorView, OrderForAccount, OrderedForAccount, PersonLogIn, PersonLoggedIn,
    Reset, SignUp, SuspendAccount, TransferAccount, Verify, ViewAccount, Where, WhoAmI,
};
use domain::{AccountOrder, AttachCode, EmailAddress, OneTimeToken, Passphrase, Role, SessionToken, SourcePrefix};
use futures_util::future::join_all;

use crate::{Lab, mailing::in_folder};

const PASSWORD: &str = "correct horse";

#[tokio::test]
async fn a_person_signs_up_proves_the_address_and_logs_in() {
    let lab = Lab::new(Config::default()).await;
    lab.ask("anna@example.test", PASSWORD).await;
    let denied = lab.person_in("anna@example.test", PASSWORD).await;
    assert_eq!(refusal(denied), AccountRefusal::Denied, "nobody is there before the proof");

    let token = lab.token("anna@example.test", "Confirm").await;
    let wrong = Verify { token, password: pass("battery staple"), source: source(1) };
    assert_eq!(refusal(lab.bus.call(&wrong).await), AccountRefusal::Denied, "who has the mail only");
    let session = lab.verify(token).await.unwrap().session;
    assert_eq!(refusal(lab.verify(token).await), AccountRefusal::Token, "used once");
    let me = lab.bus.call(&WhoAmI { session }).await.unwrap();
    assert_eq!((me.email.as_str(), me.accounts.len(), me.accounts[0].role), ("anna@example.test", 1, Role::Owner));

    lab.person_in("Anna@Example.TEST", PASSWORD).await.unwrap();
    assert_eq!(refusal(lab.person_in("anna@example.test", "battery staple").await), AccountRefusal::Denied);
    assert_eq!(refusal(lab.person_in("nobody@example.test", PASSWORD).await), AccountRefusal::Denied);
    assert_eq!(lab.metrics.people(PersonOutcome::SignedUp), 1);
    assert_eq!(lab.metrics.people(PersonOutcome::LoggedIn), 1);
    assert_eq!(lab.metrics.people(PersonOutcome::Denied), 3);
    assert_eq!(lab.metrics.mails(Post::Sent), 1);
    assert!(lab.metrics.hashes.get() >= 6, "unknown addresses cost a hash, too");
    lab.end().await;
}

#[tokio::test]
async fn a_known_address_is_answered_like_a_new_one_and_told_by_mail() {
    let lab = Lab::new(Config::default()).await;
    lab.person("anna@example.test").await;
    lab.ask("anna@example.test", "another one").await;
    lab.mail("anna@example.test", "already have").await;
    assert_eq!(refusal(lab.person_in("anna@example.test", "another one").await), AccountRefusal::Denied);
    lab.bus.call(&AskReset { email: email("nobody@example.test"), source: source(1) }).await.unwrap();
    lab.end().await;
}

#[tokio::test]
async fn passwords_are_changed_and_reset_and_sessions_end() {
    let lab = Lab::new(Config::default()).await;
    let here = lab.person("anna@example.test").await;
    let there = lab.person_in("anna@example.test", PASSWORD).await.unwrap().session;
    let change =
        |old: &str, new: &str| ChangePassword { session: here, old: pass(old), new: pass(new), source: source(1) };
    assert_eq!(refusal(lab.bus.call(&change("battery staple", "whatever it is")).await), AccountRefusal::Denied);
    lab.bus.call(&change(PASSWORD, "battery staple")).await.unwrap();
    lab.bus.call(&WhoAmI { session: here }).await.unwrap();
    assert_eq!(refusal(lab.bus.call(&WhoAmI { session: there }).await), AccountRefusal::NotLoggedIn);

    lab.bus.call(&AskReset { email: email("anna@example.test"), source: source(1) }).await.unwrap();
    let token = lab.token("anna@example.test", "Set another").await;
    let reset = Reset { token, password: pass("once and for all"), source: source(1) };
    lab.bus.call(&reset).await.unwrap();
    assert_eq!(refusal(lab.bus.call(&reset).await), AccountRefusal::Token);
    assert_eq!(refusal(lab.bus.call(&WhoAmI { session: here }).await), AccountRefusal::NotLoggedIn);
    lab.mail("anna@example.test", "was changed").await;

    let sessions = [
        lab.person_in("anna@example.test", "once and for all").await.unwrap().session,
        lab.person_in("anna@example.test", "once and for all").await.unwrap().session,
    ];
    lab.bus.call(&LogOut { session: sessions[0], whence: Where::Here }).await.unwrap();
    lab.bus.call(&WhoAmI { session: sessions[1] }).await.unwrap();
    let third = lab.person_in("anna@example.test", "once and for all").await.unwrap().session;
    lab.bus.call(&LogOut { session: third, whence: Where::Everywhere }).await.unwrap();
    for session in sessions.into_iter().chain([third]) {
        assert_eq!(refusal(lab.bus.call(&WhoAmI { session }).await), AccountRefusal::NotLoggedIn);
    }
    lab.end().await;
}

#[tokio::test]
async fn guesses_are_limited_by_address_and_by_source_and_successes_cost_nothing() {
    let limits = Limits { passwords_per_address: 3, passwords_per_source: 5, ..Limits::default() };
    let people = PeopleConfig { limits, ..PeopleConfig::default() };
    let lab = Lab::new(Config { people, ..Config::default() }).await;
    lab.person("anna@example.test").await;
    for _ in 0..6 {
        lab.person_in("anna@example.test", PASSWORD).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(refusal(lab.person_in("anna@example.test", "battery staple").await), AccountRefusal::Denied);
    }
    let limited = refusal(lab.person_in("anna@example.test", PASSWORD).await);
    assert!(matches!(limited, AccountRefusal::Limited { retry_after_ms } if retry_after_ms > 0), "{limited:?}");
    for _ in 0..2 {
        assert_eq!(refusal(lab.person_in("bert@example.test", PASSWORD).await), AccountRefusal::Denied);
    }
    assert!(matches!(refusal(lab.person_in("carl@example.test", PASSWORD).await), AccountRefusal::Limited { .. }));
    let elsewhere = PersonLogIn { email: email("carl@example.test"), password: pass(PASSWORD), source: source(2) };
    assert_eq!(refusal(lab.bus.call(&elsewhere).await), AccountRefusal::Denied);
    assert_eq!(lab.metrics.people(PersonOutcome::Limited), 2);
    lab.end().await;
}

#[tokio::test]
async fn mail_to_one_address_is_limited() {
    let limits = Limits { mails_per_address: 2, ..Limits::default() };
    let people = PeopleConfig { limits, ..PeopleConfig::default() };
    let lab = Lab::new(Config { people, ..Config::default() }).await;
    for _ in 0..2 {
        lab.ask("anna@example.test", PASSWORD).await;
    }
    let ask = SignUp { email: email("anna@example.test"), password: pass(PASSWORD), source: source(1) };
    assert!(matches!(refusal(lab.bus.call(&ask).await), AccountRefusal::Limited { .. }));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_log_in_while_more_passwords_come_than_can_be_hashed() {
    let people = PeopleConfig { hashing_threads: 1, hashing_queue: 2, ..PeopleConfig::default() };
    // Twenty new clients from one address would be asked for work.
    let free_per_address = const { std::num::NonZeroU32::new(20).unwrap() };
    let ladder = auth::LadderConfig { free_per_address, ..auth::LadderConfig::default() };
    let lab = Lab::new(Config { people, ladder, ..Config::default() }).await;
    let flood = join_all((0..60u8).map(|number| {
        let email = email(&format!("guest{number}@example.test"));
        let bus = &lab.bus;
        async move { bus.call(&SignUp { email, password: pass(PASSWORD), source: source(number) }).await }
    }));
    let clients = join_all((1..=20).map(|seed| lab.login(seed)));
    let (flood, clients) = tokio::join!(flood, clients);
    assert!(clients.into_iter().all(|login| login.is_ok()));
    let refused: Vec<_> = flood.into_iter().filter_map(|one| one.err()).collect();
    assert!(!refused.is_empty(), "the queue was never full");
    for refused in refused {
        let busy = matches!(
            refused,
            CallError::Refused(AccountRefusal::Busy { retry_after_ms }) if retry_after_ms >= 1_000
        );
        assert!(busy, "{refused:?}");
    }
    assert!(lab.metrics.hashes_refused.get() > 0);
    assert_eq!(lab.metrics.people(PersonOutcome::Failed), 0);
    lab.end().await;
}

#[tokio::test]
async fn people_share_an_account() {
    let lab = Lab::new(Config::default()).await;
    let anna = lab.person("anna@example.test").await;
    let bert = lab.person("bert@example.test").await;
    let invite = AccountOrder::Invite { email: email("bert@example.test"), role: Role::Admin };
    lab.order(anna, invite).await.unwrap();
    let token = lab.token("bert@example.test", "You are invited").await;
    assert_eq!(refusal(lab.bus.call(&Accept { session: anna, token }).await), AccountRefusal::Token);
    let account = lab.bus.call(&Accept { session: bert, token }).await.unwrap();

    let view = lab.bus.call(&ViewAccount { session: bert, account: Some(account) }).await.unwrap();
    assert_eq!(view.people.len(), 2);
    let order =
        OrderForAccount { session: bert, account: Some(account), order: AccountOrder::Remove(view.people[0].person) };
    assert_eq!(refusal(lab.bus.call(&order).await), AccountRefusal::NotPermitted, "not the owner");
    let foreign = ViewAccount { session: anna, account: Some(lab.first(bert).await) };
    assert_eq!(refusal(lab.bus.call(&foreign).await), AccountRefusal::Unknown);
    lab.end().await;
}

#[tokio::test]
async fn a_client_shows_a_code_to_become_part_of_an_account() {
    let limits = Limits { codes_per_client: 4, ..Limits::default() };
    let people = PeopleConfig { limits, ..PeopleConfig::default() };
    let lab = Lab::new(Config { people, ..Config::default() }).await;
    let anna = lab.person("anna@example.test").await;
    let client = lab.login(1).await.unwrap().client;
    let ordered = lab.order(anna, AccountOrder::MakeCode).await.unwrap();
    let code = AttachCode::read(&ordered.code.unwrap().reveal().to_lowercase()).unwrap();
    let attached = lab.bus.call(&AttachClient { client, code }).await.unwrap();
    assert_eq!(attached.account, lab.first(anna).await);
    assert_eq!(lab.bus.call(&AccountOfClient { client }).await.unwrap().account, Some(attached));
    assert_eq!(lab.metrics.attached.get(), 1);

    lab.bus.call(&DetachClient { client }).await.unwrap();
    assert_eq!(refusal(lab.bus.call(&DetachClient { client }).await), AccountRefusal::Unknown);
    assert_eq!(lab.bus.call(&AccountOfClient { client }).await.unwrap().account, None);
    for bits in 0..4 {
        let guess = AttachClient { client, code: AttachCode::from_random(bits) };
        assert_eq!(refusal(lab.bus.call(&guess).await), AccountRefusal::Code);
    }
    let guess = AttachClient { client, code: AttachCode::from_random(5) };
    assert!(matches!(refusal(lab.bus.call(&guess).await), AccountRefusal::Limited { .. }));
    lab.end().await;
}

#[tokio::test]
async fn an_account_is_exported_and_erased_by_its_owner_with_the_password() {
    let lab = Lab::new(Config::default()).await;
    let anna = lab.person("anna@example.test").await;
    let export = lab.bus.call(&ExportAccount { session: anna, account: None }).await.unwrap();
    assert_eq!(export.account.people[0].email, email("anna@example.test"));

    let erase = |password: Option<&str>| EraseAccount {
        session: anna,
        account: None,
        password: password.map(pass),
        source: source(1),
    };
    for wrong in [None, Some("battery staple")] {
        assert_eq!(refusal(lab.bus.call(&erase(wrong)).await), AccountRefusal::Denied);
    }
    lab.bus.call(&erase(Some(PASSWORD))).await.unwrap();
    assert_eq!(refusal(lab.bus.call(&WhoAmI { session: anna }).await), AccountRefusal::NotLoggedIn);
    assert_eq!(refusal(lab.person_in("anna@example.test", PASSWORD).await), AccountRefusal::Denied);
    lab.end().await;
}

#[tokio::test]
async fn operators_see_accounts_give_plans_and_suspend() {
    let lab = Lab::new(Config::default()).await;
    let anna = lab.person("anna@example.test").await;
    let account = lab.first(anna).await;
    let list = lab.bus.call(&ListAccounts { after: None, limit: 10, search: None }).await.unwrap().accounts;
    assert_eq!((list.len(), list[0].account, list[0].owner.clone()), (1, account, Some(email("anna@example.test"))));
    lab.bus.call(&AssignAccountPlan { account, plan: "standard".into() }).await.unwrap();
    assert_eq!(lab.bus.call(&OperatorView { account }).await.unwrap().plan, "standard");
    let gold = AssignAccountPlan { account, plan: "gold".into() };
    assert_eq!(refusal(lab.bus.call(&gold).await), AccountRefusal::Plan);
    lab.bus.call(&SuspendAccount { account, suspended: true }).await.unwrap();
    assert_eq!(refusal(lab.order(anna, AccountOrder::MakeCode).await), AccountRefusal::Suspended);
    lab.bus.call(&SuspendAccount { account, suspended: false }).await.unwrap();
    lab.order(anna, AccountOrder::MakeCode).await.unwrap();
    assert_eq!(lab.bus.call(&OperatorExport { account }).await.unwrap().account.account, account);
    lab.bus.call(&OperatorErase { account }).await.unwrap();
    assert_eq!(refusal(lab.bus.call(&OperatorView { account }).await), AccountRefusal::Unknown);
    lab.end().await;
}

#[tokio::test]
async fn operators_find_an_account_hand_it_over_and_detach_its_clients() {
    let lab = Lab::new(Config::default()).await;
    let anna = lab.person("anna@example.test").await;
    let bert = lab.person("bert@example.test").await;
    let account = lab.first(anna).await;
    let order = AccountOrder::Invite { email: email("bert@example.test"), role: Role::Member };
    lab.order(anna, order).await.unwrap();
    let token = lab.token("bert@example.test", "invited").await;
    lab.bus.call(&Accept { session: bert, token }).await.unwrap();
    let search = Some(AccountSearch::Email(email("bert@example.test")));
    let found = lab.bus.call(&ListAccounts { after: None, limit: 10, search }).await.unwrap().accounts;
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|one| one.account == account));

    let heir = lab.bus.call(&WhoAmI { session: bert }).await.unwrap().person;
    lab.bus.call(&TransferAccount { account, heir }).await.unwrap();
    let view = lab.bus.call(&OperatorView { account }).await.unwrap();
    let owner = view.people.iter().find(|one| one.role == Role::Owner).unwrap();
    assert_eq!(owner.person, heir);
    let mine = lab.bus.call(&WhoAmI { session: anna }).await.unwrap().accounts;
    assert_eq!((mine[0].role, mine[0].owner.clone()), (Role::Admin, Some(email("bert@example.test"))));

    let client = lab.login(1).await.unwrap().client;
    let detach = DetachFromAccount { account, client };
    assert_eq!(refusal(lab.bus.call(&detach).await), AccountRefusal::Unknown);
    let code = lab.order(anna, AccountOrder::MakeCode).await.unwrap().code.unwrap();
    lab.bus.call(&AttachClient { client, code }).await.unwrap();
    lab.bus.call(&detach).await.unwrap();
    assert_eq!(lab.bus.call(&AccountOfClient { client }).await.unwrap().account, None);
    assert_eq!(lab.bus.call(&OfferedProvider).await.unwrap(), Offered { issuer: None });
    lab.end().await;
}

#[tokio::test]
async fn mail_that_cannot_be_sent_waits() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let mailer = format!("file://{}/file", folder.path().display());
    let people = PeopleConfig { mailer, ..PeopleConfig::default() };
    let lab = Lab::new(Config { people, ..Config::default() }).await;
    lab.ask("anna@example.test", PASSWORD).await;
    while lab.metrics.mails(Post::Postponed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((lab.metrics.mails(Post::Sent), lab.metrics.mails(Post::GivenUp)), (0, 0));
    lab.end().await;
}

impl Lab {
    async fn ask(&self, address: &str, password: &str) {
        let call = SignUp { email: email(address), password: pass(password), source: source(1) };
        self.bus.call(&call).await.unwrap();
    }

    async fn verify(&self, token: OneTimeToken) -> Result<PersonLoggedIn, CallError<AccountRefusal>> {
        self.bus.call(&Verify { token, password: pass(PASSWORD), source: source(1) }).await
    }

    /// Somebody who proved this address, logged in.
    pub(crate) async fn person(&self, address: &str) -> SessionToken {
        self.ask(address, PASSWORD).await;
        let token = self.token(address, "Confirm").await;
        self.verify(token).await.unwrap().session
    }

    async fn person_in(&self, address: &str, password: &str) -> Result<PersonLoggedIn, CallError<AccountRefusal>> {
        self.bus.call(&PersonLogIn { email: email(address), password: pass(password), source: source(1) }).await
    }

    async fn order(
        &self,
        session: SessionToken,
        order: AccountOrder,
    ) -> Result<OrderedForAccount, CallError<AccountRefusal>> {
        self.bus.call(&OrderForAccount { session, account: None, order }).await
    }

    async fn first(&self, session: SessionToken) -> domain::AccountId {
        self.bus.call(&WhoAmI { session }).await.unwrap().accounts[0].account
    }

    /// Waits for the mail to `address` with this in its subject.
    async fn mail(&self, address: &str, subject: &str) -> String {
        let folder = self.dir.path().join("mail");
        let to = format!("To: {address}");
        loop {
            let mut mails = in_folder(&folder).into_iter();
            let about =
                |mail: &String| mail.lines().any(|line| line.starts_with("Subject: ") && line.contains(subject));
            if let Some(mail) = mails.find(|mail| mail.contains(&to) && about(mail)) {
                return mail;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The token in that mail.
    async fn token(&self, address: &str, subject: &str) -> OneTimeToken {
        let mail = self.mail(address, subject).await;
        let text = mail.lines().find_map(|line| line.strip_prefix("Token: ")).unwrap();
        OneTimeToken::read(text).unwrap()
    }
}

pub(crate) fn refusal<T: std::fmt::Debug>(outcome: Result<T, CallError<AccountRefusal>>) -> AccountRefusal {
    match outcome {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn email(text: &str) -> EmailAddress {
    text.parse().unwrap()
}

fn pass(text: &str) -> Passphrase {
    Passphrase::new(text).unwrap()
}

pub(crate) fn source(number: u8) -> SourcePrefix {
    SourcePrefix::of(std::net::Ipv4Addr::new(192, 0, 2, number).into())
}
