//! Messages between users, end to end: the servers never see one.

use serde_json::{Value, json};

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{pair, wait},
};

#[test]
fn a_message_is_delivered_through_the_tunnel_also_while_no_server_answers() {
    let mut deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    bert.run(&["nick", "Bert"]).ok();
    wait(&anna, &bert.address4(), "any");
    until(|| anna.run(&["chat", "--history", "Bert"]).status == 0);

    let sent = anna.run(&["chat", "Bert", "hi", "there", "--wait", "60s"]).ok();
    assert_eq!(
        (&sent["state"], &sent["direction"], &sent["nick"]),
        (&json!("delivered"), &json!("out"), &json!("Bert"))
    );
    assert_eq!((&sent["text"], &sent["peer"]), (&json!("hi there"), &json!(bert.id())));
    assert_eq!(bert.status()["unread_messages"], 1);
    let heard = bert.run(&["chat"]).ok();
    assert_eq!(heard.as_array().unwrap().len(), 1);
    assert_eq!((&heard[0]["id"], &heard[0]["state"]), (&sent["id"], &json!("received")));
    assert_eq!((&heard[0]["unread"], &heard[0]["text"]), (&json!(true), &json!("hi there")));
    assert_eq!(bert.status()["unread_messages"], 0);

    deployment.kill();
    let long = "ü".repeat(1_000);
    let sent = bert.run_with_input(&["chat", &anna.id(), "-", "--wait", "60s"], &format!("{long}\n")).ok();
    assert_eq!(sent["state"], "delivered");
    let heard = anna.run(&["chat", "--history", "--last", "1"]).ok();
    assert_eq!((heard.as_array().unwrap().len(), heard[0]["text"].as_str()), (1, Some(long.as_str())));
    deployment.restart();
}

#[test]
fn what_is_said_to_somebody_away_comes_in_order_over_restarts_of_both() {
    let deployment = Deployment::embedded();
    let (mut anna, mut bert) = pair(deployment.server());
    let (anna_id, bert_id) = (anna.id(), bert.id());
    wait(&anna, &bert.address4(), "any");
    bert.stop();
    until(|| anna.run(&["peers"]).ok()[0]["presence"] == "offline");
    let said: Vec<_> = (0..5).map(|number| format!("message {number}")).collect();
    for text in &said {
        assert_eq!(anna.run(&["chat", &bert_id, text]).ok()["state"], "waiting");
    }
    assert_eq!(anna.mode("chats.cbor"), 0o600);

    // What was answered is on the disk.
    anna.kill();
    anna.resume();
    bert.resume();
    until(|| texts(&bert) == said);
    until(|| states(&anna).iter().all(|state| state == "delivered"));
    bert.kill();
    bert.resume();
    assert_eq!(texts(&bert), said, "what was delivered is on the disk");
    assert_eq!(states(&anna).len(), 5);
    wait(&bert, &anna.address4(), "any");
    assert_eq!(bert.run(&["chat", &anna_id, "there", "--wait", "60s"]).ok()["state"], "delivered");
}

#[test]
fn a_network_is_talked_to_as_one_and_whoever_is_banned_says_nothing() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let carl = Device::start(deployment.server());
    carl.join("friday games", "correct horse").ok();
    let (anna_id, bert_id, carl_id) = (anna.id(), bert.id(), carl.id());
    for peer in [&bert, &carl] {
        wait(&anna, &peer.address4(), "any");
    }
    let sent = anna.run(&["chat", "friday games", "all of you", "--wait", "60s"]).ok();
    let sent = sent.as_array().unwrap();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|line| line["state"] == "delivered"), "{sent:?}");
    assert_eq!((texts(&bert), texts(&carl)), (vec!["all of you".to_owned()], vec!["all of you".to_owned()]));

    wait(&carl, &bert.address4(), "any");
    anna.run(&["ban", &carl_id, "friday games"]).ok();
    until(|| [&anna, &bert].iter().all(|peer| peer.run(&["peers"]).ok().as_array().unwrap().len() == 1));
    // Whether or not Carl's daemon knows of the ban already, nobody hears it.
    let refused = carl.run(&["chat", &bert_id, "let me in", "--wait", "1s"]);
    assert_ne!(refused.json["state"], "delivered");
    assert_eq!(anna.run(&["chat", &carl_id, "no"]).refused(), "peer-unknown");
    assert_eq!(anna.run(&["chat", "friday games", "just us", "--wait", "60s"]).ok()[0]["peer"], bert_id.as_str());
    assert_eq!(texts(&bert), ["all of you", "just us"]);
    assert_eq!(anna.run(&["chat", "--history", &carl_id]).ok()[0]["state"], "delivered", "what was said stays");
    assert_eq!(bert.run(&["chat", &anna_id, "yes", "--wait", "60s"]).ok()["state"], "delivered");
}

