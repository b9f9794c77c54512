//! What must not be in any log: no secret at any level; at the usual one no client's address and no name either.

use std::net::IpAddr;

use contract::token::{Session, SigningKey};
use domain::{ClientId, IdentityKey, TunnelKey, UnixMillis};
use minicbor::Decoder;

use crate::{
    deployment::Deployment,
    device::Device,
    journeys::{ping, wait},
    needles::{Haystack, Needle},
    operators::{get, http},
};

const PASSWORD: &str = "quagga-tinsel-91";
const NEW_PASSWORD: &str = "pangolin-orbit-44";
const WRONG_PASSWORD: &str = "zebra-garland-17";
const WRONG_TOKEN: &str = "wrong-operator-token-f00dfeedf00dfeed";
const NETWORK: &str = "Kumquat Circle";
const OTHER_NETWORK: &str = "Yuzu Circle";
const NICKNAME: &str = "Wolperting";

/// Below these lines nothing that the test relies on was logged at all.
const SIGNS_OF_LIFE: [&str; 3] = ["relay forwards", "draining", "role ended"];

#[test]
fn the_usual_logs_name_no_client() {
    let mut play = Play::begin("", None);
    play.run();

    for (who, log) in play.logs() {
        let log = Haystack::new(&log);
        for name in [NETWORK, OTHER_NETWORK, NICKNAME] {
            assert!(!log.names(name), "{name} is in the log of {who}");
        }
        let foreign: Vec<_> = log.addresses().into_iter().filter(|(address, _)| !play.is_a_servers(*address)).collect();
        assert!(foreign.is_empty(), "addresses in the log of {who}: {foreign:#?}");
    }
    play.assert_no_secret_is_logged();
}

#[test]
fn logs_hold_no_secret_at_any_level() {
    let mut play = Play::begin("[log]\nfilter = \"trace\"\n", Some("trace"));
    play.run();

    for (who, log) in play.logs().iter().filter(|(who, _)| *who != "metrics") {
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "{who} logs no more than usual");
    }
    play.assert_no_secret_is_logged();
}

/// Some devices that do everything that a user can do.
struct Play {
    deployment: Deployment,
    /// In the network with the right password.
    anna: Device,
    bert: Device,
    /// Must not go directly.
    carl: Device,
    metrics: String,
    /// What was kept at the height of the play, before they left.
    secrets: Vec<Needle>,
}

impl Play {
    fn begin(config: &str, log_filter: Option<&'static str>) -> Self {
        let deployment = Deployment::with_config(config);
        let (address, key) = deployment.server().split_once('#').unwrap();
        // Nobody listens there: this client comes through the WebSocket.
        let host = address.trim_start_matches("buri://").split(':').next().unwrap();
        let closed = format!("buri://{host}:9#{key}");
        let anna = Device::start_logging(deployment.server(), &[], log_filter);
        let bert = Device::start_logging(&closed, &[], log_filter);
        let carl = Device::start_logging(deployment.server(), &["--path", "relay"], log_filter);
        Self { deployment, anna, bert, carl, metrics: String::new(), secrets: Vec::new() }
    }

