//! The ops endpoint: `GET /health`, `/ready` and `/metrics`, for probes and Prometheus. Never on a public listener.
//!
//! Healthy means that the loop turns: the answer itself is the proof. Ready means able to serve now: every [`Check`] passes
//! within its deadline. An answer that is not ready names what failed and the remedy.

use std::{fmt, io, net::TcpListener, pin::Pin, sync::Arc, time::Duration};

use actix_web::{
    App, HttpResponse, HttpServer,
    http::header,
    web::{self, Data, ServiceConfig},
};
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long one check may take.
pub const CHECK_DEADLINE: Duration = Duration::from_secs(2);

/// Something that must work for this process to serve.
#[derive(Clone)]
pub struct Check {
    name: &'static str,
    remedy: &'static str,
    probe: Arc<dyn Fn() -> Probe + Send + Sync>,
}

type Probe = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// How one check went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub name: String,
    pub ok: bool,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The answer of `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    pub checks: Vec<Checked>,
}

/// What the endpoint tells.
#[derive(Clone, Debug)]
pub struct Ops {
    registry: Registry,
    checks: Arc<[Check]>,
}

impl Check {
    /// A check called `name`; `probe` fails with what is wrong, `remedy` says what to do then.
    pub fn new<F, Fut, E>(name: &'static str, remedy: &'static str, probe: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + 'static,
    {
        let probe = Arc::new(move || {
            let probed = probe();
            Box::pin(async move { probed.await.map_err(|error| crate::incident::chain(&error)) }) as Probe
        });
        Self { name, remedy, probe }
    }

    /// Runs the check.
    pub async fn run(&self) -> Checked {
        let problem = match timeout(CHECK_DEADLINE, (self.probe)()).await {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(_) => Some(format!("no answer within {} s", CHECK_DEADLINE.as_secs())),
        };
        let remedy = problem.as_ref().map(|_| self.remedy.to_owned());
        Checked { name: self.name.to_owned(), ok: problem.is_none(), problem, remedy }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

impl Ops {
    /// The figures of `registry` and the readiness by `checks`.
    #[must_use]
    pub fn new(registry: Registry, checks: Vec<Check>) -> Self {
        Self { registry, checks: checks.into() }
    }

    /// Runs all checks, side by side.
    pub async fn readiness(&self) -> Readiness {
        let mut running = tokio::task::JoinSet::new();
        for (nth, check) in self.checks.iter().cloned().enumerate() {
            running.spawn(async move { (nth, check.run().await) });
        }
        let mut checks = running.join_all().await;
        checks.sort_unstable_by_key(|(nth, _)| *nth);
        let checks: Vec<Checked> = checks.into_iter().map(|(_, checked)| checked).collect();
        Readiness { ready: checks.iter().all(|checked| checked.ok), checks }
    }

    /// Adds the routes of this endpoint to another server.
    pub fn routes(&self, config: &mut ServiceConfig) {
        config
            .app_data(Data::new(self.clone()))
            .route("/health", web::get().to(health))
            .route("/ready", web::get().to(ready))
            .route("/metrics", web::get().to(metrics));
    }
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n")
}

async fn ready(ops: Data<Ops>) -> HttpResponse {
    let readiness = ops.readiness().await;
    if readiness.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() }.json(readiness)
}

async fn metrics(ops: Data<Ops>) -> HttpResponse {
    let encoder = TextEncoder::new();
    let mut body = Vec::new();
    match encoder.encode(&ops.registry.gather(), &mut body) {
        Ok(()) => HttpResponse::Ok().insert_header((header::CONTENT_TYPE, encoder.format_type().to_owned())).body(body),
        Err(error) => {
            crate::incident::log("encoding the metrics", &error);
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// Serves the endpoint on `listener` until `shutdown`.
///
/// # Errors
/// When the listener is of no use.
pub async fn serve(listener: TcpListener, ops: Ops, shutdown: CancellationToken) -> io::Result<()> {
    serve_app(listener, move |config| ops.routes(config), shutdown).await
}

/// Serves the routes that `configure` adds on `listener` until `shutdown`. One worker, no signal handlers, bounded.
///
/// # Errors
/// When the listener is of no use.
pub async fn serve_app<F>(listener: TcpListener, configure: F, shutdown: CancellationToken) -> io::Result<()>
where
    F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let server = HttpServer::new(move || App::new().configure(configure.clone()))
        .workers(1)
        .backlog(128)
        .max_connections(512)
        .client_request_timeout(Duration::from_secs(5))
        .keep_alive(Duration::from_secs(30))
        .shutdown_timeout(2)
        .disable_signals()
        .listen(listener)?
        .run();
    let handle = server.handle();
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => ended,
        () = shutdown.cancelled() => {
            let (ended, ()) = tokio::join!(&mut server, handle.stop(true));
            ended
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn a_process_is_ready_when_every_check_passes() {
        let ops = Ops::new(crate::registry(), vec![passing()]);
        let (status, body) = exchange(ops, "/ready").await;
        assert_eq!(status, 200);
        assert_eq!(serde_json::from_str::<Readiness>(&body).unwrap().checks[0].name, "turning");
    }

    #[tokio::test]
    async fn what_is_missing_is_named_with_its_remedy() {
        let failing = Check::new("presence", "start Redis", || async { Err(io::Error::other("refused")) });
        let ops = Ops::new(crate::registry(), vec![passing(), failing]);
        let (status, body) = exchange(ops, "/ready").await;
        assert_eq!(status, 503);
        let readiness: Readiness = serde_json::from_str(&body).unwrap();
        assert!(!readiness.ready && readiness.checks[0].ok);
        assert_eq!(readiness.checks[1].problem.as_deref(), Some("refused"));
        assert_eq!(readiness.checks[1].remedy.as_deref(), Some("start Redis"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_fails() {
        let hanging = Check::new("store", "look", || async {
            std::future::pending::<()>().await;
            Ok::<(), io::Error>(())
        });
        assert_eq!(hanging.run().await.problem.as_deref(), Some("no answer within 2 s"));
    }

    #[tokio::test]
    async fn figures_of_the_process_are_there() {
        let (status, body) = exchange(Ops::new(crate::registry(), Vec::new()), "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("\nprocess_resident_memory_bytes "), "{body}");
    }

    #[tokio::test]
    async fn health_is_the_answer_itself() {
        let ops = Ops::new(crate::registry(), Vec::new());
        assert_eq!(exchange(ops, "/health").await, (200, "ok\n".to_owned()));
    }

    fn passing() -> Check {
        Check::new("turning", "none", || async { Ok::<(), io::Error>(()) })
    }

    async fn exchange(ops: Ops, path: &'static str) -> (u16, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let asked = async {
            let answer = tokio::task::spawn_blocking(move || request(address, path)).await.unwrap();
            shutdown.cancel();
            answer
        };
        let (served, answer) = tokio::join!(serve(listener, ops, shutdown.clone()), asked);
        served.unwrap();
        answer
    }

    fn request(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: ops\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}
