//! Ordinary programs of a LAN, on the virtual network.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    client::{Client, INTERFACE},
    lab::Lab,
    site::Host,
};

/// So many packets.
const A_SECOND: u32 = 5;

/// The system's `ping`, five packets a second.
#[derive(Debug)]
pub(crate) struct Ping {
    child: Child,
    output: PathBuf,
}

/// How a ping went.
#[derive(Debug)]
pub(crate) struct Pinged {
    pub(crate) sent: u32,
    /// The numbers of packets without an answer. Those of the last second may still have been on their way on a machine with
    /// more to do, and are left out if anything was answered.
    pub(crate) lost: Vec<u32>,
    /// By how much later than it was to the last packet left: for so long the machine let not even `ping` run.
    late: Duration,
}

impl Ping {
    /// Goes on until it is stopped.
    pub(crate) fn start(lab: &Lab, from: &Host, to: impl Into<IpAddr>) -> Self {
        Self::spawn(lab, from, to.into(), &[])
    }

    /// Pings for this long, and a second for the last answers, then tells.
    pub(crate) fn for_seconds(lab: &Lab, from: &Host, to: impl Into<IpAddr>, seconds: u32) -> Pinged {
        let mut ping = Self::spawn(lab, from, to.into(), &["-w", &(seconds + 1).to_string()]);
        ping.child.wait().unwrap();
        ping.read()
    }

    /// Ends it, and tells.
    pub(crate) fn stop(mut self) -> Pinged {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        self.read()
    }

    fn spawn(lab: &Lab, from: &Host, to: IpAddr, more: &[&str]) -> Self {
        let output = lab.folder("ping").join(format!("{}-{to}", from.namespace));
        let mut command = from.namespace.command("ping");
        command.args(["-n", "-i", "0.2"]).args(more).arg(to.to_string());
        let child = command.stdin(Stdio::null()).stdout(File::create(&output).unwrap()).spawn().unwrap();
        Self { child, output }
    }

    fn read(&self) -> Pinged {
        let text = fs::read_to_string(&self.output).unwrap();
        let sent: u32 = text
            .lines()
            .find_map(|line| line.split_once(" packets transmitted").map(|(sent, _)| sent.parse().unwrap()))
            .unwrap_or_else(|| panic!("ping said: {text}"));
        let answered: Vec<u32> = text
            .lines()
            .filter(|line| line.contains("time="))
            .filter_map(|line| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok())
            .collect();
        let took = text.lines().find_map(|line| line.split_once(", time ")?.1.strip_suffix("ms")?.parse().ok());
        let due = Duration::from_secs(1) / A_SECOND * sent.saturating_sub(1);
        let late = Duration::from_millis(took.unwrap_or_else(|| panic!("ping said: {text}"))).saturating_sub(due);
        let last = if answered.is_empty() { 1 } else { A_SECOND };
        let counted = sent.saturating_sub(last).max(answered.iter().copied().max().unwrap_or(0));
        Pinged { sent, lost: (1..=counted).filter(|number| !answered.contains(number)).collect(), late }
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pinged {
    /// Checks that there was traffic, and that every packet was answered.
    #[track_caller]
    pub(crate) fn assert_uninterrupted(&self) {
        assert!(self.sent > 1, "{self:?}");
        assert_eq!(self.lost, [0_u32; 0], "of {} packets", self.sent);
    }

    /// The longest silence, in packets.
    pub(crate) fn longest_gap(&self) -> u32 {
        let (mut longest, mut run, mut last) = (0, 0, 0);
        for &number in &self.lost {
            run = if number == last + 1 { run + 1 } else { 1 };
            (longest, last) = (longest.max(run), number);
        }
        longest
    }
}

/// Checks that of pings at the same time only what was under way at one moment was lost: one packet each, and as many as were due
/// while the machine stood still.
#[track_caller]
pub(crate) fn assert_lost_at_one_moment(pings: &[Pinged]) {
    let late = pings.iter().map(|ping| ping.late).max().unwrap_or_default();
    let most = 1 + (late.as_secs_f64() * f64::from(A_SECOND)) as usize;
    for ping in pings {
        let at_once = ping.longest_gap() as usize == ping.lost.len();
        assert!(ping.sent > 1 && at_once && ping.lost.len() <= most, "{pings:?}");
    }
}

/// Sends a file's worth of bytes over TCP, and checks that they arrive as they left.
pub(crate) fn transfer(from: &Client, to: &Client) {
    let address = to.address4();
    let listener = to.host().namespace.enter(|| TcpListener::bind((address, 0)).unwrap());
    let at = listener.local_addr().unwrap();
    let received = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let mut stream = from.host().namespace.enter(|| TcpStream::connect_timeout(&at, PATIENCE).unwrap());
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let bytes: Vec<u8> = (0..FILE).map(pattern).collect();
    stream.write_all(&bytes).unwrap();
    drop(stream);
    assert!(received.join().unwrap() == bytes, "the bytes arrive as they left");
}

/// Bytes that flow over TCP until they are stopped, a few every moment.
#[derive(Debug)]
pub(crate) struct Transfer {
    stops: Arc<AtomicBool>,
    sending: JoinHandle<usize>,
    receiving: JoinHandle<usize>,
}

impl Transfer {
    /// Begins to send.
    pub(crate) fn start(from: &Client, to: &Client) -> Self {
        let address = to.address4();
        let listener = to.host().namespace.enter(|| TcpListener::bind((address, 0)).unwrap());
        let at = listener.local_addr().unwrap();
        let receiving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let (mut buffer, mut received) = (vec![0; 64 << 10], 0);
            loop {
                let length = stream.read(&mut buffer).expect("the transfer goes on");
                if length == 0 {
                    return received;
                }
                for &byte in &buffer[..length] {
                    assert_eq!(byte, pattern(received), "byte {received}");
                    received += 1;
                }
            }
        });
        let mut stream = from.host().namespace.enter(|| TcpStream::connect_timeout(&at, PATIENCE).unwrap());
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let stops = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stops);
        let sending = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                let some: Vec<u8> = (sent..sent + (4 << 10)).map(pattern).collect();
                stream.write_all(&some).expect("the transfer goes on");
                sent += some.len();
                std::thread::park_timeout(Duration::from_millis(20));
            }
            sent
        });
        Self { stops, sending, receiving }
    }

    /// Stops sending, and checks that everything arrives as it left. Returns how much that is.
    #[track_caller]
    pub(crate) fn finish(self) -> usize {
        self.stops.store(true, Ordering::Relaxed);
        let sent = self.sending.join().unwrap();
        assert_eq!(self.receiving.join().unwrap(), sent);
        sent
    }
}

