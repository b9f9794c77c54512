//! From the first command to a restart without servers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use client::{
    command::{Answer, Asked, Command, CommandError, PathKind, PathWanted},
    core::Saved,
    daemon::{ControlEvent, Daemon, Ends, Error},
    home::Home,
    password::Password,
    settings::{AdapterKind, PathPolicy, Settings},
};
use domain::{
    Candidate, InstanceId, Member, NetworkChange, NetworkId, PASSWORD_CONTEXT, PasswordSuite, PeerPresence, PunchId,
    PunchOrder, PunchPreparation, Revision, SessionTag, Strategy, UnixMillis, VirtualAddresses,
};
use opaque_ke::{
    CredentialFinalization, CredentialRequest, RegistrationRequest, RegistrationUpload, ServerLogin,
    ServerLoginParameters, ServerRegistration, ServerSetup,
};
use rand_core::OsRng;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use wire::control::{ClientFrame, Joined, Reply, Request, ServerFrame, Welcome};

#[tokio::test]
async fn two_daemons_create_join_connect_and_find_each_other_again_without_servers() {
    let mut alice = Machine::start(1);
    let mut bob = Machine::start(2);
    let mut server = Server::new();
    server.welcome(&mut alice);
    server.welcome(&mut bob);

    let created = alice.asks_while(create("lan", "secret"), &mut server).await.unwrap();
    assert!(matches!(created, Answer::Joined(joined) if joined.address4 == addresses(1).v4));
    let denied = bob.asks_while(join("lan", "wrong"), &mut server).await.unwrap_err();
    assert_eq!(denied.code, "network-denied");
    bob.asks_while(join("lan", "secret"), &mut server).await.unwrap();

    server.introduce(&mut alice, &mut bob);
    server.punch(&mut alice, &mut bob);
    let waited = alice.asks(wait("100.64.0.2")).await.unwrap();
    assert!(matches!(waited, Answer::Waited(waited) if waited.path == PathKind::Direct));
    bob.asks(wait("100.64.0.1")).await.unwrap();
    assert_eq!(alice.pings("100.64.0.2").await, 3);
    let refused = alice.asks(Command::Why { peer: "100.64.0.9".into() }).await.unwrap_err();
    assert_eq!(refused.code, "peer-unknown");

    alice.loses_server().await;
    bob.loses_server().await;
    assert_eq!(alice.pings("100.64.0.2").await, 3);
    let unreachable = alice.asks(create("other", "secret")).await.unwrap_err();
    assert_eq!(unreachable.code, CommandError::SERVER_UNREACHABLE);

    let bob = bob.restart().await;
    bob.asks(wait("100.64.0.1")).await.unwrap();
    assert_eq!(bob.pings("100.64.0.1").await, 3);
    bob.stop().await;
    alice.stop().await;
}

#[tokio::test]
async fn a_tunnel_lives_on_the_fresh_socket_that_found_it() {
    let mut alice = Machine::start(1);
    let mut bob = Machine::start(2);
    let mut server = Server::new();
    server.welcome(&mut alice);
    server.welcome(&mut bob);
    alice.asks_while(create("lan", "secret"), &mut server).await.unwrap();
    bob.asks_while(join("lan", "secret"), &mut server).await.unwrap();
    server.introduce(&mut alice, &mut bob);

    server.punch_from(&bob, 4, &alice);
    alice.asks(wait("100.64.0.2")).await.unwrap();
    let Answer::Peers(peers) = alice.asks(Command::Peers).await.unwrap() else { panic!("not the peers") };
    assert_ne!(peers[0].endpoint, Some(bob.endpoint().to_string()), "not the main socket");
    assert_eq!(alice.pings("100.64.0.2").await, 3);
    assert_eq!(bob.pings("100.64.0.1").await, 3);
    bob.stop().await;
    alice.stop().await;
}

struct Machine {
    number: u8,
    dir: tempfile::TempDir,
    events: mpsc::Sender<ControlEvent>,
    frames: mpsc::Receiver<ClientFrame>,
    commands: mpsc::Sender<Asked>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
}

impl Machine {
    fn start(number: u8) -> Self {
        Self::start_in(number, tempfile::tempdir().unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "the handle is kept, and awaited in `stop`")]
    fn start_in(number: u8, dir: tempfile::TempDir) -> Self {
        let (events, from_server) = mpsc::channel(64);
        let (to_server, frames) = mpsc::channel(64);
        let (commands, asked) = mpsc::channel(8);
        let (known, _) = watch::channel(Vec::new());
        let ends = Ends {
            events: from_server,
            frames: to_server,
            commands: asked,
            known,
            wanted: Arc::default(),
            moved: Arc::default(),
        };
        let settings = Settings {
            server: "buri://localhost".into(),
            adapter: AdapterKind::Memory,
            interface: "none".into(),
            path: PathPolicy::Any,
            proxy: None,
            no_port_mapping: true,
            home: dir.path().to_owned(),
        };
        let home = Home::open(dir.path()).unwrap();
        let shutdown = CancellationToken::new();
        let daemon = Daemon::open(home, settings, ends).unwrap();
        let running = tokio::spawn(daemon.run(shutdown.clone()));
        Self { number, dir, events, frames, commands, shutdown, running }
    }

