//! An OpenID provider on this machine: discovery, keys, and codes for tokens, as faithful as the flow needs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    digest,
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use url::{Url, form_urlencoded};

pub(crate) const CLIENT: &str = "buri-test";
pub(crate) const SECRET: &str = "s3cret & more";

/// A key of the provider, made once for the tests.
const RSA: &[u8] = include_bytes!("provider.pk8");

/// How the provider signs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signs {
    Rsa,
    Ec,
    Ed,
}

pub(crate) struct Provider {
    pub(crate) issuer: String,
    state: Arc<Mutex<State>>,
    _task: JoinSet<()>,
}

struct State {
    issuer: String,
    keys: Keys,
    signs: Signs,
    kid: String,
    codes: BTreeMap<String, Granted>,
    asked: u32,
}

struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

/// A code, and what is said to whoever has it.
struct Granted {
    challenge: String,
    redirect: String,
    claims: Value,
}

impl Provider {
    pub(crate) async fn start(signs: Signs) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let keys = Keys {
            rsa: RsaKeyPair::from_pkcs8(RSA).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).unwrap(),
            ed: Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap(),
        };
        let state = State { issuer: issuer.clone(), keys, signs, kid: "one".into(), codes: BTreeMap::new(), asked: 0 };
        let state = Arc::new(Mutex::new(state));
        let mut task = JoinSet::new();
        task.spawn(serve(listener, Arc::clone(&state)));
        Self { issuer, state, _task: task }
    }

    /// Somebody logs in at the page that `url` names: a code for the claims that `change` makes of the usual ones.
    pub(crate) fn grant(
        &self,
        url: &str,
        subject: &str,
        email: &str,
        change: impl FnOnce(&mut Value),
    ) -> (String, String) {
        let url = Url::parse(url).unwrap();
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!((query["client_id"].as_str(), query["response_type"].as_str()), (CLIENT, "code"));
        assert_eq!((query["scope"].as_str(), query["code_challenge_method"].as_str()), ("openid email", "S256"));
        let now = domain::UnixMillis::from(std::time::SystemTime::now()).0 / 1_000;
        let mut claims = json!({
            "iss": self.issuer, "aud": CLIENT, "sub": subject, "nonce": query["nonce"], "iat": now, "exp": now + 300,
            "email": email, "email_verified": true,
        });
        change(&mut claims);
        let mut state = self.state.lock().unwrap();
        let code = format!("code-{}", state.codes.len());
        let granted =
            Granted { challenge: query["code_challenge"].clone(), redirect: query["redirect_uri"].clone(), claims };
        state.codes.insert(code.clone(), granted);
        (code, query["state"].clone())
    }

    /// From now on it signs with a key of another name.
    pub(crate) fn rename_key(&self, kid: &str) {
        self.state.lock().unwrap().kid = kid.to_owned();
    }

    /// How often it was asked for its keys.
    pub(crate) fn asked(&self) -> u32 {
        self.state.lock().unwrap().asked
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        // A client that goes away has its reasons.
        let _ = answer(stream, &state).await;
    }
}

async fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let read = stream.read(&mut piece).await?;
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8(request.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
        if body.len() >= length {
            break (head.to_owned(), body.to_owned());
        }
    };
    let (status, document) = state.lock().unwrap().respond(&head, &body);
    let text = document.to_string();
    // In two chunks, as some do.
    let (one, two) = text.split_at(text.len() / 2);
    let chunks = format!("{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len());
    let head = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close";
    stream.write_all(format!("HTTP/1.1 {status} X\r\n{head}\r\n\r\n{chunks}").as_bytes()).await?;
    stream.shutdown().await
}

impl State {
    fn respond(&mut self, head: &str, body: &str) -> (u16, Value) {
        let issuer = &self.issuer;
        let line = head.lines().next().unwrap();
        if line.starts_with("GET /.well-known/openid-configuration ") {
            let document = json!({
                "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize?tenant=1"),
                "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys"),
            });
            return (200, document);
        }
        if line.starts_with("GET /keys ") {
            self.asked += 1;
            return (200, json!({ "keys": [{ "kty": "oct", "k": "AA" }, self.public()] }));
        }
        assert!(line.starts_with("POST /token "), "{line}");
        match self.redeem(head, body) {
            Some(claims) => {
                (200, json!({ "access_token": "x", "token_type": "Bearer", "id_token": self.sign(&claims) }))
            }
            None => (400, json!({ "error": "invalid_grant" })),
        }
    }

    /// The claims behind a code, once, for who has the secret, the verifier and the same redirect.
    fn redeem(&mut self, head: &str, body: &str) -> Option<Value> {
        let form: BTreeMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let encoded: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
        let basic = format!("Authorization: Basic {}", STANDARD.encode(format!("{CLIENT}:{encoded}")));
        if !head.lines().any(|line| line == basic) || form["grant_type"] != "authorization_code" {
            return None;
        }
        let granted = self.codes.remove(&form["code"])?;
        let challenge = digest::digest(&digest::SHA256, form["code_verifier"].as_bytes());
        let proved = granted.challenge == URL_SAFE_NO_PAD.encode(challenge.as_ref());
        (proved && granted.redirect == form["redirect_uri"]).then_some(granted.claims)
    }

    fn public(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut key = match self.signs {
            Signs::Rsa => {
                let public: rsa::PublicKeyComponents<Vec<u8>> = self.keys.rsa.public().into();
                json!({ "kty": "RSA", "alg": "RS256", "n": text(&public.n), "e": text(&public.e) })
            }
            Signs::Ec => {
                let point = self.keys.ec.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..]) })
            }
            Signs::Ed => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(self.keys.ed.public_key().as_ref()) }),
        };
        key["kid"] = json!(self.kid);
        key["use"] = json!("sig");
        key
    }

    fn sign(&self, claims: &Value) -> String {
        // A claim of this name forges the header.
        let algorithm = match self.signs {
            Signs::Rsa => "RS256",
            Signs::Ec => "ES256",
            Signs::Ed => "EdDSA",
        };
        let mut header = json!({ "alg": algorithm, "kid": self.kid, "typ": "JWT" });
        if let Some(forged) = claims.get("forged_header").and_then(Value::as_object) {
            header.as_object_mut().unwrap().extend(forged.clone());
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let random = SystemRandom::new();
        let signature = match self.signs {
            Signs::Rsa => {
                let mut signature = vec![0; self.keys.rsa.public().modulus_len()];
                self.keys.rsa.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Signs::Ec => self.keys.ec.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Signs::Ed => self.keys.ed.sign(message.as_bytes()).as_ref().to_vec(),
        };
        let mut signature = URL_SAFE_NO_PAD.encode(signature);
        if claims.get("forged_signature").is_some() {
            signature = URL_SAFE_NO_PAD.encode([7; 64]);
        }
        format!("{message}.{signature}")
    }
}
