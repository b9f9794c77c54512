//! Many joins at a relay under way at once. Pure: it says what to send where, and hears what came.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use wire::{
    relay::{Cookie, Join, Message, Slot, prove},
    ticket::{LegKey, TICKET_SIZE},
};

/// Joins that are not answered yet, at most: a socket's buffer of them.
const MOST_ASKED: usize = 128;

/// Without an answer for this long, a join is asked again.
const PATIENCE: Duration = Duration::from_millis(200);

const TRIES: u32 = 30;

/// What a leg shows.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub(crate) ticket: [u8; TICKET_SIZE],
    pub(crate) key: LegKey,
}

/// The joins that are wanted, and those under way.
#[derive(Debug)]
pub(crate) struct Joiner {
    /// Of each socket.
    cookies: Vec<Cookie>,
    waiting: VecDeque<Wanted>,
    asked: BTreeMap<[u8; 8], Asked>,
    /// In the order of their times.
    again: VecDeque<(Instant, [u8; 8])>,
}

/// A leg to be seated at the address of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) leg: usize,
    pub(crate) socket: usize,
    tries: u32,
}

/// What came of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Joined { leg: usize, socket: usize, slot: Slot },
    Refused { code: u16 },
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    wanted: Wanted,
    at: Instant,
}

/// The relay answers no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relay does not answer a join")]
pub(crate) struct Silent;

impl Joiner {
    pub(crate) fn new(sockets: usize) -> Self {
        Self {
            cookies: vec![Cookie::default(); sockets],
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
            again: VecDeque::new(),
        }
    }

    pub(crate) fn want(&mut self, leg: usize, socket: usize) {
        self.waiting.push_back(Wanted { leg, socket, tries: 0 });
    }

