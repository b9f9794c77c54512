//! How long a pair rests between attempts, and how each attempt differs from the one before.

use std::time::Duration;

use domain::{ClientId, Strategy};

use super::{
    budget::{BIRTHDAY_OF_CLIENT, BIRTHDAYS_OF_PAIR, MOST_BIRTHDAYS},
    scores::Scores,
};
use crate::{
    plan::{Outlook, Recipe, Variation},
    predict::BIRTHDAY_PROBES,
};

/// How long a pair rests on the relay after `attempts` that failed; `None`: until something changes.
pub(super) const fn rest(outlook: Outlook, attempts: u8) -> Option<Duration> {
    match (outlook, attempts) {
        (Outlook::Hopeless, _) => None,
        (Outlook::Doubtful, _) => Some(HOURLY),
        (Outlook::Promising(Strategy::Birthday), 0..MOST_BIRTHDAYS) => Some(BIRTHDAY_OF_CLIENT),
        (Outlook::Promising(Strategy::Birthday), _) => Some(BIRTHDAYS_OF_PAIR),
        // Refused before it began.
        (Outlook::Promising(_), 0) => Some(Duration::from_secs(5)),
        (Outlook::Promising(_), 1) => Some(Duration::from_secs(1)),
        (Outlook::Promising(_), 2) => Some(Duration::from_secs(3)),
        (Outlook::Promising(_), 3) => Some(Duration::from_secs(30)),
        (Outlook::Promising(_), 4) => Some(Duration::from_secs(120)),
        (Outlook::Promising(_), 5) => Some(Duration::from_secs(600)),
        (Outlook::Promising(_), 6..) => Some(HOURLY),
    }
}

/// How to make an attempt, which is counted from 1. A birthday goes on in its list of ports, so that it never tries one
/// twice; any process finds the place by the number of the attempt.
pub(super) fn recipe(scores: &mut Scores, pair: (ClientId, ClientId), outlook: Outlook, attempt: u8) -> Recipe {
    let seed = seed(pair);
    let earlier = attempt.saturating_sub(1);
    if outlook == Outlook::Promising(Strategy::Birthday) {
        let variation = if earlier.is_multiple_of(2) { Variation::First } else { Variation::Second };
        return Recipe { attempt, variation, seed, skip: BIRTHDAY_PROBES.saturating_mul(earlier.into()) };
    }
    Recipe { attempt, variation: scores.variation(pair, attempt), seed, skip: 0 }
}

/// The same for a pair in every process. Not secret: both clients learn the order.
fn seed(pair: (ClientId, ClientId)) -> u64 {
    let bytes = pair.0.as_bytes().iter().chain(pair.1.as_bytes());
    // FNV-1a.
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const HOURLY: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_become_rare() {
        assert_eq!(rests(Outlook::Promising(Strategy::Direct)), [1, 3, 30, 120, 600, 3_600, 3_600]);
        assert_eq!(rests(Outlook::Promising(Strategy::Birthday)), [60, 60, 3_600, 3_600, 3_600, 3_600, 3_600]);
        assert_eq!(rests(Outlook::Doubtful)[..2], [3_600, 3_600]);
        assert_eq!(rest(Outlook::Hopeless, 1), None);
    }

    #[test]
    fn birthdays_go_on_in_the_list_of_their_pair() {
        let mut scores = Scores::new();
        let outlook = Outlook::Promising(Strategy::Birthday);
        let recipes: Vec<_> = (1..=3).map(|attempt| recipe(&mut scores, pair(2), outlook, attempt)).collect();
        assert_eq!(recipes.iter().map(|recipe| recipe.skip).collect::<Vec<_>>(), [0, 980, 1_960]);
        assert!(recipes.iter().all(|recipe| recipe.seed == recipes[0].seed && recipe.variation != Variation::Third));
        assert_ne!(recipe(&mut scores, pair(3), outlook, 1).seed, recipes[0].seed);
    }

    #[test]
    fn no_two_attempts_in_a_row_are_equal() {
        for outlook in [Strategy::Direct, Strategy::Predict, Strategy::Birthday].map(Outlook::Promising) {
            let mut scores = Scores::new();
            let recipes: Vec<_> = (1..=9).map(|attempt| recipe(&mut scores, pair(2), outlook, attempt)).collect();
            for two in recipes.windows(2) {
                assert_ne!((two[0].variation, two[0].skip), (two[1].variation, two[1].skip));
            }
        }
    }

    fn rests(outlook: Outlook) -> Vec<u64> {
        (1..=7).filter_map(|attempts| rest(outlook, attempts)).map(|rest| rest.as_secs()).collect()
    }

    const fn pair(peer: u8) -> (ClientId, ClientId) {
        (ClientId::from_bytes([1; 16]), ClientId::from_bytes([peer; 16]))
    }
}
