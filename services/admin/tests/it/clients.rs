//! Clients: searching for them, and what they have.

use serde_json::{Value, json};

use crate::whole::Whole;

#[tokio::test]
async fn clients_are_found_by_id_nickname_and_address() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let names = ["Anna", "anna 2", "\u{c4}nne", "Bert d'Arc_-.", "ANNA"];
    let mut ids = Vec::new();
    for (number, name) in (1..).zip(names) {
        ids.push(whole.client(number, name).await);
    }
    let network = whole.network("office", ids[3]).await;
    whole.join(network, ids[0]).await;

    let found = async |query: &str| {
        let page = lab.get(&format!("/v1/clients?{query}")).await.ok();
        let nicks = page["items"].as_array().unwrap().iter().map(|client| client["nick"].as_str().unwrap().to_owned());
        nicks.collect::<Vec<_>>()
    };
    let mut annas = found("nick=aNN").await;
    annas.sort();
    assert_eq!(annas, ["ANNA", "Anna", "anna 2"]);
    assert_eq!(found("nick=%C3%A4N").await, ["\u{c4}nne"]);
    assert_eq!(found("nick=bert%20d%27arc_").await, ["Bert d'Arc_-."]);
    assert!(found("nick=%25").await.is_empty() && found("nick=_").await.is_empty());
    assert_eq!(found(&format!("id={}", ids[1])).await, ["anna 2"]);
    assert_eq!(found(&format!("id={}", &ids[1].to_string()[..6].to_uppercase())).await, ["anna 2"]);
    let shown = lab.get(&format!("/v1/clients/{}", ids[0])).await.ok();
    assert_eq!(found(&format!("address={}", shown["address4"].as_str().unwrap())).await, ["Anna"]);
    assert_eq!(found("").await.len(), 5);
    for bad in ["id=xyz", "address=1.2.3", "nick=", "nick=a&id=b", "limit=0"] {
        assert_eq!(lab.get(&format!("/v1/clients?{bad}")).await.problem(400), "invalid-parameter", "{bad}");
    }
    whole.end().await;
}

#[tokio::test]
async fn pages_show_everybody_once_also_those_of_one_name() {
    let whole = Whole::new().await;
    for number in 0..23 {
        whole.client(number, "same").await;
    }
    for query in ["", "nick=sam&"] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = whole.lab.get(&format!("/v1/clients?{query}limit=5{cursor}")).await.ok();
            let items = page["items"].as_array().unwrap();
            seen.extend(items.iter().map(|client| client["client"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            assert_eq!(items.len(), 5);
            cursor = format!("&cursor={next}");
        }
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!((count, seen.len()), (23, 23), "{query}");
    }
    whole.end().await;
}

#[tokio::test]
async fn a_client_is_shown_with_its_session_networks_and_usage_and_gets_another_plan() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let anna = whole.client(1, "anna").await;
    whole.network("friday", anna).await;
    let path = format!("/v1/clients/{anna}");
    assert_eq!(lab.get(&path).await.ok()["session"], Value::Null);
    whole.online(anna).await;
    let shown = lab.get(&path).await.ok();
    assert_eq!(shown["session"]["gateway"], whole.gateway.to_string());
    assert_eq!((&shown["networks"][0]["name"], &shown["networks"][0]["role"]), (&json!("friday"), &json!("owner")));
    assert_eq!((&shown["plan"], &shown["blocked"]), (&json!("free"), &json!(false)));

    let plan = format!("{path}/plan");
    let tag = lab.get(&plan).await.header("etag").unwrap().to_owned();
    let headers = format!("{}If-Match: {tag}\r\n", lab.authorization());
    let premium = json!({ "plan": "premium" });
    let assigned = lab.json_as(&headers, "PUT", &plan, &premium).await;
    assert_eq!((assigned.status, assigned.json()), (200, premium.clone()), "{}", assigned.body);
    assert_eq!(lab.json_as(&headers, "PUT", &plan, &premium).await.problem(412), "changed-meanwhile");
    let any = format!("{}If-Match: *\r\n", lab.authorization());
    assert_eq!(lab.json_as(&any, "PUT", &plan, &json!({ "plan": "gold" })).await.problem(409), "no-such-plan");
    let nobody = format!("/v1/clients/{}/plan", "0".repeat(32));
    assert_eq!(lab.json_as(&any, "PUT", &nobody, &premium).await.problem(404), "not-found");
    assert_eq!(lab.get(&path).await.ok()["plan"], "premium");
    let in_use = lab.send("DELETE", "/v1/plans/premium", &any).await;
    assert_eq!(in_use.problem(409), "plan-in-use");
    whole.end().await;
}

#[tokio::test]
async fn usage_is_listed_by_month_and_by_payer() {
    let whole = Whole::new().await;
    let lab = &whole.lab;
    let mut payers = Vec::new();
    for number in 1..4 {
        let client = whole.client(number, "payer").await;
        let report = domain::RelayReport {
            lease: domain::LeaseId::from_bytes([number; 16]),
            payer: client.into(),
            serial: 1,
            spent: 1_000 * u64::from(number),
            ends: true,
            known: false,
        };
        lab.stores.accounts.settle_relay(report, *crate::whole::NOW).await.unwrap();
        payers.push((client.to_string(), report.spent));
    }
    payers.sort();
    let month = domain::Month::of(*crate::whole::NOW).to_string();
    let first = lab.get(&format!("/v1/usage?month={month}&limit=2")).await.ok();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = lab.get(&format!("/v1/usage?month={month}&limit=2&cursor={cursor}")).await.ok();
    let items = [first["items"].as_array().unwrap().as_slice(), second["items"].as_array().unwrap()].concat();
    let seen: Vec<_> =
        items.iter().map(|row| (row["payer"].as_str().unwrap().to_owned(), row["bytes"].as_u64().unwrap())).collect();
    assert_eq!(seen, payers);
    assert_eq!(lab.get("/v1/usage?month=1999-01").await.ok()["items"], json!([]));
    let one = lab.get(&format!("/v1/usage/{}", payers[0].0)).await.ok();
    assert_eq!((&one["items"][0]["month"], &one["items"][0]["bytes"]), (&json!(month), &json!(payers[0].1)));
    whole.end().await;
}
