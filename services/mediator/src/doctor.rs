//! What an on-call engineer would check, and what to do about what is wrong.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use domain::{Probe, SessionTag, TransactionId, Vantage};
use presence::Presence;
use serde_json::json;
use store::StoreOptions;
use telemetry::ops::{Checked, Readiness};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use wire::{probe, secure};

use crate::{cli, config::Config, embedded::EFFECTIVE, secrets::Secrets};

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The data folder of `all` when no other is named.
const USUAL_DATA: &str = "buri-data";

/// Runs every check and prints what it found. Fails when one of them did.
pub(crate) async fn run(args: &cli::Doctor) -> anyhow::Result<ExitCode> {
    let path = args.config.clone().unwrap_or_else(|| Path::new(USUAL_DATA).join(EFFECTIVE));
    let config = Config::read(Some(&path)).context("no configuration to examine: name one with --config")?;
    let examined = examine(&config).await;
    let healthy = examined.iter().all(|checked| checked.ok);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "healthy": healthy, "checks": examined }))?;
    } else {
        for checked in &examined {
            writeln!(out, "{}  {}", if checked.ok { "ok  " } else { "FAIL" }, checked.name)?;
            if let Some(problem) = &checked.problem {
                writeln!(out, "      problem: {problem}")?;
            }
            if let Some(remedy) = &checked.remedy {
                writeln!(out, "      remedy:  {remedy}")?;
            }
        }
        writeln!(out, "{}", if healthy { "everything is well" } else { "something is wrong" })?;
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn examine(config: &Config) -> Vec<Checked> {
    let mut examined = vec![
        checked("secrets", "mount the secrets at secrets.dir, or run `mediator all` once", secrets(config)),
        checked("address pool", "use a part of 100.64.0.0/10 unless you migrate from elsewhere", pool(config)),
        checked("store", "start the database, correct store.url, or run `mediator migrate`", store(config).await),
        checked("presence", "start Redis, or correct presence.url", presence(config).await),
        checked("bus", "start RabbitMQ, or correct bus.url", bus(config).await),
    ];
    for &address in &config.gateway.listen {
        let answer = gateway(config, address).await;
        examined.push(checked(
            &format!("gateway at {address}"),
            "start the gateway; it must have the server.key of secrets.dir",
            answer,
        ));
    }
    for &address in &config.gateway.listen_web {
        examined.push(checked(
            &format!("WebSocket port {address}"),
            "start the gateway, or correct gateway.listen_web",
            reachable(address).await,
        ));
    }
    let rendezvous = &config.rendezvous;
    for &ip in &rendezvous.addresses {
        for port in rendezvous.ports {
            let at = SocketAddr::new(ip, port);
            examined.push(checked(&format!("reflector at {at}"), "start rendezvous; UDP must reach it", reflects(at)));
        }
    }
    for &at in &config.relay.listen {
        examined.push(checked(&format!("relay at {at}"), "start the relay; UDP must reach it", reflects(at)));
    }
    examined.push(checked("admin API", "start admin, or correct admin.listen", reachable(config.admin.listen).await));
    match readiness(config.ops.listen).await {
        Ok(readiness) => examined.extend(readiness.checks.into_iter().map(|mut check| {
            check.name = format!("process: {}", check.name);
            check
        })),
        Err(error) => {
            examined.push(checked("process", "start `mediator`, or correct ops.listen", Err(error)));
        }
    }
    examined
}

fn checked(name: &str, remedy: &str, result: anyhow::Result<()>) -> Checked {
    let problem = result.err().map(|error| format!("{error:#}"));
    let remedy = problem.as_ref().map(|_| remedy.to_owned());
    Checked { name: name.to_owned(), ok: problem.is_none(), problem, remedy }
}

fn secrets(config: &Config) -> anyhow::Result<()> {
    let secrets = Secrets::in_dir(&config.secrets.dir);
    let files = [
        secrets.server_key(),
        secrets.tls_certificate(),
        secrets.tls_key(),
        secrets.ticket_root(),
        secrets.observation_key(),
        secrets.accounts_key(),
        secrets.membership_key(),
        secrets.webhooks_key(),
        secrets.password_setup(),
        secrets.operator_token(),
    ];
    for path in files {
        std::fs::metadata(&path).with_context(|| format!("{} is missing", path.display()))?;
    }
    auth::keys::read(&secrets.token_keys())?;
    Ok(())
}

fn pool(config: &Config) -> anyhow::Result<()> {
    domain::AddressPool::new(config.store.pool, false)?;
    Ok(())
}

async fn store(config: &Config) -> anyhow::Result<()> {
    let options = StoreOptions { pool: config.pool()?, connections: 1, ..StoreOptions::default() };
    let stores = timeout(PATIENCE, store::connect(&config.store.url, options)).await.context("no answer")??;
    let answered = stores.ping().await;
    stores.close().await;
    Ok(answered?)
}

async fn presence(config: &Config) -> anyhow::Result<()> {
    let presence = timeout(PATIENCE, Presence::connect(&config.presence.url)).await.context("no answer")??;
    Ok(presence.ping().await?)
}

async fn bus(config: &Config) -> anyhow::Result<()> {
    if config.bus.url.starts_with("memory:") {
        return Ok(());
    }
    let bus =
        timeout(PATIENCE, bus::Bus::connect(&config.bus.url, "doctor", "doctor")).await.context("no answer")??;
    Ok(bus.ping().await?)
}

/// Whether the gateway answers, with the key that clients pin.
async fn gateway(config: &Config, address: SocketAddr) -> anyhow::Result<()> {
    let key: [u8; 32] = std::fs::read(Secrets::in_dir(&config.secrets.dir).server_key())?
        .try_into()
        .map_err(|_| anyhow::anyhow!("server.key has not 32 bytes"))?;
    let pinned = secure::ServerSecret::from_bytes(key).public();
    let mut channel = secure::Channel::client(Some(pinned));
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(channel.outgoing()).await?;
        channel.sent(channel.outgoing().len());
        let mut bytes = [0; 256];
        loop {
            if let Some(secure::Event::Opened(_)) = channel.poll_event()? {
                return Ok::<(), anyhow::Error>(());
            }
            let count = stream.read(&mut bytes).await?;
            anyhow::ensure!(count > 0, "it closed the connection");
            channel.handle_bytes(&bytes[..count]);
        }
    };
    timeout(PATIENCE, exchange).await.context("no answer")?
}

async fn reachable(address: SocketAddr) -> anyhow::Result<()> {
    timeout(PATIENCE, TcpStream::connect(address)).await.context("no answer")??;
    Ok(())
}

/// Whether STUN is answered there.
fn reflects(at: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect(at)?;
    let question = probe::question(&Probe {
        transaction: TransactionId(rand::random()),
        tag: Some(SessionTag(rand::random())),
        answer_from: Vantage::Asked,
        delay_s: 0,
    });
    let mut answer = [0; 512];
    for _ in 0..3 {
        socket.send(&question)?;
        match socket.recv(&mut answer) {
            Ok(length) => {
                probe::answer(&answer[..length])?;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("no answer to three questions")
}

/// What the process says of itself.
async fn readiness(ops: SocketAddr) -> anyhow::Result<Readiness> {
    let exchange = async {
        let mut stream = TcpStream::connect(ops).await?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer).await?;
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no HTTP")?;
        Ok(serde_json::from_slice(&answer[body + 4..])?)
    };
    timeout(PATIENCE, exchange).await.context("no answer")?
}
