//! The numbers of one turn, which go to the metrics together.

use crate::{
    core::{DropReason, Verdict},
    metrics::Metrics,
};

/// The numbers of one turn.
#[derive(Default)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) fanned: u64,
    pub(crate) copies: u64,
    pub(crate) answers: u64,
    pub(crate) reflections: u64,
    pub(crate) unsent: u64,
    pub(crate) refused_rows: u64,
    pub(crate) dropped: [u64; DropReason::ALL.len()],
}

impl Count {
    pub(crate) fn verdict(&mut self, verdict: Verdict, length: usize) {
        match verdict {
            Verdict::Forward(_) => {
                self.packets += 1;
                self.bytes += length as u64;
            }
            Verdict::Copy => self.fanned += 1,
            Verdict::Answer(_) => self.answers += 1,
            Verdict::Drop(reason) => self.drop(reason),
        }
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    pub(crate) fn flush(&mut self, metrics: &Metrics) {
        let drops = DropReason::ALL.into_iter().map(|reason| (metrics.dropped(reason), self.dropped[reason as usize]));
        let numbers = [
            (&metrics.forwarded_packets, self.packets),
            (&metrics.forwarded_bytes, self.bytes),
            (&metrics.fanned_frames, self.fanned),
            (&metrics.copies, self.copies),
            (&metrics.answers, self.answers),
            (&metrics.reflections, self.reflections),
            (&metrics.unsent, self.unsent),
            (&metrics.refused_rows, self.refused_rows),
        ];
        // Most are 0 in most turns, and to add is an atomic operation.
        for (counter, number) in numbers.into_iter().chain(drops).filter(|(_, number)| *number > 0) {
            counter.inc_by(number);
        }
        *self = Self::default();
    }
}
