//! People and the accounts of others: every route of the self-service, asked by whoever must not, and what a network shows of
//! members that belong to others.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use admin::self_service;
use bus::Bus;
use domain::{AccountId, AccountOrder, ClientId, NetworkId, OneTimeToken, PersonId, SessionToken, UnixMillis};
use serde_json::{Value, json};
use store::{Fresh, NewSession, PasswordHash};
use tokio_util::sync::CancellationToken;

use crate::{
    lab::{Answer, bearer},
    whole::Whole,
};

/// What a route is about, and what somebody of another account is answered.
enum About {
    /// Nobody in particular: no session is needed.
    Anybody,
    /// Whoever has the session.
    Oneself,
    /// An account: a stranger gets this status and code.
    Account(u16, &'static str),
}
use About::{Account, Anybody, Oneself};

const HIDDEN: About = Account(404, "not-found");

/// Every route. A new one fails here until it is listed.
const ROUTES: &[(&str, &str, About)] = &[
    ("DELETE", "/v1/account", Account(403, "denied")),
    ("DELETE", "/v1/account/clients/{client}", HIDDEN),
    ("DELETE", "/v1/account/invitations/{email}", HIDDEN),
    ("DELETE", "/v1/account/networks/{network}", HIDDEN),
    ("DELETE", "/v1/account/people/me", HIDDEN),
    ("DELETE", "/v1/account/people/{person}", HIDDEN),
    ("DELETE", "/v1/account/sessions", Oneself),
    ("DELETE", "/v1/account/sessions/current", Oneself),
    ("GET", "/v1/account", HIDDEN),
    ("GET", "/v1/account/clients", HIDDEN),
    ("GET", "/v1/account/export", HIDDEN),
    ("GET", "/v1/account/me", Oneself),
    ("GET", "/v1/account/networks", HIDDEN),
    ("GET", "/v1/account/provider", Anybody),
    ("GET", "/v1/account/provider/callback", Anybody),
    ("PATCH", "/v1/account/people/{person}", HIDDEN),
    ("POST", "/v1/account/clients/codes", HIDDEN),
    ("POST", "/v1/account/invitations", HIDDEN),
    ("POST", "/v1/account/invitations/accept", Oneself),
    ("POST", "/v1/account/password/reset", Anybody),
    ("POST", "/v1/account/people/{person}/owner", HIDDEN),
    ("POST", "/v1/account/provider", Anybody),
    ("POST", "/v1/account/sessions", Anybody),
    ("POST", "/v1/account/sign-up", Anybody),
    ("POST", "/v1/account/verify", Anybody),
    ("PUT", "/v1/account/networks/{network}", HIDDEN),
    ("PUT", "/v1/account/password", Oneself),
    ("PUT", "/v1/account/password/reset", Anybody),
];

#[test]
fn every_route_is_listed() {
    let declared: BTreeSet<_> = self_service::declared().into_iter().collect();
    let listed: BTreeSet<_> =
        ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(declared, listed);
}

#[tokio::test]
async fn nobody_reaches_the_account_of_another() {
    let town = Town::new().await;
    let (anna, mallory) = (town.tenant(1, "anna", "annas own").await, town.tenant(2, "mallory", "another").await);
    for (method, template, about) in ROUTES {
        let path = anna.filled(template);
        let stranger = town.ask(method, &path, "", anna.document(method, &path)).await;
        match about {
            Anybody => assert_ne!(stranger.status, 401, "{method} {path}"),
            Oneself | Account(..) => assert_eq!(stranger.problem(401), "not-logged-in", "{method} {path}"),
        }
        let Account(status, code) = about else { continue };
        let theirs = format!("{path}?account={}", anna.account);
        let answer = town.ask(method, &theirs, &mallory.session, anna.document(method, &path)).await;
        anna.unseen(&answer);
        assert_eq!(answer.problem(*status), *code, "{method} {theirs}");
        // Ids of the one are nothing in the account of the other.
        if template.contains('{') {
            let answer = town.ask(method, &path, &mallory.session, anna.document(method, &path)).await;
            anna.unseen(&answer);
            assert!([403, 404, 409].contains(&answer.status), "{method} {path}: {}", answer.body);
        }
        if *method == "GET" {
            let own = town.ask(method, &path, &mallory.session, None).await;
            anna.unseen(&own);
            assert_eq!(own.status, 200, "{}", own.body);
        }
    }
    let kept = town.ask("GET", "/v1/account", &anna.session, None).await.ok();
    assert_eq!((&kept["clients"][0]["client"], &kept["people"][0]["role"]), (&json!(anna.client), &json!("owner")));
    town.end().await;
}

#[tokio::test]
async fn a_network_shows_others_as_members_and_nothing_of_their_accounts() {
    let town = Town::new().await;
    let (anna, bert) = (town.tenant(1, "anna", "friday").await, town.tenant(2, "bert", "other").await);
    town.whole.join(anna.network, bert.client).await;
    town.whole.online(anna.client).await;
    let networks = town.ask("GET", "/v1/account/networks", &bert.session, None).await;
    assert!(!networks.body.contains(&anna.email) && !networks.body.contains(&anna.account.to_string()));
    assert!(!networks.body.contains(&anna.person.to_string()), "{}", networks.body);
    let networks = networks.ok();
    let friday = networks["items"].as_array().unwrap().iter().find(|one| one["name"] == "friday").unwrap();
    assert_eq!(
        (&friday["seen_by"], &friday["complete"], &friday["applicants"]),
        (&json!(bert.client), &json!(true), &json!([]))
    );
    let line = |client: ClientId| {
        let members = friday["members"].as_array().unwrap();
        members.iter().find(|one| one["client"] == json!(client)).unwrap()
    };
    let (own, other) = (line(bert.client), line(anna.client));
    assert_eq!((&own["mine"], &own["state"], &own["online"]), (&json!(true), &json!("own"), &json!(false)));
    assert_eq!((&other["mine"], &other["nick"], &other["online"]), (&json!(false), &json!("anna"), &json!(true)));
    let fields: BTreeSet<_> = other.as_object().unwrap().keys().map(String::as_str).collect();
    let known = ["address4", "address6", "client", "mine", "nick", "online", "role", "seated", "state", "via", "why"];
    assert_eq!(fields, BTreeSet::from(known));

    let from = |client: ClientId| format!("/v1/account/networks?from={client}");
    let with_hers = town.ask("GET", &from(anna.client), &bert.session, None).await;
    assert_eq!(with_hers.problem(404), "not-found", "nobody looks with the eyes of others");
    town.ask("GET", &from(bert.client), &bert.session, None).await.ok();
    let odd = town.ask("GET", "/v1/account/networks?from=1", &bert.session, None).await;
    assert_eq!(odd.problem(400), "invalid-parameter");
    let machines = town.ask("GET", "/v1/account/clients", &anna.session, None).await.ok();
    let machine = &machines["items"][0];
    assert_eq!((&machine["nick"], &machine["networks"][0]["role"]), (&json!("anna"), &json!("owner")));
    assert!(machine["online_since_unix_ms"].is_u64() && machines["items"].as_array().unwrap().len() == 1);
    town.end().await;
}

#[tokio::test]
async fn changes_that_another_site_makes_are_refused() {
    let town = Town::new().await;
    let anna = town.tenant(1, "anna", "friday").await;
    for (says, status) in [
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("Sec-Fetch-Site: same-site\r\n", 403),
        ("Origin: https://evil.test\r\n", 403),
        ("Origin: http://admin\r\n", 201),
        ("Sec-Fetch-Site: same-origin\r\n", 201),
    ] {
        let headers = format!("{}{says}", anna.session);
        let answer = town.ask("POST", "/v1/account/clients/codes", &headers, None).await;
        assert_eq!(answer.status, status, "{says}{}", answer.body);
        if status == 403 {
            assert_eq!(answer.problem(403), "cross-site");
        }
        assert_eq!(town.ask("GET", "/v1/account/me", &headers, None).await.status, 200, "looking changes nothing");
    }
    town.end().await;
}

/// The self-service with the roles behind it.
struct Town {
    whole: Whole,
    address: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinSet<()>,
}

/// Somebody with an account, a client and a network.
struct Tenant {
    account: AccountId,
    person: PersonId,
    email: String,
    nick: String,
    client: ClientId,
    network: NetworkId,
    /// The header line that shows the session.
    session: String,
}

impl Town {
    async fn new() -> Self {
        let whole = Whole::new().await;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = self_service::bind(&self_service::SelfService { listen, behind_proxy: false }).unwrap();
        let (address, shutdown) = (bound.address().unwrap(), CancellationToken::new());
        let (bus, ends) = (Bus::memory(&whole.lab.hub, "self-service"), shutdown.clone());
        let mut served = tokio::task::JoinSet::new();
        served.spawn(async move { bound.run(bus, ends).await.unwrap() });
        Self { whole, address, shutdown, served }
    }

