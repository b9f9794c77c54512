//! What a relay says while it holds a pair's data back, shown for as long as it goes on saying it.

use std::time::{Duration, Instant};

use domain::RelayId;
use wire::Code;

/// How long a note is shown: two and a half times its repetition.
const SHOWN: Duration = Duration::from_secs(25);

/// The newest reason, and until when it is worth showing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notice(Option<(Code, Instant)>);

impl Notice {
    /// The relay's note with this number.
    pub(crate) fn handle_note(&mut self, now: Instant, relay: RelayId, number: u16) {
        match Code::from_number(number) {
            // Repeated every ten seconds while it is so.
            Some(code @ (Code::RelayCapped | Code::RelayQuota)) => {
                if self.code() != Some(code) {
                    tracing::info!(%relay, %code, reason = code.text(), "the relay holds data back");
                }
                self.0 = Some((code, now + SHOWN));
            }
            code => tracing::debug!(%relay, code = code.map(Code::name), "the relay has something to say"),
        }
    }

    pub(crate) fn handle_deadline(&mut self, now: Instant) {
        self.0 = self.0.filter(|(_, until)| *until > now);
    }

    pub(crate) fn poll_deadline(&self) -> Option<Instant> {
        self.0.map(|(_, until)| until)
    }

    /// Why, if it is so.
    pub(crate) fn code(&self) -> Option<Code> {
        self.0.map(|(code, _)| code)
    }
}
