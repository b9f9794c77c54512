//! A relay, the role that keeps the count, and their database: what was forwarded is what is counted.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bus::{Bus, memory::Hub};
use contract::auth::Keys;
use domain::{
    AccountId, AccountOrder, Bandwidth, ClientId, IdentityKey, InstanceId, LeaseId, Month, OneTimeToken, PayerId,
    RelayId, RelayReport, SessionToken, Signature, TunnelKey, UnixMillis,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use store::{Fresh, NewSession, PasswordHash, StoreOptions, Stores};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::{
    Code,
    relay::{Cookie, Join, Message, Slot, prove},
    ticket::{LegSide, PairNonce, Ticket, TicketRoot},
};

/// More than a relay lets through before its first answer.
const FLOOD: usize = 40 * 1024 * 1024;
const DATAGRAM: usize = 2_000;
/// The quota of the free plan.
const FREE: u64 = 10 << 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_relays_forwarded_is_what_is_counted_and_a_spent_quota_is_told_to_both() {
    let mut lab = Lab::new().await;
    let [poor, rich] = [lab.client(1, "free").await, lab.client(2, "premium").await];
    lab.spend_all_but(poor, 1024 * 1024).await;

    let first = lab.relay(1);
    let (alice, bert, slot) = first.pair(poor, rich);
    let (sent, told) = flood(&alice, &bert, slot);
    assert_eq!(told, [Some(Code::RelayQuota.number()); 2]);
    assert!(sent < FLOOD as u64 / 2, "it was stopped: {sent}");
    // Its payer has no limit: all of it passes.
    for _ in 0..50 {
        bert.send(&Message::Data { slot, payload: &[7; 1_000] }.to_vec()).unwrap();
        while !matches!(Message::parse(&receive(&alice)), Some(Message::Data { .. })) {}
    }
    first.stop().await;
    let before = lab.counted(poor).await - sent;
    assert_eq!((before, lab.counted(rich).await), (FREE - 1024 * 1024, 50 * 1_008));

    // Elsewhere the quota is spent, too, as soon as that relay has asked.
    let second = lab.relay(2);
    let (alice, bert, slot) = second.pair(poor, poor);
    let (more, told) = flood(&alice, &bert, slot);
    assert_eq!(told, [Some(Code::RelayQuota.number()); 2]);
    second.stop().await;
    assert_eq!(lab.counted(poor).await, before + sent + more);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_of_an_account_spend_one_quota_and_both_ends_are_told_when_it_is_gone() {
    let mut lab = Lab::new().await;
    let [one, two, rich] = [lab.client(1, "free").await, lab.client(2, "free").await, lab.client(3, "premium").await];
    let account = lab.account_of(&[one, two]).await;
    // By one of them, at another relay.
    lab.spend_all_but(one, 1024 * 1024).await;
    assert_eq!(lab.counted_on(account).await, FREE - 1024 * 1024);

    let relay = lab.relay(1);
    let (alice, bert, slot) = relay.pair(two, rich);
    let (sent, told) = flood(&alice, &bert, slot);
    assert_eq!(told, [Some(Code::RelayQuota.number()); 2], "its own quota is untouched, but it counts no more");
    assert!(sent < FLOOD as u64 / 2, "it was stopped: {sent}");
    relay.stop().await;
    assert_eq!(lab.counted_on(account).await, FREE - 1024 * 1024 + sent);
    assert_eq!((lab.counted(one).await, lab.counted(two).await), (FREE - 1024 * 1024, sent));

    // Out of the account in the middle of the month it has its own.
    assert!(lab.stores.people.detach(client_of(two), std::time::SystemTime::now().into()).await.unwrap());
    let relay = lab.relay(2);
    let (alice, bert, slot) = relay.pair(two, rich);
    let (more, told) = flood(&alice, &bert, slot);
    assert!(more > (FLOOD - DATAGRAM) as u64 && told == [None; 2], "{more} {told:?}");
    relay.stop().await;
    assert_eq!(lab.counted_on(account).await, FREE - 1024 * 1024 + sent);
    assert_eq!(lab.counted(two).await, sent + more);
    lab.end().await;
}

/// Sends until the relay stops it: the bytes that arrived, and what each end was told.
fn flood(from: &UdpSocket, to: &UdpSocket, slot: Slot) -> (u64, [Option<u16>; 2]) {
    let datagram = Message::Data { slot, payload: &[0; DATAGRAM - 8] }.to_vec();
    let (mut arrived, mut told) = (0, [None; 2]);
    for _ in 0..FLOOD / DATAGRAM {
        from.send(&datagram).unwrap();
        // One at a time, so that nothing is lost but what the relay holds back.
        let (at, answer) = receive_any([from, to]);
        match Message::parse(&answer) {
            Some(Message::Data { .. }) => arrived += DATAGRAM as u64,
            Some(Message::Note { code, .. }) => {
                told[at] = Some(code);
                let other = receive([to, from][at]);
                let Some(Message::Note { code, .. }) = Message::parse(&other) else {
                    panic!("{at} was told, not both")
                };
                told[1 - at] = Some(code);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    (arrived, told)
}

fn client_of(payer: PayerId) -> ClientId {
    ClientId::from_bytes(*payer.as_bytes())
}

/// What arrives first at one of two sockets, and at which.
fn receive_any(sockets: [&UdpSocket; 2]) -> (usize, Vec<u8>) {
    let mut polled = sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    poll(&mut polled, PollTimeout::try_from(PATIENCE).unwrap()).unwrap();
    let at = polled.iter().position(|socket| socket.any() == Some(true)).expect("something arrives in time");
    (at, receive(sockets[at]))
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    hub: Hub,
    stores: Stores,
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
    auth: JoinSet<Result<(), auth::Error>>,
}

struct Relay {
    id: RelayId,
    endpoint: SocketAddr,
    shutdown: CancellationToken,
    role: JoinSet<Result<(), relay::Error>>,
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("buri.db").display());
        store::migrate(&url).await.unwrap();
        let stores = store::connect(&url, StoreOptions::default()).await.unwrap();
        let people = auth::PeopleConfig { key: dir.path().join("accounts.key"), ..auth::PeopleConfig::default() };
        let config = auth::Config { keys_dir: dir.path().join("keys"), people, ..auth::Config::default() };
        auth::keys::ensure(&config.keys_dir).unwrap();
        std::fs::write(&config.people.key, [3; 32]).unwrap();
        std::fs::write(dir.path().join("tickets.key"), [1; 32]).unwrap();
        std::fs::write(dir.path().join("observations.key"), [2; 32]).unwrap();
        let hub = Hub::default();
        let seams = auth::Seams {
            bus: Bus::memory(&hub, "auth"),
            accounts: Arc::clone(&stores.accounts),
            people: Arc::clone(&stores.people),
            networks: Arc::clone(&stores.networks),
            metrics: Arc::new(auth::Metrics::register(&telemetry::Registry::new()).unwrap()),
        };
        let shutdown = CancellationToken::new();
        let mut role = JoinSet::new();
        role.spawn(auth::run(config, seams, shutdown.clone()));
        let bus = Bus::memory(&hub, "test");
        while bus.call(&Keys).await.is_err() {
            tokio::task::yield_now().await;
        }
        Self { hub, stores, dir, shutdown, auth: role }
    }

    /// A registered client on a plan.
    async fn client(&self, seed: u8, plan: &str) -> PayerId {
        let login = store::Login {
            identity: IdentityKey::from_bytes([seed; 32]),
            tunnel: TunnelKey::from_bytes([seed; 32]),
            tunnel_signature: Signature::from_bytes([seed; 64]),
            nick: None,
            client: None,
        };
        let client = self.stores.accounts.login(login, UnixMillis(1)).await.unwrap().client;
        self.stores.accounts.assign_plan(client, plan).await.unwrap();
        client.into()
    }

    /// An account on the free plan, with these clients.
    async fn account_of(&self, clients: &[PayerId]) -> AccountId {
        let (people, now) = (&self.stores.people, UnixMillis::from(SystemTime::now()));
        let expires = now.plus(Duration::from_secs(3_600));
        let fresh = |number: u8| Fresh {
            token: OneTimeToken::from_bytes(std::array::from_fn(|_| number)).hash(),
            nonce: std::array::from_fn(|_| number),
            expires,
        };
        let hash = PasswordHash("$argon2id$".into());
        people.ask_sign_up("anna@example.test".parse().unwrap(), hash, fresh(1), now).await.unwrap();
        let session = NewSession { token: SessionToken::from_bytes(std::array::from_fn(|_| 9)).hash(), expires };
        let person = people.confirm_sign_up(fresh(1).token, session, now).await.unwrap().unwrap();
        let account = people.person(session.token, now).await.unwrap().unwrap().accounts[0].account;
        for (number, client) in (2..).zip(clients) {
            people.carry_out_for(person, account, AccountOrder::MakeCode, fresh(number), now).await.unwrap();
            people.attach(client_of(*client), fresh(number).token, now).await.unwrap();
        }
        account
    }

    async fn counted_on(&self, account: AccountId) -> u64 {
        self.stores.accounts.relayed_on(account, Month::of(SystemTime::now().into())).await.unwrap()
    }

    /// Uses up the quota of the free plan, elsewhere.
    async fn spend_all_but(&self, payer: PayerId, rest: u64) {
        let (lease, spent) = (LeaseId::from_bytes([9; 16]), FREE - rest);
        let report = RelayReport { lease, payer, serial: 1, spent, ends: true, known: false };
        self.stores.accounts.settle_relay(report, SystemTime::now().into()).await.unwrap();
    }

    fn relay(&mut self, number: u8) -> Relay {
        let config = relay::Config {
            listen: vec![([127, 0, 0, 1], 0).into()],
            ticket_root: self.dir.path().join("tickets.key"),
            observation_key: self.dir.path().join("observations.key"),
            workers: 2,
            drain: Duration::from_millis(100),
            ..relay::Config::default()
        };
        let bound = relay::bind(&config, InstanceId::from_bytes([number; 16])).unwrap();
        let (id, endpoint, shutdown) = (bound.relay(), bound.endpoints()[0], CancellationToken::new());
        let metrics = Arc::new(relay::Metrics::register(&telemetry::Registry::new()).unwrap());
        let seams = relay::Seams { bus: Bus::memory(&self.hub, InstanceId::from_bytes([number; 16])), metrics };
        let mut role = JoinSet::new();
        role.spawn(bound.run(seams, shutdown.clone()));
        Relay { id, endpoint, shutdown, role }
    }

    async fn counted(&self, payer: PayerId) -> u64 {
        self.stores.accounts.relayed(payer, Month::of(SystemTime::now().into())).await.unwrap()
    }

    async fn end(mut self) {
        self.shutdown.cancel();
        self.auth.join_next().await.unwrap().unwrap().unwrap();
        self.stores.close().await;
    }
}

impl Relay {
    /// Two joined legs, for which these pay.
    fn pair(&self, alice: PayerId, bert: PayerId) -> (UdpSocket, UdpSocket, Slot) {
        let leg = |side, payer| {
            let key = TicketRoot::new([1; 32]).key(self.id);
            let (pair, rate, expires) = (PairNonce([3; 16]), Bandwidth::UNLIMITED, UnixMillis(u64::MAX));
            let ticket = key.seal(&Ticket { relay: self.id, pair, side, rate, payer, expires });
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(self.endpoint).unwrap();
            let mut cookie = Cookie::default();
            loop {
                let proof = prove(&key.leg_key(&ticket), cookie, &ticket);
                socket.send(&Message::Join(Join { cookie, ticket: &ticket, proof: &proof }).to_vec()).unwrap();
                match Message::parse(&receive(&socket)) {
                    Some(Message::Challenge { cookie: fresh }) => cookie = fresh,
                    Some(Message::Joined { slot, .. }) => return (socket, slot),
                    other => panic!("{other:?}"),
                }
            }
        };
        let ((alice, slot), (bert, _)) = (leg(LegSide::A, alice), leg(LegSide::B, bert));
        (alice, bert, slot)
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.role.join_next().await.unwrap().unwrap().unwrap();
    }
}
