//! Questions, when they are repeated, and which answers count.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{Probe, Reflected, SessionTag, TransactionId, Vantage};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Ask, Socket};

/// How often a question is asked, and how long each try may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tries {
    pub(super) count: u8,
    pub(super) interval: Duration,
}

/// All questions of one machine.
#[derive(Debug)]
pub(super) struct Questions {
    /// In the order of asking. A machine has some dozens at most, so they are simply searched.
    list: Vec<Question>,
    /// Asks for observations; questions that go elsewhere than to reflectors have none.
    tag: Option<SessionTag>,
    rng: StdRng,
    asks: VecDeque<Ask>,
}

#[derive(Debug)]
pub(super) struct Question {
    pub(super) socket: Socket,
    pub(super) to: SocketAddr,
    pub(super) vantage: Vantage,
    pub(super) delay_s: u8,
    /// When it was asked for the first time, and so when a NAT made its mapping.
    pub(super) asked: Option<Instant>,
    pub(super) answer: Option<Reflected>,
    tries: Tries,
    /// The next try, or when the last one has failed.
    due: Option<Instant>,
    /// Of every try: a late answer to an early try counts.
    transactions: Vec<TransactionId>,
}

impl Questions {
    pub(super) fn new(tag: Option<SessionTag>, seed: [u8; 32]) -> Self {
        Self { list: Vec::new(), tag, rng: StdRng::from_seed(seed), asks: VecDeque::new() }
    }

    /// Plans a question, to be asked from `due` on.
    pub(super) fn add(&mut self, due: Instant, socket: Socket, to: SocketAddr, vantage: Vantage, tries: Tries) {
        self.list.push(Question {
            socket,
            to,
            vantage,
            delay_s: 0,
            asked: None,
            answer: None,
            tries,
            due: Some(due),
            transactions: Vec::new(),
        });
    }

    /// Plans a question that is asked once and answered only after `delay_s` of silence.
    pub(super) fn add_delayed(
        &mut self,
        due: Instant,
        socket: Socket,
        to: SocketAddr,
        delay_s: u8,
        patience: Duration,
    ) {
        let interval = Duration::from_secs(u64::from(delay_s)) + patience;
        self.add(due, socket, to, Vantage::Asked, Tries { count: 1, interval });
        if let Some(question) = self.list.last_mut() {
            question.delay_s = delay_s;
        }
    }

    /// The question that `reflected` answers, if it is one that waits for an answer at `socket` from `from`.
    pub(super) fn handle_answer(
        &mut self,
        socket: Socket,
        from: SocketAddr,
        reflected: Reflected,
    ) -> Option<&mut Question> {
        let question = self.list.iter_mut().find(|question| {
            question.socket == socket
                && question.transactions.contains(&reflected.transaction)
                && question.comes_from(from)
        })?;
        question.due = None;
        question.answer.get_or_insert(reflected);
        Some(question)
    }

    /// Ends the question that a reflector refused to answer.
    pub(super) fn handle_refusal(&mut self, transaction: TransactionId) {
        for question in self.list.iter_mut().filter(|question| question.transactions.contains(&transaction)) {
            question.due = None;
        }
    }

    /// Asks and repeats what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for question in &mut self.list {
            if question.due.is_none_or(|due| due > now) {
                continue;
            }
            if question.tries.count == 0 {
                question.due = None;
                continue;
            }
            question.tries.count -= 1;
            question.due = Some(now + question.tries.interval);
            question.asked.get_or_insert(now);
            let transaction = TransactionId(self.rng.random());
            question.transactions.push(transaction);
            let probe = Probe { transaction, tag: self.tag, answer_from: question.vantage, delay_s: question.delay_s };
            self.asks.push_back(Ask { socket: question.socket, to: question.to, probe });
        }
    }

    /// When something is due; `None` when every question is answered or given up.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.list.iter().filter_map(|question| question.due).min()
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Ask> {
        self.asks.pop_front()
    }

    /// Gives up all questions that `which` chooses.
    pub(super) fn give_up(&mut self, which: impl Fn(&Question) -> bool) {
        for question in self.list.iter_mut().filter(|question| which(question)) {
            question.due = None;
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Question> {
        self.list.iter()
    }
}

impl Question {
    /// Whether it is answered or given up.
    pub(super) const fn is_over(&self) -> bool {
        self.due.is_none()
    }

    /// Whether `transaction` is that of one of its tries.
    pub(super) fn is(&self, transaction: TransactionId) -> bool {
        self.transactions.contains(&transaction)
    }

    /// Where its sender was seen.
    pub(super) fn seen(&self) -> Option<SocketAddr> {
        self.answer.as_ref().map(|answer| answer.seen)
    }

    /// Whether an answer from `from` is one from where it was asked to come.
    fn comes_from(&self, from: SocketAddr) -> bool {
        match self.vantage {
            Vantage::Asked => from == self.to,
            Vantage::OtherPort => from.ip() == self.to.ip() && from.port() != self.to.port(),
            Vantage::OtherAddress | Vantage::Opposite => from.ip() != self.to.ip(),
        }
    }
}