#[test]
fn spokes_do_not_talk() {
    let deployment = Deployment::embedded();
    let hub = Device::start(deployment.server());
    let (one, two) = (Device::start(deployment.server()), Device::start(deployment.server()));
    hub.run_with_password(&["create", "wheel", "--kind", "hub"], "correct horse").ok();
    one.join("wheel", "correct horse").ok();
    two.join("wheel", "correct horse").ok();
    wait(&one, &hub.address4(), "any");
    assert_eq!(one.run(&["chat", &two.id(), "psst"]).refused(), "peer-unknown");
    let sent = one.run(&["chat", "wheel", "hello hub", "--wait", "60s"]).ok();
    assert_eq!((sent.as_array().unwrap().len(), &sent[0]["peer"]), (1, &json!(hub.id())));
}

#[test]
fn what_is_no_message_is_refused_with_a_code() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let bert_id = bert.id();
    until(|| !anna.run(&["peers"]).ok().as_array().unwrap().is_empty());
    let say = |text: &str| anna.run_with_input(&["chat", &bert_id, "-", "--wait", "60s"], text);
    assert_eq!(say(&"x".repeat(2_000)).ok()["state"], "delivered");
    for text in ["", "\n", &"x".repeat(2_001), &"x".repeat(100_000)] {
        assert_eq!(say(text).refused(), "message-invalid");
    }
    assert_eq!(anna.run(&["chat", &bert_id, &"x".repeat(50_000)]).refused(), "message-invalid");
    assert_eq!(anna.run(&["chat", "nobody", "hi"]).refused(), "peer-unknown");
    assert_eq!(texts(&bert).len(), 1);
    anna.run(&["nick", "friday games"]).ok();
    until(|| bert.run(&["chat", "friday games", "hi"]).status == 1);
    assert_eq!(bert.run(&["chat", "friday games", "hi"]).refused(), "peer-ambiguous");
    let network = bert.status()["networks"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(bert.run(&["chat", &network, "hi", "--wait", "60s"]).ok().as_array().unwrap().len(), 1);
    for usage in [&["chat", "--follow", &bert_id, "hi"][..], &["chat", "--history", &bert_id, "hi"]] {
        assert_eq!(anna.run(usage).status, 2);
    }
}

#[test]
fn who_follows_sees_messages_as_they_come_and_nothing_that_moves_the_cursor() {
    let deployment = Deployment::embedded();
    let (anna, bert) = pair(deployment.server());
    let (anna_id, bert_id) = (anna.id(), bert.id());
    wait(&anna, &bert.address4(), "any");
    let mut news = bert.follow(&["chat", "--follow"]);
    // Until the follower is there, what comes may have come before.
    let first = loop {
        anna.run(&["chat", &bert_id, "knock", "--wait", "60s"]).ok();
        if bert.status()["unread_messages"] == 0 {
            break news.next();
        }
        bert.run(&["chat"]).ok();
    };
    assert_eq!(
        (&first["text"], &first["state"], &first["peer"]),
        (&json!("knock"), &json!("received"), &json!(anna_id))
    );
    anna.run(&["chat", &bert_id, "\u{1b}[2J\u{202e}gone", "--wait", "60s"]).ok();
    let line = loop {
        let line = news.next_line();
        if !line.contains("knock") {
            break line;
        }
    };
    assert!(line.is_ascii() && line.contains("\\u001b[2J\\u202egone"), "{line}");
    bert.run(&["chat", &anna_id, "stop it", "--wait", "60s"]).ok();
    let own = news.next();
    assert_eq!(
        (&own["text"], &own["state"], &own["direction"]),
        (&json!("stop it"), &json!("delivered"), &json!("out"))
    );
    let shown = bert.text(&["chat", "--history", "--last", "2"]);
    assert!(shown.contains("\\u{1b}[2J\\u{202e}gone") && !shown.contains('\u{1b}'), "{shown}");
}

fn texts(device: &Device) -> Vec<String> {
    fields(device, "in", "text")
}

fn states(device: &Device) -> Vec<String> {
    fields(device, "out", "state")
}

fn fields(device: &Device, direction: &str, field: &str) -> Vec<String> {
    let lines: Value = device.run(&["chat", "--history"]).ok();
    let wanted = lines.as_array().unwrap().iter().filter(|line| line["direction"] == direction);
    wanted.map(|line| line[field].as_str().unwrap().to_owned()).collect()
}

/// Waits for what happens on its own. The runner's time-out ends a wait in vain.
fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {}
}