/// The byte at `place` of everything that is sent.
const fn pattern(place: usize) -> u8 {
    (place / 251 % 256) as u8
}

/// Shouts into the LAN as games do, and checks that the other side hears it, once, and from whom.
pub(crate) fn broadcast(from: &Client, to: &Client) {
    let listening = to.host().namespace.enter(|| udp((Ipv4Addr::UNSPECIFIED, GAME).into()));
    let (address, at) = (from.address4(), SocketAddr::from((Ipv4Addr::BROADCAST, GAME)));
    let shouting = from.host().namespace.enter(|| udp((address, 0).into()));
    shouting.set_broadcast(true).unwrap();
    shouting.send_to(b"anybody here?", at).unwrap();

    let mut packet = [0; 64];
    let (length, sender) = listening.recv_from(&mut packet).expect("the broadcast arrives");
    assert_eq!((&packet[..length], sender), (&b"anybody here?"[..], shouting.local_addr().unwrap()));
    listening.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(listening.recv_from(&mut packet).unwrap_err().kind(), ErrorKind::WouldBlock, "it arrives once");
}

/// Shouts so many times, ten times a second, and checks that everybody hears each call once and in order.
pub(crate) fn shout(from: &Client, to: &[&Client], times: u8) {
    let hear = |client: &&Client| client.host().namespace.enter(|| udp((Ipv4Addr::UNSPECIFIED, GAME).into()));
    let listening: Vec<_> = to.iter().map(hear).collect();
    let (address, at) = (from.address4(), SocketAddr::from((Ipv4Addr::BROADCAST, GAME)));
    let shouting = from.host().namespace.enter(|| udp((address, 0).into()));
    shouting.set_broadcast(true).unwrap();
    for call in 0..times {
        shouting.send_to(&[call; 100], at).unwrap();
        std::thread::park_timeout(Duration::from_millis(100));
    }
    for socket in listening {
        let mut packet = [0; 128];
        for call in 0..times {
            let (length, sender) = socket.recv_from(&mut packet).expect("every call arrives");
            assert_eq!((&packet[..length], sender), (&[call; 100][..], shouting.local_addr().unwrap()));
        }
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(socket.recv_from(&mut packet).unwrap_err().kind(), ErrorKind::WouldBlock, "it arrives once");
    }
}

/// Asks for a service by mDNS (RFC 6762), and checks that a responder on the other side answers by multicast.
pub(crate) fn discover(from: &Client, to: &Client) {
    let responder = mdns(to);
    let answering = std::thread::spawn(move || {
        let mut packet = [0; 512];
        loop {
            let (length, _) = responder.recv_from(&mut packet).expect("the question arrives");
            if packet[..length] == *question() {
                responder.send_to(&answer(), (MDNS, MDNS_PORT)).unwrap();
                return;
            }
        }
    });
    let asking = mdns(from);
    asking.send_to(&question(), (MDNS, MDNS_PORT)).unwrap();
    let mut packet = [0; 512];
    loop {
        let (length, sender) = asking.recv_from(&mut packet).expect("the answer arrives");
        if packet[..length] == *answer() {
            assert_eq!(sender, SocketAddr::from((to.address4(), MDNS_PORT)));
            break;
        }
    }
    answering.join().unwrap();
}

/// A socket of a responder, on the virtual interface.
fn mdns(client: &Client) -> UdpSocket {
    let address = client.address4();
    client.host().namespace.enter(|| {
        let socket = udp((Ipv4Addr::UNSPECIFIED, MDNS_PORT).into());
        socket.join_multicast_v4(&MDNS, &address).unwrap();
        let socket = Socket::from(socket);
        socket.set_multicast_if_v4(&address).unwrap();
        socket.into()
    })
}

/// A patient socket that uses the virtual interface only.
fn udp(at: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind_device(Some(INTERFACE.as_bytes())).unwrap();
    socket.bind(&at.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// "Who offers _buri._udp.local?"
fn question() -> Vec<u8> {
    [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], SERVICE, &[0, 12, 0, 1]].concat()
}

/// "host._buri._udp.local does", for two minutes.
fn answer() -> Vec<u8> {
    let target = [b"\x04host", SERVICE].concat();
    let head = [0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    [&head, SERVICE, &[0, 12, 0, 1, 0, 0, 0, 120, 0, target.len() as u8], &target].concat()
}

const SERVICE: &[u8] = b"\x05_buri\x04_udp\x05local\x00";
const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const MDNS_PORT: u16 = 5353;
const GAME: u16 = 27_015;
const FILE: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
