//! Networks, and what operators do to them.

use domain::{NetworkKind, NetworkOrder};
use serde_json::{Value, json};

use crate::{lab::Answer, whole::Whole};

#[tokio::test]
async fn networks_are_found_by_the_beginning_of_their_names() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let owner = whole.client(1, "owner").await;
    for name in ["Office", "office 2", "\u{441}\u{43e}\u{441}", "Offshore", "home _'._- d'\u{e9}t\u{e9}"] {
        whole.network(name, owner).await;
    }
    let found = async |query: &str| {
        let page = lab.get(&format!("/v1/networks?{query}")).await.ok();
        let names =
            page["items"].as_array().unwrap().iter().map(|network| network["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let offices = found("name=OFFI").await;
    assert_eq!(offices.len(), 2, "{offices:?}");
    assert_eq!(found("name=CO").await, ["\u{441}\u{43e}\u{441}"], "names that look alike are alike");
    assert_eq!(found("name=home%20_%27").await, ["home _'._- d'\u{e9}t\u{e9}"]);
    assert!(found("name=%25").await.is_empty());
    let first = lab.get("/v1/networks?name=off&limit=2").await.ok();
    let cursor = first["next_cursor"].as_str().unwrap();
    assert_eq!(found(&format!("name=off&limit=2&cursor={cursor}")).await, ["Offshore"]);
    assert_eq!(lab.get(&format!("/v1/networks?cursor={cursor}")).await.problem(400), "invalid-parameter");
    whole.end().await;
}

#[tokio::test]
async fn a_network_is_shown_with_members_bans_and_invites() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let (anna, bert, carl) =
        (whole.client(1, "anna").await, whole.client(2, "bert").await, whole.client(3, "carl d'Arc").await);
    let network = whole.network("friday", anna).await;
    whole.join(network, bert).await;
    whole.online(bert).await;
    whole.order(network, anna, NetworkOrder::Ban(carl)).await;
    let wheel = whole.network("wheel", anna).await;
    whole.order(wheel, anna, NetworkOrder::SetKind(NetworkKind::Hub)).await;
    let invite = whole.invite(network, anna).await;
    let path = format!("/v1/networks/{network}");
    let shown = lab.get(&path).await;
    assert_eq!(shown.header("etag"), Some(format!("\"r{}\"", shown.json()["revision"]).as_str()));
    let shown = shown.ok();
    assert_eq!((&shown["name"], &shown["members"], &shown["locked"]), (&json!("friday"), &json!(2), &json!(false)));
    assert_eq!((&shown["bans"][0]["client"], &shown["bans"][0]["nick"]), (&json!(carl), &json!("carl d'Arc")));
    let kinds = async |path: &str| {
        let list = lab.get(path).await.ok();
        let kind = |one: &Value| (one["name"].as_str().unwrap().to_owned(), one["kind"].as_str().unwrap().to_owned());
        list["items"].as_array().unwrap().iter().map(kind).collect::<std::collections::BTreeMap<_, _>>()
    };
    let both = [("friday", "mesh"), ("wheel", "hub")].map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    assert_eq!(kinds("/v1/networks").await, both.clone().into());
    assert_eq!(kinds("/v1/networks?name=whe").await, both[1..].iter().cloned().collect());
    assert_eq!(shown["kind"], "mesh");
    assert_eq!(lab.get(&format!("/v1/networks/{wheel}")).await.ok()["kind"], "hub");
    let members = lab.get(&format!("{path}/members?limit=1")).await.ok();
    let cursor = members["next_cursor"].as_str().unwrap();
    let rest = lab.get(&format!("{path}/members?limit=1&cursor={cursor}")).await.ok();
    let mut members = [members["items"][0].clone(), rest["items"][0].clone()];
    members.sort_by_key(|member| member["nick"].as_str().unwrap().to_owned());
    assert_eq!((&members[0]["role"], &members[0]["online"]), (&json!("owner"), &json!(false)));
    assert_eq!((&members[1]["role"], &members[1]["online"]), (&json!("member"), &json!(true)));
    let invites = lab.get(&format!("{path}/invites")).await.ok();
    assert_eq!((&invites["items"][0]["invite"], &invites["items"][0]["remaining"]), (&json!(invite), &json!(3)));
    let revoke = format!("{path}/invites/{invite}");
    assert_eq!(lab.send("DELETE", &revoke, &lab.authorization()).await.status, 200);
    assert_eq!(lab.send("DELETE", &revoke, &lab.authorization()).await.problem(404), "not-found");
    let nowhere = format!("/v1/networks/{}", "7".repeat(32));
    for path in [nowhere.clone(), format!("{nowhere}/invites")] {
        assert_eq!(lab.get(&path).await.problem(404), "not-found");
    }
    whole.end().await;
}

#[tokio::test]
async fn an_operator_does_what_the_owner_could() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let (anna, bert) = (whole.client(1, "anna").await, whole.client(2, "bert").await);
    let network = whole.network("friday", anna).await;
    whole.join(network, bert).await;
    let path = format!("/v1/networks/{network}");
    let any = format!("{}If-Match: *\r\n", lab.authorization());
    let patch = async |terms: Value| lab.json_as(&any, "PATCH", &path, &terms).await;
    let shown = async || lab.get(&path).await.ok();

    assert_eq!(patch(json!({ "name": "samstag d'\u{e9}t\u{e9}" })).await.status, 200);
    assert_eq!(patch(json!({ "locked": true })).await.status, 200);
    assert_eq!(patch(json!({ "approval": true })).await.status, 200);
    let now = shown().await;
    assert_eq!(
        (&now["name"], &now["locked"], &now["approval"]),
        (&json!("samstag d'\u{e9}t\u{e9}"), &json!(true), &json!(true))
    );
    assert_eq!(patch(json!({ "locked": false })).await.status, 200);
    whole.network("taken", bert).await;
    assert_eq!(patch(json!({ "name": "TAKEN" })).await.problem(409), "name-taken");
    for bad in [
        json!({}),
        json!({ "locked": true, "approval": true }),
        json!({ "name": "" }),
        json!({ "name": "x".repeat(65) }),
        json!({ "x": 1 }),
    ] {
        assert_eq!(patch(bad.clone()).await.problem(400), "invalid-body", "{bad}");
    }

    let member = |client| format!("{path}/members/{client}");
    assert_eq!(lab.send("DELETE", &member(anna), &lab.authorization()).await.problem(409), "is-owner");
    assert_eq!(patch(json!({ "owner": bert })).await.status, 200);
    assert_eq!(shown().await["owner"], json!(bert));
    assert_eq!(lab.send("DELETE", &member(anna), &lab.authorization()).await.status, 200);
    assert_eq!(lab.send("DELETE", &member(anna), &lab.authorization()).await.problem(404), "not-found");
    let ban = format!("{path}/bans/{anna}");
    assert_eq!(lab.send("PUT", &ban, &lab.authorization()).await.status, 200);
    assert_eq!(lab.send("PUT", &ban, &lab.authorization()).await.status, 200, "once more changes nothing");
    assert_eq!(shown().await["bans"][0]["client"], json!(anna));
    assert_eq!(lab.send("DELETE", &ban, &lab.authorization()).await.status, 200);
    assert_eq!(lab.send("DELETE", &ban, &lab.authorization()).await.problem(404), "not-found");

    let deleted = lab.send("DELETE", &path, &any).await;
    assert_eq!(deleted.status, 200, "{}", deleted.body);
    assert_eq!(lab.get(&path).await.problem(404), "not-found");
    let entry = lab.get("/v1/audit?action=networks_delete&limit=1").await.ok()["items"][0].clone();
    assert_eq!((&entry["before"]["name"], &entry["object"]), (&json!("samstag d'\u{e9}t\u{e9}"), &json!(path)));
    whole.end().await;
}

#[tokio::test]
async fn a_network_that_changed_is_not_changed_again_by_who_has_not_seen_it() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let anna = whole.client(1, "anna").await;
    let path = format!("/v1/networks/{}", whole.network("friday", anna).await);
    let tag = lab.get(&path).await.header("etag").unwrap().to_owned();
    let headers = format!("{}If-Match: {tag}\r\n", lab.authorization());
    let answers: Vec<Answer> = futures_util::future::join_all((0..64).map(|nth| {
        let terms = json!({ "name": format!("friday {nth}") });
        let (headers, path) = (&headers, &path);
        async move { lab.json_as(headers, "PATCH", path, &terms).await }
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 412)));
    assert_eq!(lab.send("DELETE", &path, &headers).await.problem(412), "changed-meanwhile");
    assert_eq!(lab.send("DELETE", &path, &lab.authorization()).await.problem(428), "precondition-required");
    whole.end().await;
}
