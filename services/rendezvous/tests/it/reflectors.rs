//! The reflectors on real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bus::{Bus, memory::Hub};
use domain::{InstanceId, Probe, SessionTag, TransactionId, Vantage};
use presence::Presence;
use rendezvous::{Config, Metrics, Probed, Seams};
use tokio::{net::UdpSocket, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use wire::probe::{Answer, MAX_ANSWER_SIZE, ObservationKey, answer, question};

const SECRET: [u8; 32] = [7; 32];
const TAG: SessionTag = SessionTag([3; 16]);

#[tokio::test]
async fn a_reflector_tells_where_it_sees_a_client_and_seals_it() {
    let lab = Lab::new(Config::default());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for &endpoint in &lab.reflectors {
        let (from, answer) = lab.ask(&socket, endpoint, Vantage::Asked).await.unwrap();
        let Answer::Reflected(reflected) = answer else { panic!("{answer:?}") };
        assert_eq!(from, endpoint);
        assert_eq!(reflected.seen, socket.local_addr().unwrap());
        assert_eq!(reflected.ttl, 64, "loopback has no routers");
        let observation = reflected.observation.unwrap();
        let observed = ObservationKey::new(&SECRET).open(&observation, TAG, rendezvous::wall_clock()).unwrap();
        assert_eq!((observed.seen, observed.reflector), (reflected.seen, endpoint));
    }
    assert_eq!(lab.metrics.probes(Probed::Answered), 4);
    lab.stop().await;
}

#[tokio::test]
async fn an_answer_comes_from_where_it_was_asked_to_come() {
    let lab = Lab::new(Config::default());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let [r1p, r1q, r2p, r2q] = lab.reflectors[..] else { panic!("{:?}", lab.reflectors) };
    for (vantage, expected) in [(Vantage::OtherPort, r1q), (Vantage::OtherAddress, r2p), (Vantage::Opposite, r2q)] {
        let (from, _) = lab.ask(&socket, r1p, vantage).await.unwrap();
        assert_eq!(from, expected);
    }
    lab.stop().await;
}

#[tokio::test]
async fn plain_questions_of_one_source_are_answered_within_a_budget() {
    let lab = Lab::new(Config { larger_answers_per_source: 3, ..Config::default() });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut plain = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    plain.extend([9; 12]);
    for _ in 0..20 {
        socket.send_to(&plain, lab.reflectors[0]).await.unwrap();
    }
    // The answer to a padded question comes after all of them.
    lab.ask(&socket, lab.reflectors[0], Vantage::Asked).await.unwrap();
    assert!(lab.metrics.probes(Probed::Limited) >= 16, "{}", lab.metrics.probes(Probed::Limited));
    socket.send_to(b"GET / HTTP/1.1", lab.reflectors[0]).await.unwrap();
    lab.ask(&socket, lab.reflectors[0], Vantage::Asked).await.unwrap();
    assert_eq!(lab.metrics.probes(Probed::Ignored), 1);
    lab.stop().await;
}

#[tokio::test]
async fn wrong_addresses_and_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (good, short) = (dir.path().join("good"), dir.path().join("short"));
    std::fs::write(&good, SECRET).unwrap();
    std::fs::write(&short, [1; 31]).unwrap();
    let config = Config { observation_key: good.clone(), ticket_root: good, ports: [0, 0], ..Config::default() };
    let refused = |config: Config| rendezvous::bind(config).unwrap_err().to_string();
    assert!(refused(Config { addresses: vec![], ..config.clone() }).contains("one or two addresses"));
    let mixed = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    assert!(refused(Config { addresses: mixed, ..config.clone() }).contains("one family"));
    let public = vec!["203.0.113.1".parse().unwrap()];
    assert!(refused(Config { public, ..config.clone() }).contains("as many public"));
    assert!(refused(Config { ticket_root: short, ..config.clone() }).contains("32 bytes"));
    assert!(refused(Config { ticket_root: dir.path().join("none"), ..config }).contains("cannot read"));
}

struct Lab {
    reflectors: Vec<SocketAddr>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), rendezvous::Error>>,
    _dir: tempfile::TempDir,
}

impl Lab {
    fn new(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, SECRET).unwrap();
        let config = Config { observation_key: key.clone(), ticket_root: key, ports: [0, 0], ..config };
        let bound = rendezvous::bind(config).unwrap();
        let metrics = Arc::new(Metrics::register(&telemetry::registry()).unwrap());
        let instance = InstanceId::from_bytes([1; 16]);
        let seams = Seams {
            bus: Bus::memory(&Hub::default(), instance),
            presence: Presence::memory(),
            instance,
            metrics: Arc::clone(&metrics),
            clock: rendezvous::wall_clock,
        };
        let shutdown = CancellationToken::new();
        let reflectors = bound.reflectors();
        let mut tasks = JoinSet::new();
        tasks.spawn(bound.run(seams, shutdown.clone()));
        Self { reflectors, metrics, shutdown, tasks, _dir: dir }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }

    /// Asks, skipping answers to other questions.
    async fn ask(&self, socket: &UdpSocket, to: SocketAddr, answer_from: Vantage) -> Option<(SocketAddr, Answer)> {
        let transaction = TransactionId(*b"0123456789ab");
        let probe = Probe { transaction, tag: Some(TAG), answer_from, delay_s: 0 };
        socket.send_to(&question(&probe), to).await.unwrap();
        let answered = async {
            loop {
                let mut datagram = [0; MAX_ANSWER_SIZE];
                let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
                let answer = answer(&datagram[..length]).unwrap();
                let foreign = matches!(&answer, Answer::Reflected(other) if other.transaction != transaction);
                if !foreign {
                    return (from, answer);
                }
            }
        };
        timeout(Duration::from_secs(10), answered).await.ok()
    }
}
