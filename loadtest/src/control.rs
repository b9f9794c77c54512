//! The `control` scenario: many clients log in, and stay. What does a login cost, and what does an idle session weigh?

use std::{net::SocketAddr, sync::Arc, time::Instant};

use anyhow::bail;
use clap::Args;
use hdrhistogram::Histogram;
use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};
use wire::server_url::ServerUrl;

use crate::{
    deployment::{self, Server},
    session::{Session, log_in},
};

/// No limit of the server is to be measured but its own speed.
pub(crate) const CONFIG: &str = "[log]\nfilter = \"error\"\n[auth]\nregistrations_per_source = 1000000000\nregistrations = 1000000000\n\
    [auth.ladder]\nfree_per_address = 1000000000\nfree_per_neighbours = 1000000000\nfree_per_site = 1000000000\n\
    free = 1000000000\n[gateway]\nconnections_per_source = 1000000\nunfinished = 100000\naccepts = 1000000000\n";

/// How many clients log in and stay.
#[derive(Debug, Args)]
pub(crate) struct Control {
    /// Sessions held at once.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    sessions: u32,
    /// Logins under way at once.
    #[arg(long, default_value_t = 32)]
    concurrent: u32,
    /// Where the keys of the clients come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail when a session weighs more, in KiB of the server's resident memory.
    #[arg(long)]
    most_kib: Option<f64>,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the scenario against a server of its own.
pub(crate) async fn run(args: &Control) -> anyhow::Result<()> {
    deployment::raise_descriptor_limit()?;
    let server = Server::start(CONFIG)?;
    let url: ServerUrl = server.url().parse()?;
    let address: SocketAddr = url.authority().parse()?;
    let mut random = StdRng::seed_from_u64(args.seed);
    // What the first sessions allocate for good is not the weight of a session.
    let mut held = log_in_many(&url, address, &mut random, 50, args.concurrent, &mut Histogram::new(3)?).await?;

    let before = deployment::resident_bytes(server.pid())?;
    let (cpu, began) = (deployment::cpu_seconds(server.pid())?, Instant::now());
    let mut latencies = Histogram::new(3)?;
    held.extend(log_in_many(&url, address, &mut random, args.sessions, args.concurrent, &mut latencies).await?);
    let took = began.elapsed().as_secs_f64();
    let cpu = deployment::cpu_seconds(server.pid())? - cpu;
    let after = deployment::resident_bytes(server.pid())?;

    let weight = after.saturating_sub(before) as f64 / f64::from(args.sessions) / 1024.0;
    let rate = f64::from(args.sessions) / took;
    let cpu_ms = cpu * 1_000.0 / f64::from(args.sessions);
    let [p50, p99] = [0.5, 0.99].map(|quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0);
    if args.json {
        crate::print(&json!({
            "scenario": "control", "sessions": args.sessions, "seed": args.seed, "logins_per_second": rate,
            "login_ms": {"p50": p50, "p99": p99}, "server_cpu_ms_per_login": cpu_ms, "server_kib_per_session": weight,
        }).to_string())?;
    } else {
        crate::print(&format!(
            "sessions held              {}\nlogins a second            {rate:.0}\nlogin p50 / p99            {p50:.1} / {p99:.1} ms\n\
             server CPU per new client  {cpu_ms:.2} ms\nserver memory per session  {weight:.1} KiB",
            args.sessions,
        ))?;
    }
    drop(held);
    match args.most_kib {
        Some(most) if weight > most => bail!("a session weighs {weight:.1} KiB, more than {most} KiB"),
        Some(_) | None => Ok(()),
    }
}

async fn log_in_many(
    url: &ServerUrl,
    address: SocketAddr,
    random: &mut StdRng,
    count: u32,
    concurrent: u32,
    latencies: &mut Histogram<u64>,
) -> anyhow::Result<Vec<Session>> {
    let room = Arc::new(Semaphore::new(concurrent as usize));
    let mut logins = JoinSet::new();
    for _ in 0..count {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let mut seed = [0; 32];
        random.fill_bytes(&mut seed);
        let url = url.clone();
        logins.spawn(async move {
            let began = Instant::now();
            let session = log_in(&url, address, &seed).await?;
            drop(permit);
            Ok::<_, anyhow::Error>((session, began.elapsed()))
        });
    }
    let mut sessions = Vec::with_capacity(count as usize);
    while let Some(login) = logins.join_next().await {
        let (session, took) = login??;
        latencies.record(u64::try_from(took.as_micros())?)?;
        sessions.push(session);
    }
    Ok(sessions)
}
