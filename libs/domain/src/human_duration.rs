//! Durations in configuration files: a number with its unit, as in `"30s"`. For `#[serde(with = "domain::human_duration")]`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Writes `duration` in the largest unit that divides it.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&text(*duration))
}

/// Reads a duration with its unit.
///
/// # Errors
/// When there is no number, no unit or an unknown one.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    parse(&text)
        .ok_or_else(|| de::Error::custom(format!("{text:?} is no duration: write a number and ms, s, min, h or d")))
}

fn text(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, factor) =
        UNITS.into_iter().rev().find(|(_, factor)| ms != 0 && ms % factor == 0).unwrap_or(("s", 1_000));
    format!("{}{unit}", ms / factor)
}

/// The duration that `text` names; `None` without a number and a known unit.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(factor).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_back_from_its_text() {
        for ms in [0, 1, 250, 1_000, 1_500, 60_000, 90_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse(&text(duration)), Some(duration));
        }
        assert_eq!(text(Duration::from_secs(120)), "2min");
    }

    #[test]
    fn a_number_without_a_unit_is_no_duration() {
        for text in ["", "30", "s", "-1s", "1 y", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
