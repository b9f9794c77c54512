//! The `lists` scenario: how soon the admin API answers with a page of a list where many are registered.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use domain::{ClientId, IdentityKey, Signature, TunnelKey, UnixMillis};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use store::{JoinError, Login, NewNetwork, StoreOptions, Stores};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::deployment::Server;

/// No page is asked for sooner than the limits of the API allow.
const CONFIG: &str = "[log]\nfilter = \"error\"\n[admin]\nrequests_per_minute = 1000000\n";

/// What is asked for; `#` in it stands for something drawn.
const LISTS: &[List] = &[
    List { path: "/v1/clients?limit=100", about: Drawn::Nothing },
    List { path: "/v1/clients?nick=client-#", about: Drawn::Number },
    List { path: "/v1/clients?address=#", about: Drawn::Address },
    List { path: "/v1/networks?limit=100", about: Drawn::Nothing },
    List { path: "/v1/networks?name=network-#", about: Drawn::Number },
    List { path: "/v1/networks/#/members?limit=100", about: Drawn::Network },
    List { path: "/v1/networks/#/invites", about: Drawn::Network },
    List { path: "/v1/networks/#", about: Drawn::Network },
    List { path: "/v1/clients/#", about: Drawn::Client },
    List { path: "/v1/accounts?limit=100", about: Drawn::Nothing },
    List { path: "/v1/audit?limit=100", about: Drawn::Nothing },
    List { path: "/v1/sessions?limit=100", about: Drawn::Nothing },
    List { path: "/v1/usage?limit=100", about: Drawn::Nothing },
    List { path: "/v1/tokens?limit=100", about: Drawn::Nothing },
    List { path: "/v1/plans", about: Drawn::Nothing },
    List { path: "/v1/relays", about: Drawn::Nothing },
    List { path: "/v1/overview", about: Drawn::Nothing },
];

/// How much is registered, and how often it is asked for.
#[derive(Debug, Args)]
pub(crate) struct Lists {
    /// The database, which is filled: `postgres://...`, or `sqlite:///...`. What an earlier run registered is found again.
    #[arg(long, value_name = "URL")]
    store: String,
    /// Clients.
    #[arg(long, default_value_t = 100_000)]
    clients: u32,
    /// Networks, with up to eight members each.
    #[arg(long, default_value_t = 50_000)]
    networks: u32,
    /// Questions to each list: page after page, as far as they go, and from the beginning again.
    #[arg(long, default_value_t = 500)]
    questions: u32,
    /// Where everything drawn comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail when 1 % of the answers of one list take longer, in milliseconds.
    #[arg(long)]
    most_p99: Option<f64>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

struct List {
    path: &'static str,
    about: Drawn,
}

#[derive(Clone, Copy)]
enum Drawn {
    Nothing,
    Number,
    Address,
    Client,
    Network,
}

/// One connection to the API.
struct Api {
    stream: BufReader<TcpStream>,
    authority: String,
    token: String,
}

/// Fills the database, then asks a server of its own.
pub(crate) async fn run(args: &Lists) -> anyhow::Result<()> {
    store::migrate(&args.store).await?;
    let stores = store::connect(&args.store, StoreOptions { default_plan: "premium".into(), ..Default::default() });
    let stores = stores.await?;
    fill(args, &stores).await?;
    stores.close().await;
    let server = Server::start(&format!("{CONFIG}[store]\nurl = {:?}\n", args.store))?;
    let token = std::fs::read_to_string(server.told("operator_token_file"))?;
    let authority = server.told("admin").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let args = (args.questions, args.seed, args.most_p99, args.json);
    tokio::task::spawn_blocking(move || {
        let stream = BufReader::new(TcpStream::connect(&authority)?);
        ask(&mut Api { stream, authority, token: token.trim().to_owned() }, args)
    })
    .await?
}

fn ask(api: &mut Api, (questions, seed, most, json): (u32, u64, Option<f64>, bool)) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let known = |list: &Value, key: &str| -> Vec<String> {
        let items = list["items"].as_array().into_iter().flatten();
        items.filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
    };
    let clients = api.get("/v1/clients?limit=200")?;
    let (ids, addresses) = (known(&clients, "client"), known(&clients, "address4"));
    let networks = known(&api.get("/v1/networks?limit=200")?, "network");
    ensure!(!ids.is_empty() && !networks.is_empty(), "the API does not list what was registered");
    let (mut worst, mut rows) = (0.0_f64, Vec::new());
    for list in LISTS {
        let mut latencies = Histogram::<u64>::new(3)?;
        let mut cursor: Option<String> = None;
        for _ in 0..questions {
            let mut one = |of: &[String]| of[random.random_range(0..of.len())].clone();
            let drawn = match list.about {
                Drawn::Nothing => String::new(),
                Drawn::Number => random.random_range(0..100_u32).to_string(),
                Drawn::Address => one(&addresses),
                Drawn::Client => one(&ids),
                Drawn::Network => one(&networks),
            };
            let mut path = list.path.replace('#', &drawn);
            if let (Drawn::Nothing, Some(cursor)) = (list.about, &cursor) {
                path += &format!("&cursor={cursor}");
            }
            let began = Instant::now();
            let page = api.get(&path)?;
            latencies.record(u64::try_from(began.elapsed().as_micros())?)?;
            cursor = page["next_cursor"].as_str().map(str::to_owned);
        }
        let [p50, p99] = [0.5, 0.99].map(|quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0);
        worst = worst.max(p99);
        rows.push((list.path, p50, p99));
    }
    if json {
        let lists: Vec<_> =
            rows.iter().map(|(path, p50, p99)| json!({"path": path, "p50_ms": p50, "p99_ms": p99})).collect();
        crate::print(&json!({"scenario": "lists", "seed": seed, "lists": lists}).to_string())?;
    } else {
        crate::print(&format!("{:<36} {:>8} {:>8} ms", "list", "p50", "p99"))?;
        for (path, p50, p99) in rows {
            crate::print(&format!("{path:<36} {p50:>8.1} {p99:>8.1}"))?;
        }
    }
    match most {
        Some(most) if worst > most => {
            bail!("1 % of the answers of a list take longer than {worst:.1} ms; allowed are {most}")
        }
        Some(_) | None => Ok(()),
    }
}

