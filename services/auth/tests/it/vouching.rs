//! People log in through a provider.

use auth::{Config, PeopleConfig, ProviderConfig};
use contract::account::{AccountRefusal, FinishProvider, PersonLoggedIn, StartProvider, StartedProvider, WhoAmI};
use domain::{OneTimeToken, SessionToken};
use serde_json::{Value, json};

use crate::{
    Lab,
    people::{refusal, source},
    provider::{CLIENT, Provider, SECRET, Signs},
};

type Outcome<T> = Result<T, bus::CallError<AccountRefusal>>;

#[tokio::test]
async fn a_provider_vouches_with_any_kind_of_key() {
    for signs in [Signs::Rsa, Signs::Ec, Signs::Ed] {
        let (provider, lab) = site(signs).await;
        let url = start(&lab, None).await.unwrap().url;
        let (code, state) = provider.grant(&url, "1", "Bert@example.test", |_| {});
        let session = finish(&lab, &state, &code).await.unwrap().session;
        let me = lab.bus.call(&WhoAmI { session }).await.unwrap();
        assert_eq!((me.email.as_str(), me.accounts.len()), ("bert@example.test", 1), "{signs:?}");
        assert_eq!(refusal(finish(&lab, &state, &code).await), AccountRefusal::Unvouched, "a code is good once");

        let url = start(&lab, None).await.unwrap().url;
        let (code, state) = provider.grant(&url, "1", "bert.new@example.test", |_| {});
        let again = finish(&lab, &state, &code).await.unwrap().session;
        assert_eq!(lab.bus.call(&WhoAmI { session: again }).await.unwrap().person, me.person);
        assert_eq!(provider.asked(), 1, "keys are kept");
        lab.end().await;
    }
}

#[tokio::test]
async fn an_address_with_a_password_is_connected_by_its_person_only() {
    let (provider, lab) = site(Signs::Ed).await;
    let anna = lab.person("anna@example.test").await;
    let log_in = async |session: Option<SessionToken>| {
        let url = start(&lab, session).await.unwrap().url;
        let (code, state) = provider.grant(&url, "7", "anna@example.test", |_| {});
        finish(&lab, &state, &code).await
    };
    assert_eq!(refusal(log_in(None).await), AccountRefusal::ConnectFirst);
    log_in(Some(anna)).await.unwrap();
    let session = log_in(None).await.unwrap().session;
    assert_eq!(lab.bus.call(&WhoAmI { session }).await.unwrap().email.as_str(), "anna@example.test");
    let stranger = SessionToken::from_bytes([1; 32]);
    assert_eq!(refusal(start(&lab, Some(stranger)).await), AccountRefusal::NotLoggedIn);
    lab.end().await;
}

#[tokio::test]
async fn a_token_that_is_not_for_this_log_in_proves_nothing() {
    let (provider, lab) = site(Signs::Ec).await;
    let changes: Vec<(&str, Value)> = vec![
        ("iss", json!("https://other.example")),
        ("aud", json!("somebody else")),
        ("aud", json!([CLIENT, "somebody else"])),
        ("azp", json!("somebody else")),
        ("nonce", json!("of another flow")),
        ("nonce", Value::Null),
        ("exp", json!(1)),
        ("iat", json!(4_000_000_000_u64)),
        ("sub", json!("")),
        ("email_verified", json!(false)),
        ("email_verified", json!("false")),
        ("email", json!("not an address")),
        ("email", Value::Null),
        ("forged_signature", json!(true)),
        ("forged_header", json!({ "alg": "none" })),
        ("forged_header", json!({ "alg": "HS256" })),
        ("forged_header", json!({ "alg": "EdDSA" })),
        ("forged_header", json!({ "kid": "nobody's" })),
    ];
    for (claim, value) in changes {
        let url = start(&lab, None).await.unwrap().url;
        let (code, state) = provider.grant(&url, "1", "bert@example.test", |claims| claims[claim] = value.clone());
        let refused = refusal(finish(&lab, &state, &code).await);
        assert_eq!(refused, AccountRefusal::Unvouched, "{claim}: {value}");
    }
    let url = start(&lab, None).await.unwrap().url;
    let shared = |claims: &mut Value| {
        claims["aud"] = json!([CLIENT, "somebody else"]);
        claims["azp"] = json!(CLIENT);
    };
    let (code, state) = provider.grant(&url, "1", "bert@example.test", shared);
    finish(&lab, &state, &code).await.unwrap();
    lab.end().await;
}

#[tokio::test]
async fn a_flow_is_of_its_state() {
    let (provider, lab) = site(Signs::Ed).await;
    let [mine, other] = [start(&lab, None).await.unwrap(), start(&lab, None).await.unwrap()];
    let (code, _) = provider.grant(&mine.url, "1", "bert@example.test", |_| {});
    // The verifier and the nonce follow from the state: another's is of no use.
    assert_eq!(refusal(finish(&lab, &other.state.reveal(), &code).await), AccountRefusal::Unvouched);
    let invented = OneTimeToken::from_bytes([3; 32]).reveal();
    let (code, _) = provider.grant(&mine.url, "1", "bert@example.test", |_| {});
    assert_eq!(refusal(finish(&lab, &invented, &code).await), AccountRefusal::Unvouched);
    lab.end().await;
}

#[tokio::test]
async fn keys_that_are_new_are_asked_for() {
    let (provider, lab) = site(Signs::Ed).await;
    let log_in = async || {
        let url = start(&lab, None).await.unwrap().url;
        let (code, state) = provider.grant(&url, "1", "bert@example.test", |_| {});
        finish(&lab, &state, &code).await
    };
    log_in().await.unwrap();
    provider.rename_key("two");
    assert_eq!(refusal(log_in().await), AccountRefusal::Unvouched, "asked a moment ago");
    assert_eq!(provider.asked(), 1);
    lab.end().await;
}

#[tokio::test]
async fn without_a_provider_there_is_none() {
    let lab = Lab::new(Config::default()).await;
    assert_eq!(refusal(start(&lab, None).await), AccountRefusal::NoProvider);
    lab.end().await;
}

async fn start(lab: &Lab, session: Option<SessionToken>) -> Outcome<StartedProvider> {
    lab.bus.call(&StartProvider { session, source: source(1) }).await
}

async fn finish(lab: &Lab, state: &str, code: &str) -> Outcome<PersonLoggedIn> {
    let state = OneTimeToken::read(state).unwrap();
    lab.bus.call(&FinishProvider { state, code: code.to_owned(), source: source(1) }).await
}

/// A provider, and a deployment that knows it.
async fn site(signs: Signs) -> (Provider, Lab) {
    let provider = Provider::start(signs).await;
    let secrets = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secrets.path(), format!("{SECRET}\n")).unwrap();
    let named = ProviderConfig {
        issuer: provider.issuer.clone(),
        client_id: CLIENT.into(),
        client_secret_file: secrets.path().to_owned(),
        redirect: String::new(),
    };
    let site = "http://127.0.0.1:12982/".to_owned();
    let people = PeopleConfig { provider: named, site, ..PeopleConfig::default() };
    let lab = Lab::new(Config { people, ..Config::default() }).await;
    (provider, lab)
}