    fn run(&mut self) {
        let Self { deployment, anna, bert, carl, .. } = self;
        anna.create(NETWORK, PASSWORD).ok();
        assert_eq!(bert.join(NETWORK, WRONG_PASSWORD).refused(), "network-denied");
        assert_eq!(bert.join(OTHER_NETWORK, WRONG_PASSWORD).refused(), "network-denied");
        bert.join(NETWORK, PASSWORD).ok();
        carl.join(NETWORK, PASSWORD).ok();
        bert.run(&["nick", NICKNAME]).ok();
        let (anna_at, bert_at) = (anna.address4(), bert.address4());
        wait(anna, &bert_at, "direct");
        wait(carl, &bert_at, "relay");
        ping(anna, &bert_at, "2");
        ping(carl, &bert_at, "2");
        anna.run(&["why", &bert_at]).ok();
        carl.run(&["why", &bert_at]).ok();

        let sessions = get(deployment, "/v1/sessions");
        assert_eq!(sessions["items"].as_array().unwrap().len(), 3, "{sessions}");
        get(deployment, "/v1/networks");
        get(deployment, &format!("/v1/pairs/{}/{}", anna.id(), bert.id()));
        let wrong = format!("Authorization: Bearer {WRONG_TOKEN}\r\n");
        assert_eq!(http(deployment.admin(), "/v1/sessions", &wrong).0, 401);
        self.metrics = http(deployment.ops(), "/metrics", "").1;

        // A client that restarts finds its state, one whose server restarts resumes with its token.
        bert.kill();
        bert.resume();
        wait(bert, &anna_at, "direct");
        deployment.kill();
        deployment.restart();
        anna.create(OTHER_NETWORK, PASSWORD).ok();
        // Newer secrets, each sealed for those who are there.
        assert_eq!(anna.set_pass(NETWORK, NEW_PASSWORD).ok()["epoch"], 2);
        renewed(&[anna, bert, carl], 2);
        let invite = anna.run(&["invite", NETWORK]).ok()["invite"].as_str().unwrap().to_owned();
        assert_eq!(anna.set_pass(NETWORK, PASSWORD).ok()["sealed"], 2);
        renewed(&[anna, bert, carl], 3);
        let digits = invite.trim_start_matches("buri-invite:").as_bytes().chunks(2);
        let link: Vec<u8> = digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        self.secrets = self.secrets();
        self.secrets.push(Needle::new("an invite", &link));
        self.assert_no_secret_is_stored(&link);
        let Self { deployment, anna, bert, .. } = self;
        bert.run(&["leave", NETWORK]).ok();
        anna.run(&["leave", NETWORK]).ok();
        assert!(deployment.terminate());
    }

    /// Everything that must stay secret.
    fn secrets(&self) -> Vec<Needle> {
        let mut needles = vec![
            Needle::new("the password", PASSWORD.as_bytes()),
            Needle::new("the new password", NEW_PASSWORD.as_bytes()),
            Needle::new("the wrong password", WRONG_PASSWORD.as_bytes()),
            Needle::new("the operator's token", self.deployment.operator_token().as_bytes()),
            Needle::new("the wrong operator's token", WRONG_TOKEN.as_bytes()),
            Needle::new("the start of all session tokens", self.token_header().as_bytes()),
            Needle::new("the key of tokens", &self.token_seed()),
        ];
        for name in ["server.key", "tickets.key", "observations.key", "membership.key", "opaque.setup"] {
            needles.push(Needle::new(name, &self.deployment.secret(name)));
        }
        let pem = String::from_utf8(self.deployment.secret("tls.key")).unwrap();
        // Its first line, between the marks, says only what kind of key it is.
        needles.extend(
            pem.lines().skip(2).filter(|line| line.len() == 64).map(|line| Needle::new("tls.key", line.as_bytes())),
        );
        for (who, device) in [("anna", &self.anna), ("bert", &self.bert), ("carl", &self.carl)] {
            for key in ["identity.key", "tunnel.key"] {
                needles.push(Needle::new(format!("{key} of {who}"), &device.kept(key)));
            }
            needles.extend(kept_secrets(who, &device.kept("view.cbor")));
        }
        needles
    }

    /// The private half, without what says that it is one (RFC 8410).
    fn token_seed(&self) -> Vec<u8> {
        self.deployment.secret("token-keys/0001.pk8")[16..48].to_vec()
    }

    /// How every token of this deployment begins.
    fn token_header(&self) -> String {
        let key = SigningKey::from_pkcs8("0001", &self.deployment.secret("token-keys/0001.pk8")).unwrap();
        let identity = IdentityKey::try_from(&[1; 32][..]).unwrap();
        let tunnel = TunnelKey::try_from(&[9; 32][..]).unwrap();
        let session = Session { client: ClientId::of(&identity), identity, tunnel, expires: UnixMillis(1) };
        key.sign(&session, UnixMillis(0)).unwrap().split('.').next().unwrap().to_owned()
    }

    /// The whole database, and what is written ahead of it, holds no secret of any network as it is.
    fn assert_no_secret_is_stored(&self, link: &[u8]) {
        let stored = self.deployment.database();
        assert!(stored.iter().map(Vec::len).sum::<usize>() > 4096, "is this the database?");
        let holds = |bytes: &[u8]| stored.iter().any(|file| file.windows(bytes.len()).any(|window| window == bytes));
        assert!(holds(NETWORK.as_bytes()), "what is no secret is there");
        let mut secrets = vec![link.to_vec(), PASSWORD.into(), NEW_PASSWORD.into()];
        for device in [&self.anna, &self.bert, &self.carl] {
            // The newest, the door, and two before it: they are on disk a moment after they are used.
            while raw_secrets(&device.kept("view.cbor")).len() < 4 {}
            secrets.extend(raw_secrets(&device.kept("view.cbor")));
        }
        // Their beginnings as well: a page may end in the middle.
        for secret in &secrets {
            assert!(!holds(&secret[..12]), "the database holds a secret");
        }
    }