impl Api {
    /// One question over the connection that is kept.
    fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let Self { authority, token, .. } = self;
        let text = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\r\n");
        self.stream.get_mut().write_all(text.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status: u16 = line.split(' ').nth(1).context("no answer")?.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }
}

/// Registers what is not there yet.
async fn fill(args: &Lists, stores: &Stores) -> anyhow::Result<()> {
    let bar = ProgressBar::new(u64::from(args.clients) + u64::from(args.networks));
    let room = Arc::new(Semaphore::new(16));
    let mut random = StdRng::seed_from_u64(args.seed);
    let mut tasks = JoinSet::new();
    for number in 0..args.clients {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let accounts = Arc::clone(&stores.accounts);
        let login = some_login(number, &mut random)?;
        tasks.spawn(async move {
            let client = accounts.login(login, now()).await?.client;
            drop(permit);
            Ok::<_, anyhow::Error>(client)
        });
        bar.inc(1);
    }
    let mut clients = Vec::new();
    while let Some(client) = tasks.join_next().await {
        clients.push(client??);
    }
    clients.sort();

    let mut tasks = JoinSet::new();
    for number in 0..args.networks {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let stores = stores.clone();
        let members = (0..random.random_range(1..=8_u32)).map(|_| clients[random.random_range(0..clients.len())]);
        let members: Vec<_> = members.collect();
        tasks.spawn(async move {
            some_network(number, &members, &stores).await?;
            drop(permit);
            Ok::<_, anyhow::Error>(())
        });
        bar.inc(1);
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    bar.finish_and_clear();
    Ok(())
}

fn some_login(number: u32, random: &mut StdRng) -> anyhow::Result<Login> {
    let mut bytes = [0; 32];
    random.fill_bytes(&mut bytes);
    Ok(Login {
        client: None,
        identity: IdentityKey::from_bytes(bytes),
        tunnel: TunnelKey::from_bytes(bytes),
        tunnel_signature: Signature::from_bytes([0; 64]),
        nick: Some(format!("client-{number}").parse()?),
    })
}

async fn some_network(number: u32, members: &[ClientId], stores: &Stores) -> anyhow::Result<()> {
    let (name, [owner, others @ ..]) = (format!("network-{number}").parse()?, members) else { return Ok(()) };
    let new = NewNetwork { name, owner: *owner, password: vec![0; 192], wrapped_secret: vec![0; 60] };
    // An earlier run made it.
    if !stores.networks.is_free(&new.name).await? {
        return Ok(());
    }
    let network = stores.networks.create(new, now()).await?.whole.network;
    for member in others {
        match stores.networks.join(network, *member, rand::random(), now()).await {
            // The same was drawn twice.
            Ok(_) | Err(JoinError::AlreadyMember) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn now() -> UnixMillis {
    SystemTime::now().into()
}
