//! Two relays, and what becomes of a pair whose relay is killed, drained or told to end. Only a cluster has two.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use crate::{
    cluster::SECOND_RELAY,
    nat::Nat,
    process::eventually,
    scenarios::{Pair, World},
    traffic::{Ping, Pinged, Transfer},
};

impl World {
    pub(crate) fn a_relay_is_killed_under_traffic(mut self) {
        let pair = self.pair_on_relays();
        let traffic = Traffic::start(&self, &pair);
        let before = self.relay_of(&pair);
        self.servers.kill_one(before.process);
        eventually("the pair is on the other relay", RECOVERY, || {
            self.relays_of(&pair).iter().all(|relay| *relay != before.relay).then_some(())
        });
        Ping::for_seconds(&self.lab, pair.bert.host(), pair.anna.address6(), 3).assert_uninterrupted();
        let (there, back) = traffic.stop();
        for pinged in [&there, &back] {
            // Five a second: three seconds, and what a busy machine adds.
            assert!((1..=18).contains(&pinged.longest_gap()), "{pinged:?}");
            assert!(pinged.lost.len() <= 18, "nothing but the move costs packets: {pinged:?}");
        }
        let why = pair.anna.why(pair.bert_at).unwrap();
        let losses = why["choice"]["losses"].as_array().unwrap();
        assert!(losses.iter().any(|loss| loss["relay"] == before.relay.as_str()), "{why}");
    }

    /// By the operator, who then takes it back; and the other one by the signal that ends it.
    pub(crate) fn relays_are_drained_under_traffic(mut self) {
        let pair = self.pair_on_relays();
        let traffic = Traffic::start(&self, &pair);
        let first = self.relay_of(&pair);
        let order = |relay: &str, word: &str| self.admin("POST", &format!("/v1/relays/{relay}/{word}"));
        let drained = order(&first.relay, "drain");
        assert_eq!(drained["draining"], true, "{drained}");
        let second = eventually("both are on the other relay", RECOVERY, || {
            let relays = self.relays_of(&pair);
            (relays[0] == relays[1] && relays[0] != first.relay).then(|| self.relay_of(&pair))
        });
        eventually("the relay is empty", RECOVERY, || {
            let relay = self.relay(&first.relay)?;
            assert_eq!(relay["draining"], true, "{relay}");
            (relay["slots"] == 0).then_some(())
        });
        order(&first.relay, "resume");
        eventually("the relay takes pairs again", RECOVERY, || {
            (self.relay(&first.relay)?["draining"] == false).then_some(())
        });

        self.servers.end_one(second.process, RECOVERY);
        eventually("both are back on the first relay", RECOVERY, || {
            self.relays_of(&pair).iter().all(|relay| *relay == first.relay).then_some(())
        });
        let (there, back) = traffic.stop();
        there.assert_uninterrupted();
        back.assert_uninterrupted();
    }

    /// Two homes that may only use relays, of which there are two.
    fn pair_on_relays(&mut self) -> Pair {
        self.servers.start_one(&self.lab, SECOND_RELAY);
        let pair = self.relayed_pair(Nat::Home, Nat::Home);
        pair.wait("relay");
        let why = pair.anna.why(pair.bert_at).unwrap();
        assert_eq!(why["choice"]["candidates"].as_array().unwrap().len(), 2, "{why}");
        pair
    }

    /// What each of them says that it uses.
    fn relays_of(&self, pair: &Pair) -> [String; 2] {
        [(&pair.anna, pair.bert_at), (&pair.bert, pair.anna_at)].map(|(client, other): (_, Ipv4Addr)| {
            client.sees(other).unwrap()["relay"].as_str().unwrap_or_default().to_owned()
        })
    }

    fn relay_of(&self, pair: &Pair) -> Relay {
        let [relay, other] = self.relays_of(pair);
        assert_eq!(relay, other);
        let streams = self.relay(&relay).unwrap()["streams"][0].as_str().unwrap().to_owned();
        let process = if streams.ends_with(":443") { "relay" } else { SECOND_RELAY };
        Relay { relay, process }
    }

    /// As operators see it.
    fn relay(&self, id: &str) -> Option<Value> {
        let relays = self.admin("GET", "/v1/relays");
        relays["items"].as_array().unwrap().iter().find(|relay| relay["relay"] == id).cloned()
    }

    fn admin(&self, method: &str, path: &str) -> Value {
        let token = self.servers.cluster().operator_token();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let mut answer = String::new();
        self.lab.servers().enter(|| {
            let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 12_980))).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_string(&mut answer).unwrap();
        });
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 20"), "{answer}");
        serde_json::from_str(body).unwrap()
    }
}

/// A relay, and the process that it is.
struct Relay {
    relay: String,
    process: &'static str,
}

/// Pings both ways and a TCP transfer, all through the tunnel.
struct Traffic {
    there: Ping,
    back: Ping,
    transfer: Transfer,
}

impl Traffic {
    fn start(world: &World, pair: &Pair) -> Self {
        let there = Ping::start(&world.lab, pair.anna.host(), pair.bert_at);
        let back = Ping::start(&world.lab, pair.bert.host(), pair.anna_at);
        Self { there, back, transfer: Transfer::start(&pair.anna, &pair.bert) }
    }

    /// Checks that every byte arrived.
    fn stop(self) -> (Pinged, Pinged) {
        let bytes = self.transfer.finish();
        assert!(bytes > 0, "there was a transfer");
        (self.there.stop(), self.back.stop())
    }
}

/// What moving may take, with everything that looks on.
const RECOVERY: Duration = Duration::from_secs(45);
