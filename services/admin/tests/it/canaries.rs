//! Every operation, every object, every scope: no answer, log line or figure holds a secret. The operations come from their
//! declarations; one that is new fails here until it is said what it is sent.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use admin::{Declared, declared};
use domain::{AccountId, ApiScope, ClientId, InviteId, NetworkId};
use serde_json::{Value, json};

use crate::{
    lab::{WEBHOOKS_KEY, relay},
    receiver::{Answers, Receiver},
    whole::{PASSWORD_HASH, PASSWORD_RECORD, SEALED_SECRET, TUNNEL_KEY, TUNNEL_SIGNATURE, WRAPPED_SECRET, Whole},
};

/// What is there to be asked about.
struct Objects {
    network: NetworkId,
    owner: ClientId,
    member: ClientId,
    outlaw: ClientId,
    invite: InviteId,
    token: String,
    account: AccountId,
    webhook: String,
    receiver: String,
    block: String,
}

/// Operations whose paths have nothing to fill in but what their names say, and what is sent to those that take a document.
fn document(operation: &Declared, objects: &Objects) -> Option<Value> {
    let limits = json!({ "members_per_network": 9, "networks_per_client": 9, "relay_bytes_per_second": 1, "relay_bytes_per_month": 1 });
    match operation.id {
        "tokens_create" => Some(json!({ "name": "canary", "scopes": ["read"], "lifetime_s": 60 })),
        "plans_create" => {
            let mut plan = limits;
            plan["name"] = json!("canary");
            Some(plan)
        }
        "plans_change" => Some(limits),
        "clients_assign_plan" | "accounts_plan" => Some(json!({ "plan": "standard" })),
        "accounts_suspend" => Some(json!({ "suspended": true })),
        "accounts_transfer" => Some(json!({ "person": objects.token })),
        "webhooks_create" => Some(json!({ "name": "canary", "url": objects.receiver, "kinds": ["relay.lost"] })),
        "webhooks_change" => Some(json!({ "name": "canary again" })),
        "networks_change" => Some(json!({ "locked": true })),
        "blocks_create" => {
            let confirm = 3;
            Some(
                json!({ "kind": "client", "target": objects.outlaw, "degree": "slow", "reason": "canary", "confirm": confirm }),
            )
        }
        "blocks_change" => Some(json!({ "reason": "another canary" })),
        "sessions_end_many" => Some(json!({ "network": objects.network, "confirm": 2 })),
        other => {
            assert!(!operation.takes_body, "{other} takes a document: say which");
            None
        }
    }
}

/// The paths of an operation, with every object that fits.
fn paths(operation: &Declared, objects: &Objects) -> Vec<String> {
    let clients = [objects.owner, objects.member, objects.outlaw].map(|client| client.to_string());
    let fitting = |parameter: &str| match parameter {
        "network" => vec![objects.network.to_string()],
        "client" | "a" | "b" | "payer" => clients.to_vec(),
        "invite" => vec![objects.invite.to_string()],
        "relay" => vec![relay().relay.to_string()],
        "plan" => vec!["free".to_owned(), "premium".to_owned()],
        "token" => vec![objects.token.clone()],
        "account" => vec![objects.account.to_string()],
        "webhook" => vec![objects.webhook.clone()],
        "event" => vec!["0".repeat(32)],
        "block" => vec![objects.block.clone()],
        other => panic!("{operation:?}: which objects is {other}?"),
    };
    let mut paths = vec![String::new()];
    for part in operation.path.split('/').skip(1) {
        let parameter = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let fillings = parameter.map_or_else(|| vec![part.to_owned()], fitting);
        paths = paths.iter().flat_map(|path| fillings.iter().map(move |filling| format!("{path}/{filling}"))).collect();
    }
    paths
}

