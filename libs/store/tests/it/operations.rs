//! Tokens, the audit log, and requests that are made again.

use std::time::Duration;

use domain::{ApiScope, ApiScopes, TokenId, UnixMillis};
use futures_util::future::join_all;
use store::{
    AuditEntry, AuditFilter, Claim, MAX_TOKENS, MakeTokenError, NewEntry, NewToken, REPEATABLE, RepeatableRequest,
};

use crate::lab::{Lab, NOW};

crate::conformance! {
    a_token_is_found_by_its_digest_until_it_ends,
    there_are_only_so_many_tokens,
    the_audit_log_is_one_chain_whoever_writes,
    a_changed_or_missing_entry_breaks_the_chain,
    the_audit_log_is_searched_by_what_is_named,
    a_request_is_claimed_once,
}

async fn a_token_is_found_by_its_digest_until_it_ends(lab: &Lab) {
    let operations = lab.operations();
    let made = operations.make_token(token(1), NOW).await.unwrap();
    assert_eq!((made.id, made.name.as_str(), made.made), (id(1), "nr \u{1f41f} 1", NOW));
    assert!(made.scopes.has(ApiScope::Audit) && !made.scopes.has(ApiScope::Write));
    assert_eq!(operations.bearer([1; 32], NOW).await.unwrap().unwrap().used, None);
    assert_eq!(operations.token(id(1)).await.unwrap().unwrap().used, Some(NOW));
    let soon = NOW.plus(Duration::from_secs(59));
    operations.bearer([1; 32], soon).await.unwrap();
    assert_eq!(operations.token(id(1)).await.unwrap().unwrap().used, Some(NOW), "noted once a minute");

    let last = UnixMillis(made.expires.0 - 1);
    assert!(operations.bearer([1; 32], last).await.unwrap().is_some());
    assert!(operations.bearer([1; 32], made.expires).await.unwrap().is_none());
    assert!(operations.bearer([2; 32], NOW).await.unwrap().is_none());

    let revoked = operations.revoke_token(id(1), soon).await.unwrap().unwrap();
    assert_eq!(revoked.revoked, Some(soon));
    assert!(operations.bearer([1; 32], soon).await.unwrap().is_none());
    assert_eq!(operations.revoke_token(id(1), last).await.unwrap().unwrap().revoked, Some(soon));
    assert_eq!(operations.revoke_token(id(9), NOW).await.unwrap(), None);
}

async fn there_are_only_so_many_tokens(lab: &Lab) {
    let rows: Vec<_> = (0..MAX_TOKENS)
        .map(|number| format!("('id {number}', 'digest {number}', 'n', 'read', 'root', 0, {})", i64::MAX))
        .collect();
    let columns = "id, digest, name, scopes, maker, made_ms, expires_ms";
    lab.execute(&format!("INSERT INTO tokens ({columns}) VALUES {}", rows.join(", "))).await;
    let refused = lab.operations().make_token(token(1), NOW).await;
    assert!(matches!(refused, Err(MakeTokenError::LimitReached { limit: MAX_TOKENS })), "{refused:?}");
    lab.execute("UPDATE tokens SET revoked_ms = 1 WHERE id = 'id 7'").await;
    lab.operations().make_token(token(1), NOW).await.unwrap();
}

async fn the_audit_log_is_one_chain_whoever_writes(lab: &Lab) {
    let other = lab.reopened(domain::AddressPool::DEFAULT).await;
    let writers = (0..20).map(|nth| {
        let operations = if nth % 2 == 0 { &lab.stores().operations } else { &other.operations };
        operations.record(entry(&format!("/v1/networks/{nth}")))
    });
    for recorded in join_all(writers).await {
        recorded.unwrap();
    }
    let entries = lab.operations().audit_after(0, 100).await.unwrap();
    assert_eq!(entries.len(), 20);
    assert!(is_chain(&entries));
    assert_eq!(entries[0].previous, Vec::<u8>::new());
    let page = lab.operations().audit_after(18, 100).await.unwrap();
    assert_eq!(page, entries[18..]);
    other.close().await;
}