    async fn tenant(&self, nth: u8, nick: &str, network: &str) -> Tenant {
        let people = &self.whole.lab.stores.people;
        let at = UnixMillis::from(std::time::SystemTime::now());
        let expires = at.plus(Duration::from_secs(600));
        let fresh = |kind: u8| {
            let byte = 16 * nth + kind;
            Fresh { token: OneTimeToken::from_bytes([byte; 32]).hash(), nonce: [byte; 16], expires }
        };
        let email = format!("{nick}@example.test");
        let password = PasswordHash("no hash".to_owned());
        people.ask_sign_up(email.parse().unwrap(), password, fresh(1), at).await.unwrap();
        let session = SessionToken::from_bytes([nth; 32]);
        let new = NewSession { token: session.hash(), expires };
        let person = people.confirm_sign_up(fresh(1).token, new, at).await.unwrap().unwrap();
        let account = people.person(session.hash(), at).await.unwrap().unwrap().accounts[0].account;
        let client = self.whole.client(nth, nick).await;
        people.carry_out_for(person, account, AccountOrder::MakeCode, fresh(2), at).await.unwrap();
        people.attach(client, fresh(2).token, at).await.unwrap();
        let network = self.whole.network(network, client).await;
        let session = bearer(&session.reveal());
        Tenant { account, person, email, nick: nick.to_owned(), client, network, session }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, document: Option<Value>) -> Answer {
        let body = document.map(|document| document.to_string()).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let headers = format!("{headers}{kind}");
        self.whole.lab.send_to(self.address, method, path, &headers, body.as_bytes()).await
    }

