//! The `joins` scenario: clients join networks by password. How many a second, and what does one cost the server?
//!
//! What a client's stretching of the password costs (Argon2id) is not measured: the tool does it once for each network.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, bail};
use clap::Args;
use domain::{NetworkName, PASSWORD_CONTEXT};
use hdrhistogram::Histogram;
use opaque_ke::{
    CipherSuite, ClientLogin, ClientLoginFinishParameters, ClientRegistration, ClientRegistrationFinishParameters,
    CredentialResponse, Identifiers, RegistrationResponse, Ristretto255, TripleDh,
    argon2::Argon2,
    errors::InternalError,
    generic_array::{ArrayLength, GenericArray},
    ksf::Ksf,
};
use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};
use rand_core::OsRng;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};
use wire::{
    control::{Reply, Request},
    server_url::ServerUrl,
};

use crate::{
    control::CONFIG,
    deployment::{self, Server},
    session::{Session, log_in},
};

const PASSWORD: &[u8] = b"correct horse battery staple";

/// As long as a sealed network secret.
const WRAPPED_SECRET: [u8; 60] = [0; 60];

/// How many clients join.
#[derive(Debug, Args)]
pub(crate) struct Joins {
    /// Clients that join a network each.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=12_000))]
    joins: u32,
    /// Members of each network in the end, its owner included.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=64))]
    members: u32,
    /// Joins under way at once.
    #[arg(long, default_value_t = 32)]
    concurrent: u32,
    /// Where the keys of the clients come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// An empty database, `postgres://...`, instead of a SQLite file.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Fail when two cores could serve fewer a second.
    #[arg(long)]
    least: Option<f64>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the scenario against a server of its own.
pub(crate) async fn run(args: &Joins) -> anyhow::Result<()> {
    deployment::raise_descriptor_limit()?;
    let server = Server::start(&config(args.store.as_deref()))?;
    let url: ServerUrl = server.url().parse()?;
    let address: SocketAddr = url.authority().parse()?;
    let mut random = StdRng::seed_from_u64(args.seed);
    let networks = args.joins.div_ceil(args.members - 1);
    let stretched = Arc::new(Stretched::default());
    let mut clients = Vec::new();
    for _ in 0..networks + args.joins {
        clients.push(some_client(&url, address, &mut random).await?);
    }
    let joiners = clients.split_off(networks as usize);
    let owners = together(clients, args.concurrent, &stretched, |mut owner, number, stretched| async move {
        create(&mut owner, &name(number)?, &stretched).await?;
        Ok(owner)
    });
    let (owners, _) = owners.await?;

    let (cpu, began) = (deployment::cpu_seconds(server.pid())?, Instant::now());
    let joined = together(joiners, args.concurrent, &stretched, move |mut joiner, number, stretched| async move {
        join(&mut joiner, &name(number % networks)?, &stretched).await?;
        Ok(joiner)
    });
    let (joiners, latencies) = joined.await?;
    let rate = f64::from(args.joins) / began.elapsed().as_secs_f64();
    let cpu_ms = (deployment::cpu_seconds(server.pid())? - cpu) * 1_000.0 / f64::from(args.joins);
    drop((owners, joiners));

    let possible = 2_000.0 / cpu_ms;
    let [p50, p99] = [0.5, 0.99].map(|quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0);
    if args.json {
        crate::print(&json!({
            "scenario": "joins", "joins": args.joins, "networks": networks, "seed": args.seed, "joins_per_second": rate,
            "join_ms": {"p50": p50, "p99": p99}, "server_cpu_ms_per_join": cpu_ms, "joins_per_second_of_two_cores": possible,
        }).to_string())?;
    } else {
        crate::print(&format!(
            "joins                       {} into {networks} networks\njoins a second              {rate:.0}, beside the clients\n\
             join p50 / p99              {p50:.1} / {p99:.1} ms\nserver CPU per join         {cpu_ms:.2} ms\n\
             two cores can serve         {possible:.0} a second",
            args.joins,
        ))?;
    }
    match args.least {
        Some(least) if possible < least => bail!("two cores serve {possible:.0} joins a second, fewer than {least}"),
        Some(_) | None => Ok(()),
    }
}

/// No limit of the server is to be measured but its own speed.
fn config(store: Option<&str>) -> String {
    let url = store.map(|url| format!("url = {url:?}\n")).unwrap_or_default();
    format!(
        "{CONFIG}[store]\n{url}default_plan = \"premium\"\n[network.limits]\nguesses_per_network = 1000000\n\
         guesses_per_source = 1000000\ncreations_per_source = 1000000\nguesses_per_neighbours = 1000000\n\
         creations_per_neighbours = 1000000\n"
    )
}

fn name(number: u32) -> anyhow::Result<NetworkName> {
    format!("load-{number}").parse().context("no name")
}

async fn some_client(url: &ServerUrl, address: SocketAddr, random: &mut StdRng) -> anyhow::Result<Session> {
    let mut seed = [0; 32];
    random.fill_bytes(&mut seed);
    log_in(url, address, &seed).await
}

/// Has each of the clients do `what` with its number, and measures how long each took, in microseconds.
async fn together<F>(
    clients: Vec<Session>,
    concurrent: u32,
    stretched: &Arc<Stretched>,
    what: impl Fn(Session, u32, Arc<Stretched>) -> F,
) -> anyhow::Result<(Vec<Session>, Histogram<u64>)>
where
    F: Future<Output = anyhow::Result<Session>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(concurrent as usize));
    let mut tasks = JoinSet::new();
    for (client, number) in clients.into_iter().zip(0..) {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let work = what(client, number, Arc::clone(stretched));
        tasks.spawn(async move {
            let began = Instant::now();
            let client = work.await?;
            drop(permit);
            Ok::<_, anyhow::Error>((client, began.elapsed()))
        });
    }
    let (mut done, mut latencies) = (Vec::new(), Histogram::new(3)?);
    while let Some(task) = tasks.join_next().await {
        let (client, took) = task??;
        latencies.record(u64::try_from(took.as_micros())?)?;
        done.push(client);
    }
    Ok((done, latencies))
}