    async fn stop(self) -> tempfile::TempDir {
        self.shutdown.cancel();
        timeout(PATIENCE, self.running).await.unwrap().unwrap().unwrap();
        self.dir
    }

    async fn restart(self) -> Self {
        let number = self.number;
        Self::start_in(number, self.stop().await)
    }

    async fn loses_server(&self) {
        self.events.send(ControlEvent::Lost).await.unwrap();
    }

    async fn begin(&self, command: Command) -> mpsc::Receiver<Result<Answer, CommandError>> {
        let (answers, answered) = mpsc::channel(16);
        self.commands.send(Asked { command, answers }).await.unwrap();
        answered
    }

    async fn asks(&self, command: Command) -> Result<Answer, CommandError> {
        timeout(PATIENCE, self.begin(command).await.recv()).await.unwrap().unwrap()
    }

    async fn asks_while(&mut self, command: Command, server: &mut Server) -> Result<Answer, CommandError> {
        let mut answered = self.begin(command).await;
        loop {
            tokio::select! {
                answer = answered.recv() => return answer.unwrap(),
                Some(frame) = self.frames.recv() => server.handle(self, frame),
                () = tokio::time::sleep(PATIENCE) => panic!("no answer"),
            }
        }
    }

    /// How many of three pings were answered.
    async fn pings(&self, peer: &str) -> usize {
        let ping = Command::Ping { peer: peer.into(), count: 3, interval_ms: 20 };
        let mut answered = self.begin(ping).await;
        let mut count = 0;
        while let Some(answer) = timeout(PATIENCE, answered.recv()).await.unwrap() {
            if let Answer::Pong(pong) = answer.unwrap() {
                count += usize::from(pong.rtt_ms.is_some());
            }
        }
        count
    }

    fn member(&self) -> Member {
        let identity = Home::open(self.dir.path()).unwrap().identity().unwrap();
        let tunnel = tunnel::Local::new(*identity.tunnel()).public();
        Member {
            client: identity.client(),
            identity: identity.public(),
            tunnel,
            tunnel_signature: identity.sign_tunnel(&tunnel),
            nick: None,
            addresses: addresses(self.number),
            revision: Revision(1),
            gone: false,
            presence: Some(PeerPresence::Online),
            role: domain::Role::Member,
            lineage: None,
            hub: false,
            unseated: false,
            kept: false,
            routes: Vec::new(),
        }
    }

    /// Where it listens on this host.
    fn endpoint(&self) -> SocketAddr {
        let kept = Home::open(self.dir.path()).unwrap().load_bytes("view.cbor").unwrap().unwrap();
        SocketAddr::from(([127, 0, 0, 1], Saved::decode(&kept).unwrap().port))
    }

    fn told(&self, frame: ServerFrame) {
        self.events.try_send(ControlEvent::Frame(frame)).unwrap();
    }
}

/// As much of the real one as a client needs to become a member.
struct Server {
    setup: ServerSetup<PasswordSuite>,
    record: Vec<u8>,
    wrapped: Vec<u8>,
    login: Option<ServerLogin<PasswordSuite>>,
}

impl Server {
    fn new() -> Self {
        Self { setup: ServerSetup::new(&mut OsRng), record: Vec::new(), wrapped: Vec::new(), login: None }
    }

    fn welcome(&self, machine: &mut Machine) {
        let welcome = Welcome {
            client: machine.member().client,
            nick: None,
            token: None,
            now: UnixMillis(0),
            keepalive_ms: 60_000,
            tag: SessionTag([1; 16]),
            reflectors: Vec::new(),
            prefix4: 10,
            prefix6: 48,
            relays: Vec::new(),
            membership_keys: Vec::new(),
        };
        machine.events.try_send(ControlEvent::Connected(Box::new(welcome))).unwrap();
    }

