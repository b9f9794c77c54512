//! How the control connection finds a server, whom it believes, and when it comes back.

use std::{sync::Arc, time::Duration};

use client::{
    command::ControlState,
    control::{Control, Link},
    daemon::ControlEvent,
    home::Home,
};
use domain::{KnownNetwork, NetworkId, Revision, TunnelKey};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use wire::{
    Code,
    control::{ClientFrame, Refused, Request, ServerFrame},
    secure::{SecureError, rejection},
};

use crate::server::{PATIENCE, Server};

const SECRET: [u8; 32] = [5; 32];

/// Longer than the first delays of a client that wants to come back.
const A_WHILE: Duration = Duration::from_millis(1_500);

#[tokio::test]
async fn a_session_carries_frames_both_ways_and_ends_with_a_goodbye() {
    let server = Server::new(0, SECRET).await;
    let mut client = Client::start(&server.url_of(SECRET), None);
    let mut session = server.accept().await.unwrap();
    let login = session.welcome().await;
    assert_eq!((login.token, login.known), (None, client.known()));
    client.connected().await;

    session.send(&ServerFrame::Resync).await;
    assert!(matches!(client.event().await, ControlEvent::Frame(ServerFrame::Resync)));
    let question = ClientFrame::Request(1, Request::Leave(NetworkId::from_bytes([1; 16])));
    client.frames.send(question.clone()).await.unwrap();
    assert_eq!(session.receive().await, Some(question));

    client.shutdown.cancel();
    assert_eq!(session.receive().await, Some(ClientFrame::Goodbye));
    drop(session);
    client.stop().await;
}

#[tokio::test]
async fn a_server_without_a_fingerprint_is_pinned_at_first_use() {
    let server = Server::new(1, SECRET).await;
    let mut client = Client::start(&server.url(), None);
    let mut session = server.accept().await.unwrap();
    session.welcome().await;
    client.connected().await;
    drop(session);
    let home = client.stop().await;
    let url = server.url();
    let impostor = server.with_secret([6; 32]);
    let mut client = Client::start_in(home, &url, None);
    assert!(matches!(impostor.accept().await, Err(SecureError::KeyMismatch)));
    assert!(matches!(impostor.accept_web().await, Err(SecureError::KeyMismatch)));
    let (state, detail) = client.standing().await;
    assert_eq!(state, ControlState::Offline);
    assert!(detail.starts_with(Code::ServerKeyMismatch.name()), "{detail}");
    client.stop().await;
}

#[tokio::test]
async fn a_replaced_client_does_not_come_back() {
    let server = Server::new(2, SECRET).await;
    let mut client = Client::start(&server.url_of(SECRET), None);
    let mut session = server.accept().await.unwrap();
    session.welcome().await;
    client.connected().await;
    session.end(Refused::because(Code::Replaced)).await;
    assert!(matches!(client.event().await, ControlEvent::Lost));
    let (state, detail) = client.standing().await;
    assert_eq!(state, ControlState::Offline);
    assert!(detail.starts_with(Code::Replaced.name()), "{detail}");
    assert!(server.is_left_alone(A_WHILE).await);
    client.stop().await;
}

#[tokio::test]
async fn a_rejection_that_anybody_could_have_made_ends_nothing() {
    let server = Server::new(3, SECRET).await;
    let client = Client::start(&server.url_of(SECRET), None);
    let (mut stream, _) = server.plain.accept().await.unwrap();
    stream.write_all(&rejection(Code::Replaced, None)).await.unwrap();
    drop(stream);
    server.accept().await.unwrap().welcome().await;
    client.stop().await;
}

#[tokio::test]
async fn a_server_that_is_full_is_left_alone_for_the_time_it_names() {
    let server = Server::new(4, SECRET).await;
    let client = Client::start(&server.url_of(SECRET), None);
    let (mut stream, _) = server.plain.accept().await.unwrap();
    let named = Duration::from_millis(700);
    stream.write_all(&rejection(Code::Busy, Some(named))).await.unwrap();
    let asked = Instant::now();
    drop(stream);
    assert!(server.is_left_alone(named / 2).await, "on no way");
    server.accept().await.unwrap().welcome().await;
    assert!(asked.elapsed() >= named);
    client.stop().await;
}

#[tokio::test]
async fn a_client_comes_back_after_the_delay_that_the_server_named_and_shows_its_token() {
    let server = Server::new(5, SECRET).await;
    let mut client = Client::start(&server.url_of(SECRET), None);
    let mut session = server.accept().await.unwrap();
    session.welcome().await;
    client.connected().await;
    session.send(&ServerFrame::Token("a fresh token".to_owned())).await;
    let known = vec![KnownNetwork { network: NetworkId::from_bytes([7; 16]), revision: Revision(3) }];
    client.known.send(known.clone()).unwrap();
    let named = Duration::from_millis(600);
    let told = Instant::now();
    session.end(Refused::after(Code::Draining, named)).await;
    let mut session = server.accept().await.unwrap();
    assert!(told.elapsed() >= named);
    let login = session.welcome().await;
    assert_eq!((login.token.as_deref(), login.known), (Some("a fresh token"), known));
    client.stop().await;
}

