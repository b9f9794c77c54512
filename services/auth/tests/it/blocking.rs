//! What operators hold against somebody, and what new keys meet.

use std::num::NonZeroU32;

use auth::{Config, LadderConfig, metrics::Outcome};
use bus::CallError;
use contract::auth::{
    Login, LoginRefusal,
    blocks::{BlockRefusal, Blocked, BlockedClients, Blocks, LiftBlock, MakeBlock},
};
use domain::{BlockId, BlockSubject, ClientId, Degree, UnixMillis};

use crate::{Lab, entry};

#[tokio::test]
async fn a_block_on_addresses_touches_new_keys_only() {
    let lab = Lab::new(Config::default()).await;
    lab.login(1).await.unwrap();
    let block = lab.block(1, prefix("203.0.113.0/24"), Degree::Refuse).await;
    let refused = lab.login(2).await;
    match refused {
        Err(CallError::Refused(LoginRefusal::RegistrationWithheld { notice, retry_after_ms })) => {
            assert_eq!((notice.degree, notice.reason.as_str()), (Degree::Refuse, "a test"));
            assert!((1_000..=600_000).contains(&retry_after_ms));
        }
        other => panic!("{other:?}"),
    }
    assert!(!lab.login(1).await.unwrap().registered, "who is known is not touched");
    let elsewhere = Login { from: Some("198.51.100.9".parse().unwrap()), ..entry(2) };
    assert!(lab.bus.call(&elsewhere).await.unwrap().registered);
    lab.bus.call(&LiftBlock { id: block, expected: None }).await.unwrap();
    assert!(lab.login(3).await.unwrap().registered);
    assert_eq!(lab.metrics.logins(Outcome::Withheld), 1);
    lab.end().await;
}

#[tokio::test]
async fn a_challenge_lets_in_who_works() {
    let lab = Lab::new(Config::default()).await;
    lab.block(1, prefix("203.0.113.9"), Degree::Challenge).await;
    let refused = lab.login(1).await;
    assert!(matches!(refused, Err(CallError::Refused(LoginRefusal::WorkNeeded { bits: 19 }))), "{refused:?}");
    let lazy = Login { worked: Some(3), ..entry(1) };
    assert!(matches!(lab.bus.call(&lazy).await, Err(CallError::Refused(LoginRefusal::WorkNeeded { .. }))));
    let worked = Login { worked: Some(19), ..entry(1) };
    assert!(lab.bus.call(&worked).await.unwrap().registered);
    assert!(!lab.login(1).await.unwrap().registered, "who is known is not asked");
    assert_eq!(lab.metrics.logins(Outcome::Challenged), 2);
    lab.end().await;
}

#[tokio::test]
async fn a_block_on_a_client_touches_its_logins_in_three_degrees() {
    let lab = Lab::new(Config::default()).await;
    let client = lab.login(1).await.unwrap().client;
    assert_eq!(lab.bus.call(&BlockedClients).await.unwrap(), Blocked::These(Vec::new()));
    for (number, degree) in [(1, Degree::Slow), (2, Degree::Challenge), (3, Degree::Refuse)] {
        let block = lab.block(number, BlockSubject::Client(client), degree).await;
        assert_eq!(lab.bus.call(&BlockedClients).await.unwrap(), Blocked::These(vec![client]));
        match degree {
            Degree::Slow => {
                lab.login(1).await.unwrap();
                let slowed = lab.login(1).await;
                let Err(CallError::Refused(LoginRefusal::Withheld { notice, retry_after_ms })) = slowed else {
                    panic!("{slowed:?}")
                };
                assert_eq!(notice.degree, Degree::Slow);
                assert!((50_000..=60_000).contains(&retry_after_ms), "{retry_after_ms}");
            }
            Degree::Challenge => {
                let asked = lab.login(1).await;
                assert!(matches!(asked, Err(CallError::Refused(LoginRefusal::WorkNeeded { bits: 22 }))), "{asked:?}");
                lab.bus.call(&Login { worked: Some(22), ..entry(1) }).await.unwrap();
            }
            Degree::Refuse => {
                let refused = lab.bus.call(&Login { worked: Some(22), ..entry(1) }).await;
                assert!(matches!(refused, Err(CallError::Refused(LoginRefusal::Withheld { .. }))), "{refused:?}");
            }
        }
        lab.login(2).await.unwrap();
        lab.bus.call(&LiftBlock { id: block, expected: None }).await.unwrap();
    }
    lab.login(1).await.unwrap();
    lab.end().await;
}

