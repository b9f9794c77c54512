//! Work that a client does before its login goes on, because auth asks for it.
//!
//! The client has proved its key by then, on this connection, so a puzzle bound to both is of use to nobody else. What comes
//! back is checked by two hashes, before anybody is asked anything. Nothing is kept of a puzzle meanwhile but the place among the
//! unfinished connections, which a silent client loses when the time is over.

use std::time::{Duration, SystemTime};

use domain::UnixMillis;
use tokio::time::timeout;
use wire::{
    Code,
    control::{Login, Refused, ServerFrame, WORKING_VERSION},
};

use crate::{connection::Step, hub::Hub, metrics::Work, session::Line};

/// How long a client may work.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client that cannot work is told: most of what makes work necessary is over by then.
const UNABLE_PAUSE: Duration = Duration::from_secs(300);

/// Has the client solve a puzzle of so many bits.
pub(crate) async fn ask(line: &mut Line, hub: &Hub, login: &Login, bits: u8) -> Result<(), Refused> {
    let metrics = &hub.seams.metrics;
    if login.version < WORKING_VERSION {
        metrics.work(Work::Unable).inc();
        return Err(Refused::after(Code::WorkRequired, UNABLE_PAUSE));
    }
    let refused = |work| {
        metrics.work(work).inc();
        Refused::after(Code::WorkInvalid, Duration::from_secs(5))
    };
    let Some(connection) = line.connection.handshake_hash() else { return Err(refused(Work::Abandoned)) };
    let until = UnixMillis::from(SystemTime::now()).plus(PATIENCE);
    let puzzle = hub.puzzles.make(&connection, &login.identity, bits, until);
    line.connection.await_work();
    metrics.work(Work::Asked).inc();
    line.say(&ServerFrame::Work(Box::new(puzzle))).await.map_err(|_| refused(Work::Abandoned))?;
    // The clock of the puzzle says what is too late; here a little more is waited for.
    let Ok(Ok(Step::Worked(solution))) = timeout(PATIENCE + Duration::from_secs(2), line.step()).await else {
        return Err(refused(Work::Abandoned));
    };
    let now = SystemTime::now().into();
    if solution.puzzle.bits < bits || hub.puzzles.check(now, &connection, &login.identity, &solution).is_err() {
        return Err(refused(Work::Wrong));
    }
    metrics.work(Work::Done).inc();
    Ok(())
}