    fn logs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("the servers", self.deployment.log()),
            ("anna", self.anna.log()),
            ("bert", self.bert.log()),
            ("carl", self.carl.log()),
            ("metrics", self.metrics.clone()),
        ]
    }

    fn is_a_servers(&self, address: IpAddr) -> bool {
        self.deployment.bound().contains(&address)
    }

    fn assert_no_secret_is_logged(&self) {
        let servers = self.deployment.log();
        assert!(SIGNS_OF_LIFE.iter().all(|sign| servers.contains(sign)), "{servers}");
        let mut found = Vec::new();
        for (who, log) in self.logs() {
            assert!(!log.is_empty(), "{who} logs nothing");
            let log = Haystack::new(&log);
            found.extend(self.secrets.iter().filter_map(|secret| Some((who, secret.found_in(&log)?))));
        }
        assert!(found.is_empty(), "{found:#?}");
    }
}

/// The networks' secrets, tickets and leg keys in what a client keeps over restarts.
fn kept_secrets(who: &str, view: &[u8]) -> Vec<Needle> {
    const NETWORKS: u64 = 5;
    let mut needles = Vec::new();
    let mut decoder = Decoder::new(view);
    decoder.array().unwrap();
    skip(&mut decoder, NETWORKS);
    for _ in 0..decoder.array().unwrap().unwrap() {
        let fields = decoder.array().unwrap().unwrap();
        skip(&mut decoder, 3);
        needles.push(Needle::new(format!("a network's secret of {who}"), decoder.bytes().unwrap()));
        skip(&mut decoder, fields - 4);
    }
    let networks = needles.len();
    for _ in 0..decoder.array().unwrap().unwrap() {
        let fields = decoder.array().unwrap().unwrap();
        skip(&mut decoder, 2);
        let offered = decoder.array().unwrap().unwrap();
        skip(&mut decoder, 3);
        needles.push(Needle::new(format!("a ticket of {who}"), decoder.bytes().unwrap()));
        needles.push(Needle::new(format!("a leg key of {who}"), decoder.bytes().unwrap()));
        skip(&mut decoder, offered - 5 + fields - 3);
    }
    assert!(networks > 0 && needles.len() > networks, "{who} keeps no secrets: is this another form?");
    needles
}

fn renewed(devices: &[&Device], epoch: u64) {
    for device in devices {
        let is_renewed = |network: &serde_json::Value| {
            network["name"] == NETWORK && network["secret_epoch"] == epoch && network["secret_proved"] == true
        };
        while !device.status()["networks"].as_array().unwrap().iter().any(is_renewed) {}
    }
}

/// All secrets of networks that a client keeps, as they are.
fn raw_secrets(view: &[u8]) -> Vec<Vec<u8>> {
    const NETWORKS: u64 = 5;
    let mut secrets = Vec::new();
    let mut decoder = Decoder::new(view);
    decoder.array().unwrap();
    skip(&mut decoder, NETWORKS);
    let one = |decoder: &mut Decoder<'_>| {
        let fields = decoder.array().unwrap().unwrap();
        skip(decoder, 1);
        let secret = decoder.bytes().unwrap().to_vec();
        skip(decoder, fields - 2);
        secret
    };
    for _ in 0..decoder.array().unwrap().unwrap() {
        let fields = decoder.array().unwrap().unwrap();
        skip(&mut decoder, 8);
        let parts = decoder.array().unwrap().unwrap();
        secrets.extend([one(&mut decoder), one(&mut decoder)]);
        for _ in 0..decoder.array().unwrap().unwrap() {
            secrets.push(one(&mut decoder));
        }
        skip(&mut decoder, parts - 3 + fields - 9);
    }
    secrets
}

fn skip(decoder: &mut Decoder<'_>, items: u64) {
    for _ in 0..items {
        decoder.skip().unwrap();
    }
}