    /// Whether nothing is wanted and nothing under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty()
    }

    /// The next socket and datagram, if one may be sent now; `pass` shows each leg's ticket.
    ///
    /// # Errors
    /// [`Silent`] after many tries.
    pub(crate) fn poll_send<'a>(
        &mut self,
        now: Instant,
        pass: impl Fn(usize) -> Option<&'a Pass>,
    ) -> Result<Option<(usize, Vec<u8>)>, Silent> {
        while let Some(&(at, id)) = self.again.front().filter(|(at, _)| now >= *at + PATIENCE) {
            self.again.pop_front();
            // It may have been answered, or asked anew with another cookie.
            if self.asked.get(&id).is_some_and(|asked| asked.at == at) {
                self.asked.remove(&id).into_iter().for_each(|asked| self.waiting.push_front(asked.wanted));
            }
        }
        if self.asked.len() >= MOST_ASKED {
            return Ok(None);
        }
        let Some(mut wanted) = self.waiting.pop_front() else { return Ok(None) };
        let Some(Pass { ticket, key }) = pass(wanted.leg) else { return Ok(None) };
        if wanted.tries >= TRIES {
            return Err(Silent);
        }
        wanted.tries += 1;
        let cookie = self.cookies[wanted.socket];
        let proof = prove(key, cookie, ticket);
        let join = Join { cookie, ticket, proof: &proof };
        self.asked.insert(join.id().0, Asked { wanted, at: now });
        self.again.push_back((now, join.id().0));
        Ok(Some((wanted.socket, Message::Join(join).to_vec())))
    }

    /// Takes what a socket received; `None` when it ends no join.
    pub(crate) fn handle(&mut self, socket: usize, message: &Message<'_>) -> Option<Outcome> {
        match message {
            Message::Challenge { cookie } => {
                let known = self.cookies.get_mut(socket).filter(|known| *known != cookie)?;
                *known = *cookie;
                // All that were asked with the old one are asked anew.
                let (stale, kept) =
                    std::mem::take(&mut self.asked).into_iter().partition(|(_, asked)| asked.wanted.socket == socket);
                self.asked = kept;
                let stale: BTreeMap<[u8; 8], Asked> = stale;
                self.waiting.extend(stale.into_values().map(|asked| asked.wanted));
                None
            }
            Message::Joined { slot, join, .. } => {
                let Wanted { leg, socket, .. } = self.asked.remove(&join.0)?.wanted;
                Some(Outcome::Joined { leg, socket, slot: *slot })
            }
            Message::Refused { code, join } => {
                self.asked.remove(&join.0)?;
                Some(Outcome::Refused { code: *code })
            }
            Message::Data { .. }
            | Message::Join(_)
            | Message::JoinFirst { .. }
            | Message::Ask
            | Message::Ping { .. }
            | Message::Pong { .. }
            | Message::Note { .. }
            | Message::Fanout { .. }
            | Message::Copy(_)
            | Message::Which { .. }
            | Message::Group { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Cookie = Cookie([7; 16]);

    #[test]
    fn a_challenge_is_answered_and_the_join_ends_with_its_slot() {
        let (mut joiner, now) = (Joiner::new(2), Instant::now());
        joiner.want(5, 1);
        let first = sent(&mut joiner, now).unwrap();
        assert_eq!((first.0, cookie(&first.1)), (1, Cookie::default()));
        assert_eq!(joiner.handle(1, &Message::Challenge { cookie: FRESH }), None);
        let second = sent(&mut joiner, now).unwrap();
        assert_eq!((second.0, cookie(&second.1)), (1, FRESH));
        assert_eq!(joiner.handle(1, &joined(&first.1)), None, "a join without a valid cookie cannot be answered");
        let done = joiner.handle(1, &joined(&second.1));
        assert_eq!(done, Some(Outcome::Joined { leg: 5, socket: 1, slot: Slot(9) }));
        assert!(joiner.is_idle());
        assert_eq!(joiner.handle(1, &joined(&second.1)), None, "an answer counts once");
    }

    #[test]
    fn only_so_many_are_under_way_and_an_answer_makes_room() {
        let (mut joiner, now) = (Joiner::new(1), Instant::now());
        (0..MOST_ASKED + 1).for_each(|leg| joiner.want(leg, 0));
        let asked: Vec<_> = std::iter::from_fn(|| sent(&mut joiner, now)).collect();
        assert_eq!(asked.len(), MOST_ASKED);
        joiner.handle(0, &joined(&asked[3].1)).unwrap();
        assert!(sent(&mut joiner, now).is_some());
        assert!(sent(&mut joiner, now).is_none());
    }

    #[test]
    fn silence_is_met_with_another_try_and_ends_with_an_error() {
        let (mut joiner, mut now) = (Joiner::new(1), Instant::now());
        joiner.want(0, 0);
        for _ in 0..TRIES {
            assert!(sent(&mut joiner, now).is_some());
            assert!(sent(&mut joiner, now).is_none());
            now += PATIENCE;
        }
        assert_eq!(joiner.poll_send(now, |_| Some(pass())), Err(Silent));
    }

    #[test]
    fn a_refusal_says_its_code() {
        let (mut joiner, now) = (Joiner::new(1), Instant::now());
        joiner.want(0, 0);
        let (_, bytes) = sent(&mut joiner, now).unwrap();
        let Some(Message::Join(join)) = Message::parse(&bytes) else { panic!("no join") };
        let refused = Message::Refused { code: 12, join: join.id() };
        assert_eq!(joiner.handle(0, &refused), Some(Outcome::Refused { code: 12 }));
        assert!(joiner.is_idle());
    }

    fn sent(joiner: &mut Joiner, now: Instant) -> Option<(usize, Vec<u8>)> {
        // Legs differ by their tickets.
        let passes: Vec<_> = (0..=MOST_ASKED)
            .map(|leg| {
                let mut ticket = [0; TICKET_SIZE];
                ticket[..8].copy_from_slice(&leg.to_be_bytes());
                Pass { ticket, key: LegKey([3; 32]) }
            })
            .collect();
        joiner.poll_send(now, |leg| passes.get(leg)).unwrap()
    }

    fn pass() -> &'static Pass {
        static PASS: Pass = Pass { ticket: [0; TICKET_SIZE], key: LegKey([3; 32]) };
        &PASS
    }

    fn cookie(bytes: &[u8]) -> Cookie {
        let Some(Message::Join(join)) = Message::parse(bytes) else { panic!("no join") };
        join.cookie
    }

    fn joined(bytes: &[u8]) -> Message<'static> {
        let Some(Message::Join(join)) = Message::parse(bytes) else { panic!("no join") };
        Message::Joined { slot: Slot(9), join: join.id(), peer_present: false }
    }
}
