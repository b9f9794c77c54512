//! Rates.

use std::{fmt, str::FromStr, time::Duration};

use minicbor::{Decode, Encode};

/// Bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Bandwidth(#[n(0)] u64);

impl Bandwidth {
    /// No limit.
    pub const UNLIMITED: Self = Self(u64::MAX);

    /// This many bytes in a second.
    #[must_use]
    pub const fn from_bytes_per_second(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many kilobits (1,000 bits) in a second.
    #[must_use]
    pub const fn from_kbit_per_second(kilobits: u64) -> Self {
        Self(kilobits * 125)
    }

    /// Bytes in a second.
    #[must_use]
    pub const fn bytes_per_second(self) -> u64 {
        self.0
    }

    /// Whether there is no limit.
    #[must_use]
    pub const fn is_unlimited(self) -> bool {
        self.0 == u64::MAX
    }

    /// The bytes that pass in `time`.
    #[must_use]
    pub fn bytes_in(self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.0) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unlimited() {
            return f.write_str("unlimited");
        }
        match self.0 {
            bytes if bytes % 125_000 == 0 && bytes > 0 => write!(f, "{} Mbit/s", bytes / 125_000),
            bytes if bytes % 125 == 0 => write!(f, "{} kbit/s", bytes / 125),
            bytes => write!(f, "{bytes} B/s"),
        }
    }
}

/// A text that names no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a rate: write a number and one of B/s, KiB/s, MiB/s, kbit/s, Mbit/s, or \"unlimited\"")]
pub struct ParseBandwidthError;

impl FromStr for Bandwidth {
    type Err = ParseBandwidthError;

    fn from_str(text: &str) -> Result<Self, ParseBandwidthError> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let (number, unit) = text.trim().split_once(' ').ok_or(ParseBandwidthError)?;
        let factor = match unit {
            "B/s" => 1,
            "KiB/s" => 1_024,
            "MiB/s" => 1_048_576,
            "kbit/s" => 125,
            "Mbit/s" => 125_000,
            _ => return Err(ParseBandwidthError),
        };
        let number: u64 = number.parse().map_err(|_| ParseBandwidthError)?;
        number.checked_mul(factor).map(Self).ok_or(ParseBandwidthError)
    }
}

impl serde::Serialize for Bandwidth {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Bandwidth {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_back_from_its_text() {
        for rate in [Bandwidth::UNLIMITED, Bandwidth(1_000), Bandwidth(7), Bandwidth(250_000), Bandwidth(0)] {
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        assert_eq!("8 KiB/s".parse(), Ok(Bandwidth(8_192)));
        assert!("8".parse::<Bandwidth>().is_err());
        assert!("18446744073709551615 MiB/s".parse::<Bandwidth>().is_err());
    }

    #[test]
    fn the_free_plan_carries_a_kilobyte_a_second() {
        let free = Bandwidth::from_kbit_per_second(8);
        assert_eq!(free.bytes_in(Duration::from_secs(1)), 1_000);
        assert_eq!(free.bytes_in(Duration::from_millis(1)), 1);
    }
}
