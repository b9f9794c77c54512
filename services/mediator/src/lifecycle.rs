//! From the first signal to the end of the process.

use std::{process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How long roles may take to drain before the process leaves.
const DRAIN: Duration = Duration::from_secs(25);

/// The roles of this process, each a task that ends when it is told to: first those that `shutdown` ends, then those that they
/// still need while they drain.
#[derive(Debug)]
pub(crate) struct Roles {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    needed: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
    unneeded: CancellationToken,
}

impl Roles {
    /// No role yet.
    pub(crate) fn new() -> Self {
        let (shutdown, unneeded) = (CancellationToken::new(), CancellationToken::new());
        Self { tasks: JoinSet::new(), needed: JoinSet::new(), shutdown, unneeded }
    }

    /// What ends a role.
    pub(crate) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a role.
    pub(crate) fn start(
        &mut self,
        name: &'static str,
        role: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, role.await) });
    }

    /// Starts a role that others of this process report to while they drain: it gets the token that ends it after them.
    pub(crate) fn start_needed<F>(&mut self, name: &'static str, role: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let role = role(self.unneeded.clone());
        self.needed.spawn(async move { (name, role.await) });
    }

    /// Runs until a signal ends the process, or a role fails.
    ///
    /// The first SIGTERM or SIGINT drains; a second one, or the time-out, leaves at once.
    pub(crate) async fn run(mut self) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::new()?;
        let mut failed = None;
        tokio::select! {
            () = signals.next() => tracing::info!("draining"),
            Some(ended) = self.tasks.join_next() => failed = Some(ended),
            Some(ended) = self.needed.join_next() => failed = Some(ended),
        }
        self.shutdown.cancel();
        let drained = async {
            while let Some(ended) = self.tasks.join_next().await {
                log(ended);
            }
            self.unneeded.cancel();
            while let Some(ended) = self.needed.join_next().await {
                log(ended);
            }
        };
        tokio::select! {
            () = drained => {}
            () = signals.next() => tracing::warn!("left before everything was drained: second signal"),
            () = tokio::time::sleep(DRAIN) => tracing::warn!(seconds = DRAIN.as_secs(), "left before everything was drained"),
        }
        Ok(match failed {
            None => ExitCode::SUCCESS,
            Some(ended) => {
                log(ended);
                ExitCode::FAILURE
            }
        })
    }
}

type Ended = Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>;

fn log(ended: Ended) {
    match ended {
        Ok((role, Ok(()))) => tracing::info!(role, "role ended"),
        Ok((role, Err(error))) => tracing::error!(role, error = format!("{error:#}"), "role failed"),
        Err(error) if error.is_cancelled() => {}
        Err(error) => tracing::error!(%error, "role panicked"),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