    fn handle(&mut self, machine: &Machine, frame: ClientFrame) {
        let ClientFrame::Request(number, request) = frame else { return };
        let parameters = || ServerLoginParameters { context: Some(PASSWORD_CONTEXT), ..Default::default() };
        let reply = match request {
            Request::CreateStart(_, message) => {
                let request = RegistrationRequest::deserialize(&message).unwrap();
                let started = ServerRegistration::<PasswordSuite>::start(&self.setup, request, b"lan").unwrap();
                Reply::Registration(started.message.serialize().to_vec())
            }
            Request::CreateFinish(_, record, wrapped) => {
                let upload = RegistrationUpload::<PasswordSuite>::deserialize(&record).unwrap();
                self.record = ServerRegistration::finish(upload).serialize().to_vec();
                self.wrapped = wrapped;
                self.joined(machine)
            }
            Request::JoinStart(_, message) => {
                let record = ServerRegistration::deserialize(&self.record).unwrap();
                let request = CredentialRequest::deserialize(&message).unwrap();
                let started =
                    ServerLogin::start(&mut OsRng, &self.setup, Some(record), request, b"lan", parameters()).unwrap();
                self.login = Some(started.state);
                Reply::Credential(started.message.serialize().to_vec())
            }
            Request::JoinFinish(proof) => {
                let proof = CredentialFinalization::deserialize(&proof).unwrap();
                self.login.take().unwrap().finish(proof, parameters()).unwrap();
                self.joined(machine)
            }
            Request::Leave(_)
            | Request::SetNick(_)
            | Request::Connect(_)
            | Request::Why(_)
            | Request::Relay(..)
            | Request::ChangesSince(..)
            | Request::Order(..)
            | Request::Admissions(_)
            | Request::Keys(_)
            | Request::Redeem(..)
            | Request::SetPassStart(..)
            | Request::RenewSecret(..)
            | Request::HandSecret(..)
            | Request::Holders(..)
            | Request::Sealed(_)
            | Request::Prove(..)
            | Request::Membership(_)
            | Request::AttachAccount(_)
            | Request::DetachAccount
            | Request::Account
            | Request::RotateKey(_) => Reply::Done,
        };
        machine.told(ServerFrame::Reply(number, reply));
    }

    fn joined(&self, machine: &Machine) -> Reply {
        Reply::Joined(Box::new(Joined {
            network: NETWORK,
            name: "lan".parse().unwrap(),
            addresses: addresses(machine.number),
            wrapped_secret: self.wrapped.clone(),
            warning: None,
            door: domain::SecretEpoch::FIRST,
        }))
    }

    fn introduce(&self, alice: &mut Machine, bob: &mut Machine) {
        let members = vec![alice.member(), bob.member()];
        for machine in [alice, bob] {
            machine.told(ServerFrame::Change(NetworkChange {
                network: NETWORK,
                name: "lan".parse().unwrap(),
                since: Revision::ZERO,
                revision: Revision(1),
                members: members.clone(),
                left: false,
                terms: domain::NetworkTerms::default(),
                secret: domain::SecretState::default(),
            }));
            machine.told(ServerFrame::Synced(addresses(machine.number), vec![NETWORK]));
        }
    }

    fn punch(&self, alice: &mut Machine, bob: &mut Machine) {
        let punch = PunchId { leader: InstanceId::from_bytes([1; 16]), number: 5 };
        for (machine, peer) in [(&*alice, &*bob), (&*bob, &*alice)] {
            let preparation =
                PunchPreparation { punch, peer: peer.member().client, key: [8; 32], sockets: 0, tcp: false };
            machine.told(ServerFrame::Prepare(preparation));
            machine.told(ServerFrame::Go(PunchOrder {
                punch,
                strategy: Strategy::Direct,
                wait_us: 10_000,
                gap_us: 20_000,
                opener_ttl: 3,
                candidates: vec![Candidate { endpoint: peer.endpoint(), local: false, main: false }],
                attempt: 1,
                spray: None,
                sockets: 0,
            }));
        }
    }
}

impl Server {
    /// `hard` punches from so many fresh sockets to the main one of `easy`, which answers whoever shows itself.
    fn punch_from(&self, hard: &Machine, sockets: u16, easy: &Machine) {
        let punch = PunchId { leader: InstanceId::from_bytes([1; 16]), number: 6 };
        for (machine, peer, sockets) in [(hard, easy, sockets), (easy, hard, 0)] {
            let preparation = PunchPreparation { punch, peer: peer.member().client, key: [8; 32], sockets, tcp: false };
            machine.told(ServerFrame::Prepare(preparation));
            // Behind a hard NAT nobody knows where.
            let endpoint = if sockets == 0 { SocketAddr::from(([127, 0, 0, 1], 9)) } else { peer.endpoint() };
            machine.told(ServerFrame::Go(PunchOrder {
                punch,
                strategy: if sockets == 0 { Strategy::Reveal } else { Strategy::Direct },
                wait_us: 10_000,
                gap_us: 20_000,
                opener_ttl: if sockets == 0 { 3 } else { 0 },
                candidates: vec![Candidate { endpoint, local: false, main: false }],
                attempt: 1,
                spray: None,
                sockets,
            }));
        }
    }
}

fn create(network: &str, password: &str) -> Command {
    Command::Create { network: network.parse().unwrap(), password: Password::new(password.into()) }
}

fn join(network: &str, password: &str) -> Command {
    Command::Join { network: network.parse().unwrap(), password: Password::new(password.into()) }
}

fn wait(peer: &str) -> Command {
    Command::Wait { peer: peer.into(), path: PathWanted::Direct, timeout_ms: 20_000 }
}

fn addresses(number: u8) -> VirtualAddresses {
    VirtualAddresses {
        v4: Some([100, 64, 0, number].into()),
        v6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number].into(),
    }
}

const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);
const PATIENCE: Duration = Duration::from_secs(30);
