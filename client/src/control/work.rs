//! Work that the server asks for before it takes a new client in: on a thread of its own, in slices, so that it ends soon
//! after nobody waits for it any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use wire::work::{MOST_BITS, Puzzle, Solution};

/// Numbers that are tried before a look at whether somebody still waits.
const SLICE: u64 = 1 << 16;

/// Solves `puzzle`; `None` when it is harder than any honest server asks for.
pub(super) async fn solve(puzzle: Puzzle) -> Option<Solution> {
    if puzzle.bits > MOST_BITS {
        return None;
    }
    let given_up = GivenUp(Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&given_up.0);
    let work = move || {
        let mut first = 0_u64;
        while !seen.load(Ordering::Relaxed) {
            if let Some(number) = puzzle.search(first, SLICE) {
                return Some(Solution { puzzle, number });
            }
            first = first.checked_add(SLICE)?;
        }
        None
    };
    tokio::task::spawn_blocking(work).await.ok().flatten()
}

/// Says so when whoever waits goes away.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_puzzle_is_solved_and_one_that_is_too_hard_is_not_begun() {
        let puzzle = Puzzle { seed: [3; 32], bits: 10, until: domain::UnixMillis(1) };
        let solution = solve(puzzle).await.unwrap();
        assert_eq!(solution.puzzle, puzzle);
        assert!(puzzle.is_solved_by(solution.number));
        assert_eq!(solve(Puzzle { bits: MOST_BITS + 1, ..puzzle }).await, None);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends() {
        let puzzle = Puzzle { seed: [3; 32], bits: MOST_BITS, until: domain::UnixMillis(1) };
        let given_up = GivenUp(Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&given_up.0);
        drop(given_up);
        assert!(seen.load(Ordering::Relaxed));
        // Dropped before it is solved; the runtime ends only when its blocking threads have.
        tokio::select! {
            biased;
            () = std::future::ready(()) => {}
            _ = solve(puzzle) => {}
        }
    }
}