#[tokio::test]
async fn no_answer_log_line_or_figure_holds_a_secret() {
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || written.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let mut secrets = vec![std::fs::read_to_string(lab.dir.path().join("operator.token")).unwrap().trim().to_owned()];
    let mut tokens = Vec::new();
    for scope in ApiScope::ALL {
        let token = lab.token(&[scope.name()]).await;
        secrets.push(token.trim_start_matches("Authorization: Bearer ").trim().to_owned());
        tokens.push((Some(scope), token));
    }
    // The root token comes last: it changes what the others look at.
    tokens.push((None, lab.authorization()));
    let digests: Vec<Vec<u8>> = secrets
        .iter()
        .map(|secret| ring::digest::digest(&ring::digest::SHA256, secret.as_bytes()).as_ref().to_vec())
        .collect();
    let receiver = Receiver::new(|_| Answers::Status(500));
    let (objects, secret) = populate(&whole, receiver.url()).await;
    let columns = [PASSWORD_RECORD, WRAPPED_SECRET, SEALED_SECRET, &TUNNEL_KEY, &TUNNEL_SIGNATURE].map(<[u8]>::to_vec);
    let mut needles: Vec<String> = columns.iter().chain(&digests).flat_map(|secret| forms(secret)).collect();
    needles.extend(secrets.iter().cloned());
    needles.push(PASSWORD_HASH.to_owned());
    needles.extend(forms(&WEBHOOKS_KEY));
    needles.push(secret);
    let clean = |what: &str, text: &str| {
        let found = needles.iter().find(|needle| text.contains(needle.as_str()));
        assert!(found.is_none(), "{what} holds {found:?}:\n{text}");
    };

    for (scope, token) in &tokens {
        // What deletes comes after what only changes or shows.
        let mut operations = declared();
        operations.sort_by_key(|operation| operation.method == "DELETE");
        for operation in operations {
            for path in paths(&operation, &objects) {
                let headers = format!("{token}If-Match: *\r\n");
                let answer = match document(&operation, &objects) {
                    Some(document) => lab.json_as(&headers, &operation.method, &path, &document).await,
                    None => lab.send(&operation.method, &path, &headers).await,
                };
                let what = format!("{} {path} for {scope:?}", operation.method);
                let open = scope.is_none_or(|scope| operation.scope.is_none_or(|needed| needed == scope));
                assert_eq!(answer.body.contains("\"forbidden\""), !open, "{what}: {}", answer.body);
                assert!(operation.statuses.contains(&answer.status), "{what}: {} is not documented", answer.status);
                assert!(answer.status < 500 || answer.status == 503, "{what}: {}", answer.body);
                // Of one answer alone a new token is the purpose.
                let body = match (operation.id, answer.status) {
                    ("tokens_create" | "webhooks_create" | "webhooks_rotate", 201) => {
                        let mut document = answer.json();
                        assert!(document["secret"].take().is_string());
                        document.to_string()
                    }
                    _ => answer.body.clone(),
                };
                clean(&what, &format!("{}\n{body}", answer.head));
                assert!(!body.contains("\"secret\":\""), "{what}");
            }
        }
    }
    clean("the figures", &lab.send("GET", "/metrics", "").await.body);
    clean("readiness", &lab.send("GET", "/ready", "").await.body);
    let export = lab.get("/v1/audit/export").await.body;
    clean("the audit log", &export);
    assert!(!export.contains("buri_api_") && !export.contains("whsec_"));
    assert!(!receiver.got().is_empty(), "it was told");
    let log = log.text();
    assert!(log.contains("an operator asked for something"), "the log is watched");
    clean("the log", &log);
    whole.end().await;
}

/// And the secret of the webhook.
async fn populate(whole: &Whole, receiver: String) -> (Objects, String) {
    let (owner, member, outlaw) =
        (whole.client(1, "owner").await, whole.client(2, "member").await, whole.client(3, "outlaw").await);
    let network = whole.network("canaries", owner).await;
    whole.join(network, member).await;
    whole.online(member).await;
    whole.order(network, owner, domain::NetworkOrder::Ban(outlaw)).await;
    let invite = whole.invite(network, owner).await;
    let made =
        whole.lab.post_json("/v1/tokens", &json!({ "name": "object", "scopes": ["read"], "lifetime_s": 60 })).await;
    let token = made.json()["token"].as_str().unwrap().to_owned();
    let account = whole.account(&[owner]).await;
    let block = json!({ "kind": "network", "target": network, "degree": "slow", "reason": "canary", "confirm": 1 });
    let block = whole.lab.post_json("/v1/blocks", &block).await.json()["block"].as_str().unwrap().to_owned();
    let wanted = json!({ "name": "object", "url": receiver });
    let made = whole.lab.post_json("/v1/webhooks", &wanted).await.json();
    let [webhook, secret] = [&made["webhook"], &made["secret"]].map(|text| text.as_str().unwrap().to_owned());
    (Objects { network, owner, member, outlaw, invite, token, account, webhook, receiver, block }, secret)
}

/// The ways in which bytes are written by accident.
fn forms(secret: &[u8]) -> Vec<String> {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
    };
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = secret.iter().map(u8::to_string).collect::<Vec<_>>();
    let mut forms = vec![hex.to_uppercase(), hex, list.join(", "), list.join(",")];
    forms.push(secret.escape_ascii().to_string());
    forms.extend([STANDARD_NO_PAD.encode(secret), URL_SAFE_NO_PAD.encode(secret)]);
    forms
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