async fn create(owner: &mut Session, name: &NetworkName, stretched: &Stretched) -> anyhow::Result<()> {
    let started = ClientRegistration::<Suite>::start(&mut OsRng, PASSWORD)?;
    let asked = Request::CreateStart(name.clone(), started.message.serialize().to_vec());
    let Reply::Registration(response) = owner.ask(asked).await? else { bail!("no registration") };
    let parameters = ClientRegistrationFinishParameters::new(Identifiers::default(), Some(stretched));
    let response = RegistrationResponse::deserialize(&response)?;
    let finished = started.state.finish(&mut OsRng, PASSWORD, response, parameters)?;
    let asked = Request::CreateFinish(name.clone(), finished.message.serialize().to_vec(), WRAPPED_SECRET.to_vec());
    let Reply::Joined(_) = owner.ask(asked).await? else { bail!("not made") };
    Ok(())
}

async fn join(joiner: &mut Session, name: &NetworkName, stretched: &Stretched) -> anyhow::Result<()> {
    let started = ClientLogin::<Suite>::start(&mut OsRng, PASSWORD)?;
    let asked = Request::JoinStart(name.clone(), started.message.serialize().to_vec());
    let Reply::Credential(response) = joiner.ask(asked).await? else { bail!("no challenge") };
    let parameters = ClientLoginFinishParameters::new(Some(PASSWORD_CONTEXT), Identifiers::default(), Some(stretched));
    let response = CredentialResponse::deserialize(&response)?;
    let finished = started.state.finish(&mut OsRng, PASSWORD, response, parameters)?;
    let Reply::Joined(_) = joiner.ask(Request::JoinFinish(finished.message.serialize().to_vec())).await? else {
        bail!("not joined")
    };
    Ok(())
}

/// What networks speak (`domain::PasswordSuite`), with the stretching remembered.
struct Suite;

impl CipherSuite for Suite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, sha2::Sha512>;
    type Ksf = Stretched;
}

/// Argon2id, once for each input: all who join a network stretch the same.
#[derive(Default)]
struct Stretched(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Ksf for Stretched {
    fn hash<L: ArrayLength<u8>>(&self, input: GenericArray<u8, L>) -> Result<GenericArray<u8, L>, InternalError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(input.as_slice()).cloned();
        if let Some(known) = known {
            return Ok(GenericArray::clone_from_slice(&known));
        }
        let output = Argon2::default().hash(input.clone())?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(input.to_vec(), output.to_vec());
        Ok(output)
    }
}
