//! How far relays are, and why a pair has the one it has.

use std::net::SocketAddr;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::{ClientId, RelayId, UnixMillis};

/// A relay that a client is to measure.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelayPlace {
    #[n(0)]
    pub relay: RelayId,
    /// UDP endpoints, best first. Each answers STUN.
    #[n(1)]
    pub endpoints: Vec<SocketAddr>,
}

/// The round trip to one relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelayTrip {
    #[n(0)]
    pub relay: RelayId,
    #[n(1)]
    pub rtt_us: u32,
}

/// The round trips to relays that one client measured: at most [`RelayTrips::MOST`], each relay once.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayTrips([Option<RelayTrip>; RelayTrips::MOST]);

/// Why these are no round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelayTripsError {
    #[error("{count} relays were measured, at most {} are", RelayTrips::MOST)]
    TooMany { count: usize },
    #[error("a relay is named twice")]
    Twice,
    #[error("a round trip of {rtt_us} us is longer than anybody waits")]
    TooLong { rtt_us: u32 },
}

impl RelayTrips {
    /// Relays in one report.
    pub const MOST: usize = 8;

    /// The longest round trip that is one.
    pub const LONGEST_US: u32 = 5_000_000;

    /// None yet.
    pub const NONE: Self = Self([None; Self::MOST]);

    /// Those measured.
    ///
    /// # Errors
    /// [`RelayTripsError`].
    pub fn new(measured: &[RelayTrip]) -> Result<Self, RelayTripsError> {
        if measured.len() > Self::MOST {
            return Err(RelayTripsError::TooMany { count: measured.len() });
        }
        let mut trips = Self::NONE;
        for (place, &trip) in measured.iter().enumerate() {
            if trip.rtt_us > Self::LONGEST_US {
                return Err(RelayTripsError::TooLong { rtt_us: trip.rtt_us });
            }
            if trips.of(trip.relay).is_some() {
                return Err(RelayTripsError::Twice);
            }
            trips.0[place] = Some(trip);
        }
        Ok(trips)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = RelayTrip> {
        self.0.iter().copied().flatten()
    }

    /// The round trip to `relay` in microseconds, if it was measured.
    #[must_use]
    pub fn of(&self, relay: RelayId) -> Option<u32> {
        self.iter().find(|trip| trip.relay == relay).map(|trip| trip.rtt_us)
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl std::fmt::Debug for RelayTrips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<C> Encode<C> for RelayTrips {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), encode::Error<W::Error>> {
        self.iter().collect::<Vec<_>>().encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for RelayTrips {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        Self::new(&Vec::<RelayTrip>::decode(d, ctx)?).map_err(decode::Error::custom)
    }
}

/// Why a relay was, or was not, chosen for a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum RelayVerdict {
    #[n(0)]
    Chosen,
    /// Another one is nearer to both together.
    #[n(1)]
    Farther,
    /// At its load limit.
    #[n(2)]
    Full,
    /// Being emptied.
    #[n(3)]
    Draining,
    /// One of the pair got no answer there, lately.
    #[n(4)]
    Unanswered,
    /// It missed its sign of life.
    #[n(5)]
    Silent,
}

/// What decided the choice of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum RelayWhy {
    /// The smallest sum of both round trips.
    #[n(0)]
    Nearest,
    /// The pair was there, and no other is nearer by enough to be worth a move.
    #[n(1)]
    Stays,
    /// Neither has measured yet: pairs are spread evenly.
    #[n(2)]
    Unmeasured,
    /// Every relay is full or being emptied.
    #[n(3)]
    NoRoom,
    /// No relay is known to live.
    #[n(4)]
    NoneLives,
}

impl RelayWhy {
    /// One sentence for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Nearest => "it has the smallest sum of both round trips",
            Self::Stays => "the pair was there, and no other relay is nearer by enough to be worth a move",
            Self::Unmeasured => "neither side has measured relays yet: pairs are spread evenly",
            Self::NoRoom => "every relay is full or being emptied",
            Self::NoneLives => "no relay gives a sign of life",
        }
    }
}

/// One relay as it stood when the choice was made.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct RelayCandidate {
    #[n(0)]
    pub relay: RelayId,
    #[n(1)]
    pub region: String,
    /// Of [`RelayChoice::of`], in its order; `None` when not measured.
    #[n(2)]
    pub rtts_us: [Option<u32>; 2],
    #[n(3)]
    pub slots: u32,
    #[n(4)]
    pub max_slots: u32,
    #[n(5)]
    pub verdict: RelayVerdict,
}

/// One of a pair got no answer from a relay: it is avoided for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct RelayLoss {
    #[n(0)]
    pub relay: RelayId,
    #[n(1)]
    pub until: UnixMillis,
}

/// The last choice of a relay for a pair.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct RelayChoice {
    /// The pair, in the order of the candidates' round trips.
    #[n(0)]
    pub of: [ClientId; 2],
    #[n(1)]
    pub why: RelayWhy,
    /// The best ones, best first.
    #[n(2)]
    pub candidates: Vec<RelayCandidate>,
    #[n(3)]
    pub losses: Vec<RelayLoss>,
    #[n(4)]
    pub at: UnixMillis,
    /// Nothing was chosen: to be asked again after this long.
    #[n(5)]
    pub retry_after_ms: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_round_trips_as_fit_read_back() {
        for count in 0..=RelayTrips::MOST {
            let trips = RelayTrips::new(&measured(count)).unwrap();
            assert_eq!(trips.iter().count(), count);
            assert_eq!(minicbor::decode::<RelayTrips>(&minicbor::to_vec(trips).unwrap()).unwrap(), trips);
        }
        let trips = RelayTrips::new(&measured(2)).unwrap();
        assert_eq!(trips.of(RelayId::from_bytes([1; 16])), Some(1_000));
        assert_eq!(trips.of(RelayId::from_bytes([2; 16])), None);
    }

    #[test]
    fn too_many_too_long_and_double_ones_are_refused_wherever_they_come_from() {
        let many = measured(RelayTrips::MOST + 1);
        let twice = [measured(1), measured(1)].concat();
        let long = [RelayTrip { rtt_us: RelayTrips::LONGEST_US + 1, ..measured(1)[0] }];
        for (wrong, why) in [
            (&many[..], RelayTripsError::TooMany { count: 9 }),
            (&twice, RelayTripsError::Twice),
            (&long, RelayTripsError::TooLong { rtt_us: 5_000_001 }),
        ] {
            assert_eq!(RelayTrips::new(wrong), Err(why));
            assert!(minicbor::decode::<RelayTrips>(&minicbor::to_vec(wrong).unwrap()).is_err());
        }
        let longest = [RelayTrip { rtt_us: RelayTrips::LONGEST_US, ..measured(1)[0] }];
        assert!(RelayTrips::new(&longest).is_ok());
    }

    fn measured(count: usize) -> Vec<RelayTrip> {
        let trip =
            |number: u8| RelayTrip { relay: RelayId::from_bytes([number; 16]), rtt_us: 1_000 * u32::from(number) };
        (0..).map(trip).take(count).collect()
    }
}