async fn a_changed_or_missing_entry_breaks_the_chain(lab: &Lab) {
    for nth in 0..4 {
        lab.operations().record(entry(&format!("/v1/networks/{nth}"))).await.unwrap();
    }
    lab.execute("UPDATE audit SET who = 'somebody' WHERE sequence = 2").await;
    let forged = lab.operations().audit_after(0, 10).await.unwrap();
    assert!(!is_chain(&forged[..2]) && is_chain(&forged[..1]));
    lab.execute("UPDATE audit SET who = 'root' WHERE sequence = 2").await;
    assert!(is_chain(&lab.operations().audit_after(0, 10).await.unwrap()));
    lab.execute("DELETE FROM audit WHERE sequence = 2").await;
    assert!(!is_chain(&lab.operations().audit_after(0, 10).await.unwrap()));
}

async fn the_audit_log_is_searched_by_what_is_named(lab: &Lab) {
    for (who, action, object) in [("a", "x", "1"), ("b", "x", "1"), ("a", "y", "1"), ("a", "x", "2")] {
        let entry = NewEntry { who: who.into(), action: action.into(), ..entry(object) };
        lab.operations().record(entry).await.unwrap();
    }
    let found = |who: &str, action: &str, object: &str, before| {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let filter = AuditFilter { who: some(who), action: some(action), object: some(object) };
        async move {
            let entries = lab.operations().audit(filter, before, 10).await.unwrap();
            entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>()
        }
    };
    assert_eq!(found("", "", "", None).await, [4, 3, 2, 1]);
    assert_eq!(found("", "", "", Some(3)).await, [2, 1]);
    assert_eq!(found("a", "", "", None).await, [4, 3, 1]);
    assert_eq!(found("", "x", "", None).await, [4, 2, 1]);
    assert_eq!(found("", "", "1", None).await, [3, 2, 1]);
    assert_eq!(found("a", "x", "1", Some(4)).await, [1]);
    assert_eq!(found("c", "", "", None).await, Vec::<u64>::new());
}

async fn a_request_is_claimed_once(lab: &Lab) {
    let operations = lab.operations();
    let claims = join_all((0..8).map(|_| operations.claim(request("k", 1), NOW))).await;
    let fresh = claims.iter().filter(|claim| matches!(claim, Ok(Claim::Fresh))).count();
    assert_eq!((fresh, claims.iter().filter(|claim| claim.is_ok()).count()), (1, 8));
    assert_eq!(operations.claim(request("k", 1), NOW).await.unwrap(), Claim::Unanswered { since: NOW });
    assert_eq!(operations.claim(request("k", 2), NOW).await.unwrap(), Claim::Other);

    operations.answered("root", "k", 201, vec![7]).await.unwrap();
    operations.unclaim("root", "k").await.unwrap();
    let again = operations.claim(request("k", 1), NOW).await.unwrap();
    assert_eq!(again, Claim::Answered { status: 201, answer: vec![7] });
    assert_eq!(operations.claim(request("k", 1), NOW.plus(REPEATABLE)).await.unwrap(), Claim::Fresh);

    assert_eq!(operations.claim(request("given back", 1), NOW).await.unwrap(), Claim::Fresh);
    operations.unclaim("root", "given back").await.unwrap();
    assert_eq!(operations.claim(request("given back", 2), NOW).await.unwrap(), Claim::Fresh);
}

fn id(number: u8) -> TokenId {
    TokenId::from_bytes([number; 16])
}

fn token(number: u8) -> NewToken {
    let scopes: ApiScopes = [ApiScope::Read, ApiScope::Audit].into_iter().collect();
    NewToken {
        id: id(number),
        digest: [number; 32],
        name: format!("nr \u{1f41f} {number}"),
        scopes,
        maker: "root".into(),
        expires: NOW.plus(Duration::from_secs(3600)),
    }
}

fn entry(object: &str) -> NewEntry {
    NewEntry {
        at: NOW,
        who: "root".into(),
        action: "networks_lock".into(),
        object: object.into(),
        request: "r1".into(),
        asked: None,
        status: None,
        before: String::new(),
        after: "{\"name\":\"\u{1f41f}' OR 1=1 --\"}".into(),
    }
}

fn request(key: &str, number: u8) -> RepeatableRequest {
    RepeatableRequest { who: "root".into(), key: key.into(), digest: [number; 32] }
}

fn is_chain(entries: &[AuditEntry]) -> bool {
    let mut end = (0, Vec::new());
    entries.iter().all(|entry| {
        let follows = entry.follows(end.0, &end.1);
        end = (entry.sequence, entry.digest.clone());
        follows
    })
}
