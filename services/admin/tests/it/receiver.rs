//! A receiver of webhooks: a listener of its own, that answers as it is told and keeps what it got.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

/// How it answers a request.
#[derive(Clone, Debug)]
pub(crate) enum Answers {
    Status(u16),
    /// Another place, in words.
    Elsewhere(String),
    /// Nothing, for as long as somebody waits.
    Never,
    /// A byte a moment.
    Dripping,
    /// A head, and then bytes for as long as somebody reads.
    Endless,
    /// The connection ends before the head does.
    Broken,
    /// Something that is no HTTP.
    Noise,
}

/// What it got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<mpsc::Sender<()>>,
}

type Answering = Box<dyn FnMut(&Got) -> Answers + Send>;

struct Shared {
    answers: Mutex<Answering>,
    got: Mutex<Vec<Got>>,
    most_at_once: Mutex<(usize, usize)>,
}

impl Receiver {
    /// Answers every request with what `answers` says of it.
    pub(crate) fn new(answers: impl FnMut(&Got) -> Answers + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answers: Mutex::new(Box::new(answers)),
            got: Mutex::default(),
            most_at_once: Mutex::default(),
        });
        let (stop, stopped) = mpsc::channel::<()>();
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.try_recv() != Err(mpsc::TryRecvError::Empty) {
                    return;
                }
                let (stream, serving) = (stream.unwrap(), Arc::clone(&serving));
                thread::spawn(move || serving.serve(stream));
            }
        });
        Self { address, shared, stop: Some(stop) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers otherwise from now on.
    pub(crate) fn answer(&self, answers: impl FnMut(&Got) -> Answers + Send + 'static) {
        *locked(&self.shared.answers) = Box::new(answers);
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        locked(&self.shared.got).clone()
    }

    /// The most requests that were there at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        locked(&self.shared.most_at_once).1
    }

    /// Waits until it got so many requests.
    pub(crate) async fn until(&self, requests: usize) -> Vec<Got> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let got = self.got();
            if got.len() >= requests {
                return got;
            }
            assert!(Instant::now() < deadline, "{} of {requests} requests came", got.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Wakes the listener up.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let Some(got) = read(&stream) else { return };
        {
            let mut at_once = locked(&self.most_at_once);
            at_once.0 += 1;
            at_once.1 = at_once.1.max(at_once.0);
        }
        let answer = (locked(&self.answers))(&got);
        locked(&self.got).push(got);
        reply(stream, &answer);
        locked(&self.most_at_once).0 -= 1;
    }
}

fn read(stream: &TcpStream) -> Option<Got> {
    let mut lines = BufReader::new(stream);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None if line == "\r\n" => break,
            None => headers.insert(String::new(), line.trim_end().to_owned()),
        };
    }
    let mut body = vec![0; headers.get("content-length")?.parse().unwrap()];
    lines.read_exact(&mut body).ok()?;
    Some(Got { headers, body: String::from_utf8(body).unwrap() })
}

fn reply(mut stream: TcpStream, answer: &Answers) {
    let mut write = |text: &str| stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_ok();
    match answer {
        Answers::Status(status) => _ = write(&format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")),
        Answers::Elsewhere(url) => {
            _ = write(&format!("HTTP/1.1 307 X\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n"));
        }
        Answers::Never => {
            let mut end = [0];
            let _ = stream.read(&mut end);
        }
        Answers::Dripping => {
            for byte in "HTTP/1.1 200 OK\r\nX-Long: ".chars().chain(std::iter::repeat_n('x', 500)) {
                if !write(&byte.to_string()) {
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            }
        }
        Answers::Endless => {
            let more = "x".repeat(65_536);
            let mut sent = write("HTTP/1.1 200 OK\r\n\r\n");
            while sent {
                sent = write(&more);
            }
        }
        Answers::Broken => _ = write("HTTP/1.1 200 OK\r\nX-"),
        Answers::Noise => _ = write(&"\u{1f41f}\r\n\r\n".repeat(9)),
    }
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// How many of the signatures were made with this secret. HMAC (RFC 2104) from its definition.
    pub(crate) fn signatures_by(&self, secret: &str) -> usize {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let signed = format!("{}.{}.{}", self.header("webhook-id"), self.header("webhook-timestamp"), self.body);
        let pad = |with: u8| (0..64).map(|nth| key.get(nth).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
        let hash = |bytes: Vec<u8>| ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref().to_vec();
        let inner = hash([pad(0x36), signed.into_bytes()].concat());
        let expected = format!("v1,{}", STANDARD.encode(hash([pad(0x5c), inner].concat())));
        self.header("webhook-signature").split(' ').filter(|signature| *signature == expected).count()
    }
}

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
