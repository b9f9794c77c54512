//! Every scope against every operation. The table is the expectation; the operations come from their declarations, so that
//! a new one fails here until it is listed.

use std::collections::BTreeMap;

use admin::{Declared, declared};
use domain::ApiScope;

use crate::lab::{Lab, client, relay};

/// Which scope each operation needs; an empty word: any token will do.
const EXPECTED: &[(&str, &str)] = &[
    ("accounts_detach", "accounts"),
    ("accounts_erase", "accounts"),
    ("accounts_export", "accounts"),
    ("accounts_list", "accounts"),
    ("accounts_plan", "accounts"),
    ("accounts_show", "accounts"),
    ("accounts_suspend", "accounts"),
    ("accounts_transfer", "accounts"),
    ("api_index", ""),
    ("api_openapi", ""),
    ("audit_export", "audit"),
    ("audit_list", "audit"),
    ("audit_verify", "audit"),
    ("blocks_change", "blocks"),
    ("blocks_create", "blocks"),
    ("blocks_dry_run", "blocks"),
    ("blocks_lift", "blocks"),
    ("blocks_list", "read"),
    ("blocks_show", "read"),
    ("clients_assign_plan", "accounts"),
    ("events_follow", "read"),
    ("events_kinds", "read"),
    ("deliveries_list", "webhooks"),
    ("deliveries_replay", "webhooks"),
    ("deliveries_replay_all", "webhooks"),
    ("webhooks_change", "webhooks"),
    ("webhooks_create", "webhooks"),
    ("webhooks_delete", "webhooks"),
    ("webhooks_list", "webhooks"),
    ("webhooks_rotate", "webhooks"),
    ("webhooks_show", "webhooks"),
    ("webhooks_test", "webhooks"),
    ("bans_create", "write"),
    ("bans_lift", "write"),
    ("clients_list", "read"),
    ("clients_plan", "read"),
    ("clients_show", "read"),
    ("invites_list", "read"),
    ("invites_revoke", "write"),
    ("members_list", "read"),
    ("members_remove", "write"),
    ("networks_change", "write"),
    ("networks_delete", "write"),
    ("networks_show", "read"),
    ("networks_list", "read"),
    ("overview_show", "read"),
    ("pairs_show", "read"),
    ("plans_change", "accounts"),
    ("plans_create", "accounts"),
    ("plans_delete", "accounts"),
    ("plans_list", "read"),
    ("plans_show", "read"),
    ("relays_drain", "relays"),
    ("relays_list", "read"),
    ("relays_resume", "relays"),
    ("sessions_end", "write"),
    ("sessions_end_many", "write"),
    ("sessions_list", "read"),
    ("tokens_create", "tokens"),
    ("tokens_list", "tokens"),
    ("tokens_revoke", "tokens"),
    ("tokens_show", "tokens"),
    ("usage_list", "read"),
    ("usage_show", "read"),
];

#[test]
fn every_operation_is_listed_with_its_scope() {
    let declared: BTreeMap<_, _> =
        declared().into_iter().map(|one| (one.id, one.scope.map_or("", ApiScope::name))).collect();
    assert_eq!(declared, EXPECTED.iter().copied().collect());
}

#[tokio::test]
async fn every_scope_opens_what_is_listed_and_nothing_else() {
    let lab = Lab::new().await;
    let mut tokens = Vec::new();
    for scope in ApiScope::ALL {
        tokens.push((scope, lab.token(&[scope.name()]).await));
    }
    for operation in declared() {
        let path = filled(&operation);
        for (scope, token) in &tokens {
            let answer = lab.send(&operation.method, &path, token).await;
            let open = operation.scope.is_none_or(|needed| needed == *scope);
            assert_eq!(answer.status == 403, !open, "{operation:?} with {scope}: {}", answer.body);
            assert!(operation.statuses.contains(&answer.status), "{operation:?}: {} is not documented", answer.status);
        }
        assert_eq!(lab.send(&operation.method, &path, "").await.status, 401, "{operation:?}");
    }
    lab.end().await;
}

/// A path of the operation with ids in it.
fn filled(operation: &Declared) -> String {
    let (client, relay) = (client(1).to_string(), relay().relay.to_string());
    let part = |part: &str| match part {
        "{relay}" => relay.clone(),
        part if part.starts_with('{') => client.clone(),
        part => part.to_owned(),
    };
    operation.path.split('/').map(part).collect::<Vec<_>>().join("/")
}
