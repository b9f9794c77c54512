//! Round trips of one control connection.

use std::time::{Duration, Instant};

use wire::control::{ClientFrame, ServerFrame};

/// How long a control connection takes there and back: what the negotiation of paths counts with.
///
/// A few questions right after the login, then one whenever the client pings. The login itself counts until the first
/// answer: it is longer than a round trip by the making of a signature.
#[derive(Debug)]
pub(crate) struct Trips {
    login_us: u32,
    micros: [u32; KEPT],
    answered: u32,
    number: u32,
    asked: Option<Instant>,
}

/// What is known of the round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trip {
    /// The shortest of the last ones.
    pub(crate) shortest_us: u32,
    /// How much longer than that they were on average; `None` while only one is known.
    pub(crate) jitter_us: Option<u32>,
}

impl Trip {
    /// Of the only one that is known.
    pub(crate) fn once(took: Duration) -> Self {
        Self { shortest_us: micros(took), jitter_us: None }
    }
}

impl Trips {
    pub(crate) const fn new(login: Trip) -> Self {
        Self { login_us: login.shortest_us, micros: [0; KEPT], answered: 0, number: 0, asked: None }
    }

    /// A question that goes out now; `None` while one is open. An old client never answers the first.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<ServerFrame> {
        if self.asked.is_some() {
            return None;
        }
        self.asked = Some(now);
        self.number = self.number.wrapping_add(1);
        Some(ServerFrame::Ping(self.number.into()))
    }

    /// What follows from a ping of the client or from its answer to ours.
    pub(crate) fn replies(&mut self, now: Instant, frame: &ClientFrame) -> [Option<ServerFrame>; 2] {
        if let ClientFrame::Ping(number) = frame {
            return [Some(ServerFrame::Pong(*number)), self.ask(now)];
        }
        let ClientFrame::Pong(number) = frame else { return [None, None] };
        let current = *number == u64::from(self.number);
        let Some(asked) = self.asked.take_if(|_| current) else { return [None, None] };
        let nth = usize::try_from(self.answered).unwrap_or(0);
        self.micros[nth % KEPT] = micros(now.saturating_duration_since(asked));
        // Stays in the range where the next place in the ring follows from it.
        self.answered = if nth + 1 == 2 * KEPT { self.answered + 1 - ROUND } else { self.answered + 1 };
        [if self.answered < AT_LOGIN { self.ask(now) } else { None }, None]
    }

    pub(crate) fn trip(&self) -> Trip {
        let kept = self.micros.iter().take(usize::try_from(self.answered).unwrap_or(0));
        let count = u64::from(self.answered.min(ROUND));
        let Some(&shortest_us) = kept.clone().min() else {
            return Trip { shortest_us: self.login_us, jitter_us: None };
        };
        let excess: u64 = kept.map(|micros| u64::from(micros - shortest_us)).sum();
        let jitter_us = (count > 1).then(|| u32::try_from(excess / count).unwrap_or(u32::MAX));
        Trip { shortest_us, jitter_us }
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// As a length and as a number.
const KEPT: usize = 8;
const ROUND: u32 = 8;
const AT_LOGIN: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_counts_until_the_first_answer() {
        let mut trips = Trips::new(Trip::once(ms(70)));
        assert_eq!(trips.trip(), Trip { shortest_us: 70_000, jitter_us: None });
        round(&mut trips, 30);
        assert_eq!(trips.trip(), Trip { shortest_us: 30_000, jitter_us: None });
    }

    #[test]
    fn the_shortest_of_the_last_eight_counts_and_the_others_are_jitter() {
        let mut trips = Trips::new(Trip::once(ms(70)));
        round(&mut trips, 10);
        for _ in 0..4 {
            round(&mut trips, 20);
            round(&mut trips, 40);
        }
        assert_eq!(trips.trip(), Trip { shortest_us: 20_000, jitter_us: Some(10_000) });
        for _ in 0..100 {
            round(&mut trips, 30);
        }
        assert_eq!(trips.trip(), Trip { shortest_us: 30_000, jitter_us: Some(0) });
    }

    #[test]
    fn a_few_questions_follow_one_another_at_login_and_one_comes_with_each_ping() {
        let mut trips = Trips::new(Trip::once(ms(70)));
        let now = Instant::now();
        assert_eq!(trips.ask(now), Some(ServerFrame::Ping(1)));
        for number in 2..=4 {
            let replies = trips.replies(now, &ClientFrame::Pong(number - 1));
            assert_eq!(replies, [Some(ServerFrame::Ping(number)), None]);
        }
        assert_eq!(trips.replies(now, &ClientFrame::Pong(4)), [None, None]);
        let replies = trips.replies(now, &ClientFrame::Ping(99));
        assert_eq!(replies, [Some(ServerFrame::Pong(99)), Some(ServerFrame::Ping(5))]);
        assert_eq!(trips.replies(now, &ClientFrame::Ping(100)), [Some(ServerFrame::Pong(100)), None]);
    }

    #[test]
    fn an_answer_to_no_question_or_a_repeated_one_counts_for_nothing() {
        let mut trips = Trips::new(Trip::once(ms(70)));
        let start = Instant::now();
        assert_eq!(trips.replies(start, &ClientFrame::Pong(0)), [None, None]);
        trips.ask(start);
        assert_eq!(trips.replies(start + ms(1), &ClientFrame::Pong(7)), [None, None]);
        trips.replies(start + ms(50), &ClientFrame::Pong(1));
        assert_eq!(trips.replies(start + ms(51), &ClientFrame::Pong(1)), [None, None]);
        assert_eq!(trips.trip(), Trip { shortest_us: 50_000, jitter_us: None });
    }

    fn round(trips: &mut Trips, took_ms: u64) {
        let asked = *trips.asked.get_or_insert_with(Instant::now);
        trips.replies(asked + ms(took_ms), &ClientFrame::Pong(trips.number.into()));
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
}
