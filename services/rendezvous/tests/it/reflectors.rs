//! The reflectors on real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bus::{Bus, memory::Hub};
use contract::rendezvous::{ReflectFrom, ReflectorBeat};
use domain::{InstanceId, Probe, SessionTag, TransactionId, Vantage};
use presence::Presence;
use rendezvous::{Config, Metrics, Probed, Seams};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use wire::probe::{Answer, MAX_ANSWER_SIZE, ObservationKey, QUESTION_SIZE, answer, framed, question};

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
async fn both_families_have_reflectors_and_the_ones_of_ipv4_are_named_first() {
    let addresses = ["::1", "127.0.0.1", "127.0.0.2"].map(|text| text.parse().unwrap()).to_vec();
    let lab = Lab::new(Config { addresses, ..Config::default() });
    let families: Vec<_> = lab.reflectors.iter().map(|at| at.ip().to_string()).collect();
    assert_eq!(families, ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2", "::1", "::1"]);
    let socket = UdpSocket::bind("[::1]:0").await.unwrap();
    let (from, answer) = lab.ask(&socket, lab.reflectors[4], Vantage::OtherPort).await.unwrap();
    assert_eq!(from, lab.reflectors[5]);
    let Answer::Reflected(reflected) = answer else { panic!("{answer:?}") };
    assert_eq!((reflected.seen, reflected.ttl), (socket.local_addr().unwrap(), 64));
    let (_, refused) = lab.ask(&socket, lab.reflectors[4], Vantage::OtherAddress).await.unwrap();
    assert!(matches!(refused, Answer::Refused { code: 420, .. }), "no second address of this family");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_comes_after_the_silence_that_was_asked_for() {
    let lab = Lab::new(Config::default());
    let [anna, bert] = [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
    let asked = Instant::now();
    anna.send_to(&question(&late(185)), lab.reflectors[1]).await.unwrap();
    bert.send_to(&question(&late(20)), lab.reflectors[1]).await.unwrap();
    for (socket, seconds) in [(&bert, 20), (&anna, 185)] {
        let mut datagram = [0; MAX_ANSWER_SIZE];
        let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
        assert_eq!(asked.elapsed().as_secs(), seconds);
        assert_eq!(from, lab.reflectors[1]);
        assert!(length <= QUESTION_SIZE);
        let Ok(Answer::Reflected(reflected)) = answer(&datagram[..length]) else { panic!("{length}") };
        assert_eq!(reflected.seen, socket.local_addr().unwrap());
    }
    lab.stop().await;
}

#[tokio::test]
async fn a_source_has_few_answers_that_wait() {
    let lab = Lab::new(Config::default());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..12 {
        socket.send_to(&question(&late(185)), lab.reflectors[0]).await.unwrap();
    }
    lab.ask(&socket, lab.reflectors[0], Vantage::Asked).await.unwrap();
    assert_eq!(lab.metrics.probes(Probed::Limited), 4);
    lab.stop().await;
}

#[tokio::test]
async fn a_connection_is_told_where_it_comes_from_again_and_again() {
    let lab = Lab::new(Config::default());
    for &endpoint in &lab.reflectors {
        let mut stream = TcpStream::connect(endpoint).await.unwrap();
        let here = stream.local_addr().unwrap();
        // Two questions in one segment, and one in two.
        stream.write_all(&[question(&now()), question(&now())].concat()).await.unwrap();
        assert_eq!([seen(&mut stream).await, seen(&mut stream).await], [Some(here); 2]);
        let asks = question(&now());
        stream.write_all(&asks[..30]).await.unwrap();
        stream.write_all(&asks[30..]).await.unwrap();
        assert_eq!(seen(&mut stream).await, Some(here));
        let elsewhere = Probe { answer_from: Vantage::OtherAddress, ..now() };
        stream.write_all(&question(&elsewhere)).await.unwrap();
        assert!(matches!(read_answer(&mut stream).await, Some(Answer::Refused { code: 420, .. })));
    }
    lab.stop().await;
}

#[tokio::test]
async fn a_connection_ends_with_its_sixteenth_answer_and_with_the_first_nonsense() {
    let lab = Lab::new(Config::default());
    let mut stream = TcpStream::connect(lab.reflectors[0]).await.unwrap();
    for _ in 0..16 {
        stream.write_all(&question(&now())).await.unwrap();
        assert!(seen(&mut stream).await.is_some());
    }
    assert_eq!(seen(&mut stream).await, None);
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 1, 0xff, 0xfc], &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x43]] {
        let mut stream = TcpStream::connect(lab.reflectors[0]).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        assert_eq!(seen(&mut stream).await, None);
    }
    assert_eq!(lab.metrics.probes(Probed::Ignored), 3);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_ends_soon_and_one_that_was_answered_stays_a_minute() {
    let lab = Lab::new(Config::default());
    let started = Instant::now();
    let mut silent = TcpStream::connect(lab.reflectors[0]).await.unwrap();
    let mut anchor = TcpStream::connect(lab.reflectors[0]).await.unwrap();
    let mut slow = TcpStream::connect(lab.reflectors[0]).await.unwrap();
    anchor.write_all(&question(&now())).await.unwrap();
    assert!(seen(&mut anchor).await.is_some());
    slow.write_all(&question(&now())[..191]).await.unwrap();
    assert_eq!(seen(&mut silent).await, None);
    assert_eq!(seen(&mut slow).await, None);
    assert_eq!(started.elapsed().as_secs(), 10);
    assert_eq!(seen(&mut anchor).await, None);
    assert_eq!(started.elapsed().as_secs(), 60);
    lab.stop().await;
}

#[tokio::test]
async fn connections_are_bounded_for_a_source_and_in_all() {
    for (connections, connections_per_source) in [(100, 2), (2, 100)] {
        let lab = Lab::new(Config { connections, connections_per_source, ..Config::default() });
        let mut first = TcpStream::connect(lab.reflectors[0]).await.unwrap();
        let mut second = TcpStream::connect(lab.reflectors[3]).await.unwrap();
        for stream in [&mut first, &mut second] {
            stream.write_all(&question(&now())).await.unwrap();
            assert!(seen(stream).await.is_some());
        }
        let mut third = TcpStream::connect(lab.reflectors[0]).await.unwrap();
        assert_eq!(seen(&mut third).await, None);
        assert_eq!(lab.metrics.probes(Probed::Limited), 1);

        drop(first);
        let place = async {
            loop {
                let mut stream = TcpStream::connect(lab.reflectors[0]).await.unwrap();
                let _ = stream.write_all(&question(&now())).await;
                if seen(&mut stream).await.is_some() {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(10), place).await.unwrap();
        lab.stop().await;
    }
}

#[tokio::test]
async fn a_source_that_connects_again_and_again_is_cut_off_for_a_while() {
    let lab = Lab::new(Config { answers_per_source: 5, ..Config::default() });
    let mut answered = 0;
    for _ in 0..12 {
        let mut stream = TcpStream::connect(lab.reflectors[0]).await.unwrap();
        let _ = stream.write_all(&question(&now())).await;
        answered += u32::from(seen(&mut stream).await.is_some());
    }
    assert!((5..12).contains(&answered), "{answered}");
    lab.stop().await;
}

#[tokio::test]
async fn without_connections_there_is_no_port_for_them() {
    let lab = Lab::new(Config { connections: 0, ..Config::default() });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    lab.ask(&socket, lab.reflectors[0], Vantage::Asked).await.unwrap();
    assert!(TcpStream::connect(lab.reflectors[0]).await.is_err());
    lab.stop().await;
}

#[tokio::test]
async fn no_answer_is_larger_than_a_question_with_a_tag() {
    let lab = Lab::new(Config { larger_answers_per_source: 1, ..Config::default() });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut unpadded = vec![0, 1, 0, 20, 0x21, 0x12, 0xa4, 0x42];
    unpadded.extend([9; 12]);
    unpadded.extend([0xc0, 0xb0, 0, 16]);
    unpadded.extend(TAG.0);
    socket.send_to(&unpadded, lab.reflectors[0]).await.unwrap();
    for vantage in [Vantage::Asked, Vantage::OtherPort, Vantage::OtherAddress, Vantage::Opposite] {
        let probe = Probe { answer_from: vantage, ..now() };
        socket.send_to(&question(&probe), lab.reflectors[0]).await.unwrap();
        let mut datagram = [0; 2 * QUESTION_SIZE];
        let (length, _) = socket.recv_from(&mut datagram).await.unwrap();
        assert!(length <= QUESTION_SIZE);
    }
    assert_eq!((lab.metrics.probes(Probed::Ignored), lab.metrics.probes(Probed::Answered)), (1, 4));
    lab.stop().await;
}

#[tokio::test]
async fn two_processes_with_one_address_each_answer_for_one_another() {
    let hub = Hub::default();
    let [one, two] = [(1, "127.0.0.1"), (2, "127.0.0.2")].map(|(number, address)| {
        let config = Config { addresses: vec![address.parse().unwrap()], ..Config::default() };
        Lab::on(&hub, InstanceId::from_bytes([number; 16]), config)
    });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (asked, other) in [(&one, &two), (&two, &one)] {
        let learned = async {
            // Until a beat was heard there is no second address.
            while let (_, Answer::Refused { code: 420, .. }) =
                asked.ask(&socket, asked.reflectors[0], Vantage::OtherAddress).await.unwrap()
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(10), learned).await.unwrap();
        for (vantage, from) in [(Vantage::OtherAddress, 0), (Vantage::Opposite, 1)] {
            let (came_from, answer) = asked.ask(&socket, asked.reflectors[0], vantage).await.unwrap();
            assert_eq!(came_from, other.reflectors[from]);
            let Answer::Reflected(reflected) = answer else { panic!("{answer:?}") };
            assert_eq!(reflected.seen, socket.local_addr().unwrap());
        }
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn an_answer_that_nobody_sends_from_the_other_address_is_counted_as_lost() {
    let hub = Hub::default();
    let addresses = vec!["127.0.0.1".parse().unwrap()];
    let lab = Lab::on(&hub, InstanceId::from_bytes([1; 16]), Config { addresses, ..Config::default() });
    let other = Bus::memory(&hub, "another process");
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoints = vec!["127.0.0.2:9".parse().unwrap()];
    let beat = ReflectorBeat { instance: InstanceId::from_bytes([2; 16]), endpoints };
    let question = question(&Probe { answer_from: Vantage::OtherAddress, ..now() });
    let lost = async {
        while lab.metrics.probes(Probed::Lost) == 0 {
            other.publish(&beat).await.unwrap();
            socket.send_to(&question, lab.reflectors[0]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), lost).await.unwrap();
    lab.stop().await;
}

#[tokio::test]
async fn nothing_but_stun_is_sent_for_another_and_within_a_budget() {
    let hub = Hub::default();
    let instance = InstanceId::from_bytes([1; 16]);
    let lab = Lab::on(&hub, instance, Config { answers_per_source: 3, ..Config::default() });
    let other = Bus::memory(&hub, "another process");
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = |answer: Vec<u8>| ReflectFrom { from: lab.reflectors[2], to: socket.local_addr().unwrap(), answer };
    // Not before it listens.
    let told = async {
        while other.publish_to(instance, &request(b"noise".to_vec())).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), told).await.unwrap();
    let too_large = [question(&now()), vec![0; 200]].concat();
    for answer in [vec![0; 20], too_large, question(&now()), question(&now()), question(&now()), question(&now())] {
        other.publish_to(instance, &request(answer)).await.unwrap();
    }
    for _ in 0..3 {
        let mut datagram = [0; 512];
        let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
        assert_eq!((length, from), (QUESTION_SIZE, lab.reflectors[2]));
    }
    let counted = async {
        while (lab.metrics.probes(Probed::Ignored), lab.metrics.probes(Probed::Limited)) != (3, 1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), counted).await.unwrap();
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
    let three = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|text| text.parse().unwrap()).to_vec();
    assert!(refused(Config { addresses: three, ..config.clone() }).contains("of each family"));
    let crossed = ["::1", "::2"].map(|text| text.parse().unwrap()).to_vec();
    assert!(refused(Config { public: crossed, ..config.clone() }).contains("same families"));
    let public = vec!["203.0.113.1".parse().unwrap()];
    assert!(refused(Config { public, ..config.clone() }).contains("as many public"));
    assert!(refused(Config { ticket_root: short, ..config.clone() }).contains("32 bytes"));
    assert!(refused(Config { ticket_root: dir.path().join("none"), ..config }).contains("cannot read"));
}

const fn now() -> Probe {
    late(0)
}

const fn late(delay_s: u8) -> Probe {
    Probe { transaction: TransactionId([4; 12]), tag: Some(TAG), answer_from: Vantage::Asked, delay_s }
}

/// Where the next answer says that it comes from; `None` when the connection ends.
async fn seen(stream: &mut TcpStream) -> Option<SocketAddr> {
    match read_answer(stream).await? {
        Answer::Reflected(reflected) => Some(reflected.seen),
        refused @ Answer::Refused { .. } => panic!("{refused:?}"),
    }
}

async fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = vec![0; 20];
    stream.read_exact(&mut bytes).await.ok()?;
    let length = framed(&bytes).unwrap().unwrap();
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[20..]).await.ok()?;
    Some(answer(&bytes).unwrap())
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
        Self::on(&Hub::default(), InstanceId::from_bytes([1; 16]), config)
    }

    fn on(hub: &Hub, instance: InstanceId, config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, SECRET).unwrap();
        let config = Config { observation_key: key.clone(), ticket_root: key, ports: [0, 0], ..config };
        let bound = rendezvous::bind(config).unwrap();
        let metrics = Arc::new(Metrics::register(&telemetry::registry()).unwrap());
        let seams = Seams {
            bus: Bus::memory(hub, instance),
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
