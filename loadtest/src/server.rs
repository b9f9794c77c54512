//! What the traffic goes through: the relay of a deployment, a bare forwarder, a TURN server, or an iroh-relay. Each in a process
//! of its own, so that its CPU time can be told.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::ValueEnum;
use domain::RelayId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::ticket::{TicketKey, TicketRoot};

use crate::{
    child, deployment,
    link::StreamDoor,
    turn,
    turn_server::{Started, TurnServer},
};

/// What every socket here asks of the kernel, as the relay does.
pub(crate) const KERNEL_BUFFER: usize = 4 * 1024 * 1024;

/// How long a deployment may take to tell of its relay.
const PATIENCE: Duration = Duration::from_secs(20);

/// What forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Ours.
    Relay,
    /// Bare, with recvmmsg and sendmmsg.
    Batched,
    /// Bare, with recvfrom and sendto.
    Naive,
    /// Debian's TURN server.
    Coturn,
    /// The TURN server of that crate.
    TurnServer,
    /// An iroh-relay, which takes WebSockets only.
    Iroh,
    /// The same over TLS.
    IrohTls,
}

/// Something that forwards.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) access: Access,
    /// Where it takes streams, if it does and the tool knows.
    pub(crate) streams: Option<StreamDoor>,
    process: Process,
}

/// What a leg needs to be let in.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// Tickets of this relay, made with this key.
    Tickets(RelayId, Arc<TicketKey>),
    /// A TURN server's credential.
    Credential(turn::Key),
    /// A key of the leg's own, at an iroh-relay.
    OwnKey,
    Nothing,
}

/// Whose it is. Ours end with it.
#[derive(Debug)]
enum Process {
    Deployment(deployment::Server),
    Forwarder(Forwarder),
    TurnServer(TurnServer),
    /// Somebody else's; what it costs is known with its number.
    Foreign(Option<u32>),
}

#[derive(Debug)]
struct Forwarder(Child);

/// CPU time so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// Of the threads that forward.
    pub(crate) threads: Duration,
    /// Of the whole process: the relay's deployment has other roles, too.
    pub(crate) process: Duration,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Batched => "batched",
            Self::Naive => "naive",
            Self::Coturn => "coturn",
            Self::TurnServer => "turn-server",
            Self::Iroh => "iroh",
            Self::IrohTls => "iroh-tls",
        }
    }

    /// Whether its legs are WebSockets, and not sockets of UDP.
    pub(crate) const fn takes_streams(self) -> bool {
        matches!(self, Self::Iroh | Self::IrohTls)
    }

    /// Whether each of its legs needs a socket or stream of its own.
    pub(crate) const fn needs_a_link_each(self) -> bool {
        matches!(self, Self::Coturn | Self::TurnServer | Self::Iroh | Self::IrohTls)
    }

    /// What the threads that forward are called; `None` when all of them do.
    pub(crate) const fn thread(self) -> Option<&'static str> {
        match self {
            Self::Relay => Some("relay"),
            Self::Batched | Self::Naive => Some("forward"),
            Self::Coturn | Self::TurnServer | Self::Iroh | Self::IrohTls => None,
        }
    }
}

impl Server {
    /// The relay of a new deployment: one worker, room for every scenario, and no pair ends before a scenario does.
    pub(crate) fn deployed() -> anyhow::Result<Self> {
        let deployment = deployment::Server::start("[relay]\nworkers = 1\nmax_slots = 200000\nidle = \"1h\"\n")?;
        let (id, address, streams) = relay_of(&deployment)?;
        let streams = streams.map(|at| StreamDoor::new(at, &deployment.data().join("secrets/tls.crt"))).transpose()?;
        let root = ticket_root(&deployment.data().join("secrets/tickets.key"))?;
        let access = Access::Tickets(id, Arc::new(root.key(id)));
        Ok(Self { kind: Kind::Relay, address, access, streams, process: Process::Deployment(deployment) })
    }

    /// A relay that runs already.
    pub(crate) fn running(address: SocketAddr, id: RelayId, root: &Path, pid: Option<u32>) -> anyhow::Result<Self> {
        let access = Access::Tickets(id, Arc::new(ticket_root(root)?.key(id)));
        Ok(Self { kind: Kind::Relay, address, access, streams: None, process: Process::Foreign(pid) })
    }

    /// What takes turns with the relay, if it is installed; `rivals` is where those are that the tool has to be told of.
    pub(crate) fn rival(kind: Kind, rivals: &[PathBuf]) -> anyhow::Result<Option<Self>> {
        let built = |name: &str| rivals.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        match kind {
            Kind::Relay => anyhow::bail!("the relay is no rival of itself"),
            Kind::Batched | Kind::Naive => Self::forwarder(kind).map(Some),
            Kind::Coturn => Ok(TurnServer::coturn()?.map(|started| Self::turn(kind, started))),
            Kind::TurnServer => {
                let Some(executable) = built("turn-server") else { return Ok(None) };
                Ok(TurnServer::turn_rs(&executable)?.map(|started| Self::turn(kind, started)))
            }
            Kind::Iroh | Kind::IrohTls => {
                built("iroh-relay").map(|executable| Self::iroh(kind, &executable)).transpose()
            }
        }
    }

