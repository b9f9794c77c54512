//! The daemon as a process: everything put together, until a signal ends it.

use std::sync::Arc;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tunnel::Local;

use crate::{
    command::CommandError,
    control::{Control, Link},
    daemon::{Daemon, Ends},
    home::{Home, HomeError},
    local::Socket,
    settings::Settings,
};

/// Events of the server that wait for the daemon's turn. When full the connection waits, and the server with it.
const EVENTS: usize = 256;

/// Frames that wait for the connection. When full they are dropped: the core says again what matters.
const FRAMES: usize = 256;

/// Commands that wait for the daemon's turn. When full the askers wait.
const COMMANDS: usize = 32;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// A coded error when it cannot run: the home is in use or broken, the URL is wrong, there is no interface.
pub async fn run(settings: Settings) -> Result<(), CommandError> {
    let home = Home::open(&settings.home).map_err(home_error)?;
    let _lock = home.lock().map_err(home_error)?;
    let tunnel = Local::new(*home.identity().map_err(home_error)?.tunnel()).public();
    let (to_daemon, events) = mpsc::channel(EVENTS);
    let (frames, to_server) = mpsc::channel(FRAMES);
    let (asking, commands) = mpsc::channel(COMMANDS);
    let (knowing, known) = watch::channel(Vec::new());
    let (wanted, moved) = (Arc::new(Notify::new()), Arc::new(Notify::new()));

    let link =
        Link { events: to_daemon, frames: to_server, known, wanted: Arc::clone(&wanted), moved: Arc::clone(&moved) };
    let control = Control::new(home.clone(), &settings.server, settings.proxy.as_deref(), tunnel, link)
        .map_err(|error| failed(&error))?;
    let socket = Socket::bind(&home.socket()).map_err(|error| failed(&error))?;
    let daemon = Daemon::open(home.clone(), settings, Ends { events, frames, commands, known: knowing, wanted, moved })
        .map_err(|error| failed(&error))?;

    let shutdown = CancellationToken::new();
    let mut beside = JoinSet::new();
    beside.spawn(control.run(shutdown.clone()));
    beside.spawn(socket.run(asking, shutdown.clone()));
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed(&error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed(&error))?;
    let ends = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = daemon.run(shutdown.clone()) => ended,
        () = ends => Ok(()),
    };
    shutdown.cancel();
    while beside.join_next().await.is_some() {}
    ended.map_err(|error| failed(&error))
}

fn home_error(error: HomeError) -> CommandError {
    let code =
        if matches!(error, HomeError::Locked { .. }) { CommandError::DAEMON_RUNNING } else { CommandError::FAILED };
    CommandError::new(code, chain(&error))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> CommandError {
    CommandError::new(CommandError::FAILED, chain(error))
}

/// The error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
