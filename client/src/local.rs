//! The daemon's local socket: one JSON object a line. A command goes in, its answers come out, the last one closes.
//!
//! Only the user who runs the daemon may speak: the socket's mode says so, and the peer's credentials are checked as well.

use std::{io, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::command::{Answer, Asked, Command, CommandError};

/// Commands served at once; more wait in the backlog of the socket.
const CONCURRENT: usize = 32;

/// The longest line with a command, in bytes.
const MAX_LINE: u64 = 16 * 1024;

/// How long an asker may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers of one command under way; a slow reader slows its own command only.
const ANSWERS: usize = 16;

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// More follows.
    Part(Value),
    Done(Value),
    Error(CommandError),
}

/// Takes commands and hands them to the daemon's core.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
}

impl Socket {
    /// Listens at `path`. What a daemon that died left there is replaced: the caller holds the home's lock.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener })
    }

    /// Serves until `shutdown`; commands under way are dropped then.
    pub async fn run(self, commands: mpsc::Sender<Asked>, shutdown: CancellationToken) {
        let room = std::sync::Arc::new(Semaphore::new(CONCURRENT));
        let mut served = JoinSet::new();
        loop {
            let permit = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = served.join_next() => continue,
                Ok(permit) = std::sync::Arc::clone(&room).acquire_owned() => permit,
            };
            let stream = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a command could not be accepted");
                        continue;
                    }
                },
            };
            let commands = commands.clone();
            served.spawn(async move {
                if let Err(error) = serve(stream, commands).await {
                    tracing::debug!(%error, "an asker left");
                }
                drop(permit);
            });
        }
    }
}

async fn serve(stream: UnixStream, commands: mpsc::Sender<Asked>) -> io::Result<()> {
    if stream.peer_cred()?.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read.take(MAX_LINE));
    let mut line = String::new();
    timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let command: Command = match serde_json::from_str(&line) {
        Ok(command) => command,
        Err(error) => {
            let malformed = CommandError::new(wire::Code::Malformed.name(), format!("not a command: {error}"));
            return send(&mut write, &Line::Error(malformed)).await;
        }
    };
    let (answers, mut answered) = mpsc::channel(ANSWERS);
    if commands.send(Asked { command, answers }).await.is_err() {
        let ended = CommandError::new(CommandError::DAEMON_NOT_RUNNING, "the daemon is ending");
        return send(&mut write, &Line::Error(ended)).await;
    }
    let mut reader = reader.into_inner().into_inner();
    let mut nothing = [0; 1];
    loop {
        let answer = tokio::select! {
            answer = answered.recv() => answer,
            // The asker hung up: dropping the receiver tells the core.
            _ = reader.read(&mut nothing) => return Ok(()),
        };
        let line = match answer {
            Some(Ok(answer)) if answer.is_partial() => Line::Part(value(&answer)),
            Some(Ok(answer)) => Line::Done(value(&answer)),
            Some(Err(error)) => Line::Error(error),
            None => Line::Error(CommandError::new(CommandError::FAILED, "the daemon gave no answer")),
        };
        send(&mut write, &line).await?;
        if !matches!(line, Line::Part(_)) {
            return Ok(());
        }
    }
}

fn value(answer: &Answer) -> Value {
    serde_json::to_value(answer).expect("answers have string keys only")
}

async fn send(write: &mut (impl tokio::io::AsyncWrite + Unpin), line: &Line) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line).expect("lines have string keys only");
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

/// Asks the daemon at `path`, and calls `part` for every partial answer. Returns the last answer.
///
/// # Errors
/// What the daemon says, or that there is none.
pub async fn ask(path: &Path, command: &Command, mut part: impl FnMut(Value)) -> Result<Value, CommandError> {
    let absent = |_| {
        CommandError::new(
            CommandError::DAEMON_NOT_RUNNING,
            format!("no daemon answers at {}; start `buri daemon`", path.display()),
        )
    };
    let broken = || CommandError::new(CommandError::FAILED, "the daemon ended before it answered");
    let stream = UnixStream::connect(path).await.map_err(absent)?;
    let (read, mut write) = stream.into_split();
    let mut bytes = serde_json::to_vec(command).map_err(|_| broken())?;
    bytes.push(b'\n');
    write.write_all(&bytes).await.map_err(absent)?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await.map_err(|_| broken())? {
        match serde_json::from_str(&line).map_err(|_| broken())? {
            Line::Part(value) => part(value),
            Line::Done(value) => return Ok(value),
            Line::Error(error) => return Err(error),
        }
    }
    Err(broken())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Done, PathKind, Pong};

    fn daemon(
        dir: &tempfile::TempDir,
        answers: Vec<Result<Answer, CommandError>>,
    ) -> (std::path::PathBuf, CancellationToken, JoinSet<()>) {
        let path = dir.path().join("socket");
        let socket = Socket::bind(&path).unwrap();
        let (commands, mut asked) = mpsc::channel::<Asked>(1);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(socket.run(commands, shutdown.clone()));
        tasks.spawn(async move {
            while let Some(asked) = asked.recv().await {
                for answer in answers.clone() {
                    let _ = asked.answers.send(answer).await;
                }
            }
        });
        (path, shutdown, tasks)
    }

    #[tokio::test]
    async fn parts_come_before_the_last_answer() {
        let dir = tempfile::tempdir().unwrap();
        let pong = Answer::Pong(Pong { seq: 1, rtt_ms: Some(0.5), path: PathKind::Direct });
        let (path, _shutdown, _tasks) = daemon(&dir, vec![Ok(pong), Ok(Answer::Done(Done {}))]);
        let mut parts = Vec::new();
        let last = ask(&path, &Command::Status, |part| parts.push(part)).await.unwrap();
        assert_eq!(parts, [serde_json::json!({"seq": 1, "rtt_ms": 0.5, "path": "direct"})]);
        assert_eq!(last, serde_json::json!({}));
    }

    #[tokio::test]
    async fn an_error_keeps_its_code() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _shutdown, _tasks) = daemon(&dir, vec![Err(wire::Code::NetworkFull.into())]);
        assert_eq!(ask(&path, &Command::Peers, drop).await.unwrap_err().code, "network-full");
    }

    #[tokio::test]
    async fn nonsense_is_refused_with_a_code() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _shutdown, _tasks) = daemon(&dir, Vec::new());
        for nonsense in ["fly\n".to_owned(), "{\"command\":\"fly\"}\n".into(), format!("{}\n", "x".repeat(20_000))] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(nonsense.as_bytes()).await.unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await.unwrap();
            assert!(answer.contains("\"malformed\""), "{answer}");
        }
    }

    #[tokio::test]
    async fn without_a_daemon_the_remedy_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = ask(&dir.path().join("socket"), &Command::Status, drop).await.unwrap_err();
        assert_eq!(error.code, CommandError::DAEMON_NOT_RUNNING);
    }
}