    fn turn(kind: Kind, (process, address, key): Started) -> Self {
        let (access, process) = (Access::Credential(key), Process::TurnServer(process));
        Self { kind, address, access, streams: None, process }
    }

    /// A bare forwarder: this executable again.
    fn forwarder(kind: Kind) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        let (forwarder, address) = Forwarder::start(command.args(["forward", kind.name()]))?;
        Ok(Self { kind, address, access: Access::Nothing, streams: None, process: Process::Forwarder(forwarder) })
    }

    fn iroh(kind: Kind, executable: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(executable);
        command.arg("127.0.0.1:0");
        let certificate = env::temp_dir().join(format!("buri-iroh-{}.crt", std::process::id()));
        let over_tls = kind == Kind::IrohTls;
        if over_tls {
            command.arg(&certificate);
        }
        let (forwarder, address) = Forwarder::start(&mut command)?;
        let door = if over_tls { StreamDoor::new(address, &certificate)? } else { StreamDoor::plain(address) };
        if over_tls {
            fs::remove_file(certificate)?;
        }
        let process = Process::Forwarder(forwarder);
        Ok(Self { kind, address, access: Access::OwnKey, streams: Some(door), process })
    }

    fn pid(&self) -> Option<u32> {
        match &self.process {
            Process::Deployment(deployment) => Some(deployment.pid()),
            Process::Forwarder(Forwarder(child)) => Some(child.id()),
            Process::TurnServer(server) => Some(server.pid()),
            Process::Foreign(pid) => *pid,
        }
    }

    /// Resident memory, in bytes; `None` when the process is not known.
    pub(crate) fn resident(&self) -> anyhow::Result<Option<u64>> {
        self.pid().map(deployment::resident_bytes).transpose()
    }

    /// The CPU time so far; `None` when the process is not known.
    pub(crate) fn cpu(&self) -> anyhow::Result<Option<Cpu>> {
        let Some(pid) = self.pid() else { return Ok(None) };
        let mut cpu = Cpu { threads: Duration::ZERO, process: Duration::ZERO };
        for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the server is gone")? {
            let thread = thread?.path();
            // A thread that ended meanwhile has nothing to tell.
            let (Ok(name), Ok(times)) =
                (fs::read_to_string(thread.join("comm")), fs::read_to_string(thread.join("schedstat")))
            else {
                continue;
            };
            let nanos = times.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0);
            let time = Duration::from_nanos(nanos);
            cpu.process += time;
            if self.kind.thread().is_none_or(|forwards| forwards == name.trim_end()) {
                cpu.threads += time;
            }
        }
        anyhow::ensure!(cpu.process > Duration::ZERO, "this kernel does not tell the CPU time of threads (schedstat)");
        Ok(Some(cpu))
    }
}

impl Forwarder {
    /// Starts what prints its address and ends with its standard input.
    fn start(command: &mut Command) -> anyhow::Result<(Self, SocketAddr)> {
        let mut forwarder = Self(child::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?);
        let out = forwarder.0.stdout.as_mut().context("the forwarder has no output")?;
        let mut address = String::new();
        BufReader::new(out).read_line(&mut address)?;
        let address = address.trim().parse().context("the forwarder told no address")?;
        Ok((forwarder, address))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ticket_root(path: &Path) -> anyhow::Result<TicketRoot> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let secret = bytes.try_into().map_err(|_| anyhow::anyhow!("{} is no key of 32 bytes", path.display()))?;
    Ok(TicketRoot::new(secret))
}

/// The relay of a deployment, by its admin API: its id, and where it takes datagrams and streams.
fn relay_of(deployment: &deployment::Server) -> anyhow::Result<(RelayId, SocketAddr, Option<SocketAddr>)> {
    let admin = deployment.told("admin").trim_start_matches("http://").trim_end_matches('/');
    let token = fs::read_to_string(deployment.told("operator_token_file")).context("no operator's token")?;
    let until = Instant::now() + PATIENCE;
    loop {
        let relays = get(admin, "/v1/relays", token.trim());
        if let Ok(Some(relay)) = relays.as_ref().map(|relays| relays["items"].get(0)) {
            let id = relay["relay"].as_str().and_then(|id| id.parse().ok());
            let at = |kind: &str| relay[kind][0].as_str().and_then(|endpoint| endpoint.parse().ok());
            let known = id.zip(at("endpoints")).map(|(id, address)| (id, address, at("streams")));
            return known.with_context(|| format!("the admin API describes no relay: {relay}"));
        }
        if Instant::now() > until {
            relays?;
            anyhow::bail!("the deployment has no relay");
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn get(authority: &str, path: &str, token: &str) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect(authority).with_context(|| format!("cannot reach {authority}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {}", head.lines().next().unwrap_or_default());
    Ok(serde_json::from_str(body)?)
}