    async fn end(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.served.join_next().await {
            ended.unwrap();
        }
        self.whole.end().await;
    }
}

impl Tenant {
    /// A path with the tenant's ids in it.
    fn filled(&self, path: &str) -> String {
        path.replace("{client}", &self.client.to_string())
            .replace("{network}", &self.network.to_string())
            .replace("{person}", &self.person.to_string())
            .replace("{email}", &self.email)
    }

    /// What is sent there.
    fn document(&self, method: &str, path: &str) -> Option<Value> {
        let long = "a password of some length";
        match (method, path) {
            ("DELETE", "/v1/account") => Some(json!({})),
            ("POST", "/v1/account/invitations") => Some(json!({ "email": "x@example.test", "role": "member" })),
            ("POST", "/v1/account/invitations/accept") => Some(json!({ "token": "0".repeat(64) })),
            ("POST", "/v1/account/password/reset") => Some(json!({ "email": "nobody@example.test" })),
            ("POST", "/v1/account/sessions" | "/v1/account/sign-up") => {
                Some(json!({ "email": "nobody@example.test", "password": long }))
            }
            ("POST", "/v1/account/verify") | ("PUT", "/v1/account/password/reset") => {
                Some(json!({ "token": "0".repeat(64), "password": long }))
            }
            ("PUT", "/v1/account/password") => Some(json!({ "old": long, "new": long })),
            ("PATCH", _) => Some(json!({ "role": "admin" })),
            _ => None,
        }
    }

    /// Nothing of this tenant is in an answer to another.
    #[track_caller]
    fn unseen(&self, answer: &Answer) {
        let ids =
            [self.account.to_string(), self.person.to_string(), self.client.to_string(), self.network.to_string()];
        for needle in ids.iter().chain([&self.email, &self.nick]) {
            assert!(!answer.body.contains(needle.as_str()), "{needle} in {}", answer.body);
        }
    }
}