#[tokio::test]
async fn a_lost_session_is_told_and_sought_again() {
    let server = Server::new(6, SECRET).await;
    let mut client = Client::start(&server.url_of(SECRET), None);
    let mut session = server.accept().await.unwrap();
    session.welcome().await;
    client.connected().await;
    drop(session);
    assert!(matches!(client.event().await, ControlEvent::Lost));
    assert_eq!(client.standing().await.0, ControlState::Connecting);
    server.accept().await.unwrap().welcome().await;
    client.connected().await;
    client.stop().await;
}

#[tokio::test]
async fn a_closed_port_leads_to_the_websocket_which_is_remembered() {
    let server = Server::new(7, SECRET).await;
    let mut client = Client::start(&format!("{}#{}", server.web_url(), key()), None);
    server.accept_web().await.unwrap().welcome().await;
    client.connected().await;
    let home = client.stop().await;
    let Some(ways) = Home::at(home.path()).load::<serde_json::Value>("ways.json").unwrap() else {
        // Without a route there is no local network to remember it for.
        return;
    };
    assert!(ways.to_string().contains("8443"), "{ways}");

    let mut client = Client::start_in(home, &server.url_of(SECRET), None);
    server.accept_web().await.unwrap().welcome().await;
    client.connected().await;
    client.stop().await;
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel() {
    let server = Server::new(8, SECRET).await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let mut client = Client::start(&server.url_of(SECRET), Some(&url));
    let proxying = async {
        loop {
            let (mut inside, _) = proxy.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(inside.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
            let Ok(mut outside) = TcpStream::connect(&target).await else {
                inside.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await.unwrap();
                continue;
            };
            inside.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            tokio::io::copy_bidirectional(&mut inside, &mut outside).await.unwrap();
        }
    };
    let logging_in = async {
        let mut session = server.accept_web().await.unwrap();
        session.welcome().await;
        client.connected().await;
        session
    };
    let session = tokio::select! {
        () = proxying => unreachable!("a proxy does not end"),
        session = logging_in => session,
    };
    drop(session);
    client.stop().await;
}

#[tokio::test]
async fn a_signature_that_is_refused_is_no_reason_to_hurry() {
    let server = Server::new(9, SECRET).await;
    let mut client = Client::start(&server.url_of(SECRET), None);
    let mut session = server.accept().await.unwrap();
    session.login().await;
    session.send(&ServerFrame::Refused(Refused::because(Code::SignatureInvalid))).await;
    let (state, detail) = client.standing().await;
    assert_eq!(state, ControlState::Offline);
    assert!(detail.starts_with(Code::SignatureInvalid.name()), "{detail}");
    drop(session);
    assert!(server.is_left_alone(A_WHILE).await);
    client.stop().await;
}

/// A control connection, and the daemon's end of it.
struct Client {
    dir: tempfile::TempDir,
    events: mpsc::Receiver<ControlEvent>,
    frames: mpsc::Sender<ClientFrame>,
    known: watch::Sender<Vec<KnownNetwork>>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Client {
    fn start(server: &str, proxy: Option<&str>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), server, proxy)
    }

    fn start_in(dir: tempfile::TempDir, server: &str, proxy: Option<&str>) -> Self {
        let home = Home::open(dir.path()).unwrap();
        let tunnel = TunnelKey::from_bytes([3; 32]);
        let (tell, events) = mpsc::channel(64);
        let (frames, told) = mpsc::channel(64);
        let (known, knowing) = watch::channel(Vec::new());
        let link =
            Link { events: tell, frames: told, known: knowing, wanted: Arc::new(Notify::new()), moved: Arc::default() };
        let control = Control::new(home, server, proxy, tunnel, link).unwrap();
        let shutdown = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
        let running = tokio::spawn(control.run(shutdown.clone()));
        Self { dir, events, frames, known, shutdown, running }
    }

    fn known(&self) -> Vec<KnownNetwork> {
        self.known.borrow().clone()
    }

    async fn event(&mut self) -> ControlEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("nothing happens").unwrap()
    }

    /// Waits for the next session.
    async fn connected(&mut self) {
        while !matches!(self.event().await, ControlEvent::Connected(_)) {}
    }

    /// The next standing that has words to it.
    async fn standing(&mut self) -> (ControlState, String) {
        loop {
            if let ControlEvent::Standing(state, Some(detail), _) = self.event().await {
                return (state, detail);
            }
        }
    }

    async fn stop(self) -> tempfile::TempDir {
        self.shutdown.cancel();
        timeout(PATIENCE, self.running).await.expect("the connection does not end").unwrap();
        self.dir
    }
}

fn key() -> String {
    wire::secure::ServerSecret::from_bytes(SECRET).public().to_string()
}