#[tokio::test]
async fn a_key_is_blocked_before_it_was_ever_seen() {
    let lab = Lab::new(Config::default()).await;
    let client = ClientId::of(&entry(1).identity);
    lab.block(1, BlockSubject::Client(client), Degree::Refuse).await;
    let refused = lab.login(1).await;
    assert!(matches!(refused, Err(CallError::Refused(LoginRefusal::Withheld { .. }))), "{refused:?}");
    assert_eq!(lab.stores.accounts.plan_of(client).await.unwrap(), None);
    lab.end().await;
}

#[tokio::test]
async fn more_new_keys_than_usual_work_and_known_ones_do_not() {
    let one = NonZeroU32::MIN;
    let ladder = LadderConfig { free: one, ..LadderConfig::default() };
    let lab = Lab::new(Config { ladder, ..Config::default() }).await;
    lab.login(1).await.unwrap();
    let from = |address: &str, seed| Login { from: Some(address.parse().unwrap()), ..entry(seed) };
    let asked = lab.bus.call(&from("198.51.100.9", 2)).await;
    assert!(matches!(asked, Err(CallError::Refused(LoginRefusal::WorkNeeded { .. }))), "{asked:?}");
    lab.login(1).await.unwrap();
    let without = lab.bus.call(&Login { from: None, ..entry(2) }).await;
    assert!(matches!(without, Err(CallError::Refused(LoginRefusal::Busy))), "on doubt nobody new");
    while lab.metrics.under_attack.get() == 0 {
        tokio::task::yield_now().await;
    }
    lab.end().await;
}

#[tokio::test]
async fn a_key_that_logs_in_again_and_again_is_told_to_wait() {
    let two = NonZeroU32::new(2).unwrap();
    let lab = Lab::new(Config {
        ladder: LadderConfig { logins_per_key: two, ..LadderConfig::default() },
        ..Config::default()
    })
    .await;
    for _ in 0..3 {
        lab.login(1).await.unwrap();
    }
    let refused = lab.login(1).await;
    assert!(
        matches!(refused, Err(CallError::Refused(LoginRefusal::LoginLimited { retry_after_ms })) if retry_after_ms >= 1_000),
        "{refused:?}"
    );
    lab.login(2).await.unwrap();
    lab.end().await;
}

#[tokio::test]
async fn blocks_are_kept_by_id_and_by_subject() {
    let lab = Lab::new(Config::default()).await;
    let subject = prefix("203.0.113.0/24");
    let block = lab.block(1, subject, Degree::Slow).await;
    let again = lab.bus.call(&make(2, subject, Degree::Refuse)).await;
    assert!(matches!(again, Err(CallError::Refused(BlockRefusal::Exists(id))) if id == block), "{again:?}");
    let page = lab.bus.call(&Blocks { after: None, limit: 1 }).await.unwrap();
    assert_eq!((page.blocks.len(), page.more, page.blocks[0].id), (1, false, block));
    lab.bus.call(&LiftBlock { id: block, expected: Some(1) }).await.unwrap();
    let gone = lab.bus.call(&LiftBlock { id: block, expected: Some(1) }).await;
    assert!(matches!(gone, Err(CallError::Refused(BlockRefusal::NoSuchBlock))), "{gone:?}");
    lab.end().await;
}

impl Lab {
    async fn block(&self, number: u8, subject: BlockSubject, degree: Degree) -> BlockId {
        self.bus.call(&make(number, subject, degree)).await.unwrap().id
    }
}

fn make(number: u8, subject: BlockSubject, degree: Degree) -> MakeBlock {
    let now = UnixMillis::from(std::time::SystemTime::now());
    MakeBlock {
        id: BlockId::from_bytes([number; 16]),
        subject,
        degree,
        reason: "a test".parse().unwrap(),
        maker: "root".into(),
        expires: now.plus(std::time::Duration::from_secs(600)),
    }
}

fn prefix(text: &str) -> BlockSubject {
    BlockSubject::Prefix(text.parse().unwrap())
}
