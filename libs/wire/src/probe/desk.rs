//! What becomes of each datagram at a reflector: the mirror's answer, within the budgets of its source, now or later.

use std::time::Instant;

use super::{
    later::{Late, Later},
    reflect::{Asked, Mirror, Reflection},
    sources::Sources,
};

/// Answers a second to one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub answers: u32,
    /// Of those, the ones larger than their question: plain STUN of other tools.
    pub larger_answers: u32,
}

/// What becomes of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its sender is answered.
    Answer(Reflection),
    /// Its sender is answered after a while, see [`Desk::poll_late`].
    Later,
    /// No binding request, or one that must not be answered.
    Ignored,
    /// The budget of its source is used up, or no further answer can wait.
    Limited,
}

/// One reflector with everything that it remembers, which is bounded.
#[derive(Debug)]
pub struct Desk {
    mirror: Mirror,
    answers: Sources,
    larger_answers: Sources,
    later: Later,
}

impl Desk {
    /// A desk with full budgets; `secret` must be unknown to those who ask.
    #[must_use]
    pub fn new(now: Instant, mirror: Mirror, budget: Budget, secret: u64) -> Self {
        Self {
            mirror,
            answers: Sources::new(now, budget.answers, secret),
            larger_answers: Sources::new(now, budget.larger_answers, secret),
            later: Later::default(),
        }
    }

    /// Decides one datagram. The answer is left in `out`.
    pub fn handle_question(&mut self, now: Instant, asked: &Asked, question: &[u8], out: &mut [u8]) -> Verdict {
        let Some(reflection) = self.mirror.reflect(asked, question, out) else { return Verdict::Ignored };
        let source = asked.source.ip();
        let granted =
            self.answers.take(now, source) && (!reflection.amplifies || self.larger_answers.take(now, source));
        if !granted {
            return Verdict::Limited;
        }
        if reflection.delay.is_zero() {
            return Verdict::Answer(reflection);
        }
        let answer = out[..reflection.length].into();
        let late = Late { to: asked.source, from: reflection.from, answer };
        if self.later.keep(now, reflection.delay, late) { Verdict::Later } else { Verdict::Limited }
    }

    /// When the next late answer is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.later.poll_timeout()
    }

    /// The next late answer that is due.
    pub fn poll_late(&mut self, now: Instant) -> Option<Late> {
        self.later.poll_late(now)
    }

    /// What this desk knows of its reflector.
    #[must_use]
    pub const fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The same, to be told that it changed.
    pub const fn mirror_mut(&mut self) -> &mut Mirror {
        &mut self.mirror
    }
}
