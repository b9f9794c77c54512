//! What must not be: `cpu/naive > 1.05`. Pure.

use std::{fmt, str::FromStr};

use clap::ValueEnum as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::server::Kind;

/// A figure of the relay, or its ratio to another's, and a bound of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) metric: Metric,
    pub(crate) against: Option<Against>,
    pub(crate) fails: Fails,
}

/// Where a bound lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fails {
    Above(f64),
    Below(f64),
}

/// What the relay's figure is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    Server(Kind),
    /// The relay's own in the scenario's first phase.
    First,
}

/// What is known of a server after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Delivered,
    Loss,
    Reordered,
    P50,
    P99,
    P999,
    Cpu,
    Process,
    Host,
    Fairness,
    CapError,
    IdleBytes,
    BusyBytes,
}

/// A text that is no threshold.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no threshold: METRIC[/SERVER or /first] > NUMBER, or < NUMBER; metrics are {names}", names = names())]
pub(crate) struct NoThreshold(String);

impl Metric {
    pub(crate) const ALL: [Self; 13] = [
        Self::Delivered,
        Self::Loss,
        Self::Reordered,
        Self::P50,
        Self::P99,
        Self::P999,
        Self::Cpu,
        Self::Process,
        Self::Host,
        Self::Fairness,
        Self::CapError,
        Self::IdleBytes,
        Self::BusyBytes,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Loss => "loss",
            Self::Reordered => "reordered",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Cpu => "cpu",
            Self::Process => "process",
            Self::Host => "host",
            Self::Fairness => "fairness",
            Self::CapError => "cap-error",
            Self::IdleBytes => "idle-bytes",
            Self::BusyBytes => "busy-bytes",
        }
    }
}

impl Threshold {
    /// Whether `value` is on the wrong side. What was not measured is.
    pub(crate) fn is_missed_by(&self, value: Option<f64>) -> bool {
        value.is_none_or(|value| match self.fails {
            Fails::Above(most) => value.is_nan() || value > most,
            Fails::Below(least) => value.is_nan() || value < least,
        })
    }
}

impl FromStr for Threshold {
    type Err = NoThreshold;

    fn from_str(text: &str) -> Result<Self, NoThreshold> {
        parse(text).ok_or_else(|| NoThreshold(text.to_owned()))
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.metric.name())?;
        match self.against {
            Some(Against::Server(kind)) => write!(f, "/{}", kind.name())?,
            Some(Against::First) => f.write_str("/first")?,
            None => {}
        }
        match self.fails {
            Fails::Above(most) => write!(f, " > {most}"),
            Fails::Below(least) => write!(f, " < {least}"),
        }
    }
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn parse(text: &str) -> Option<Threshold> {
    let (figure, number, above) = match (text.split_once('>'), text.split_once('<')) {
        (Some((figure, number)), None) => (figure, number, true),
        (None, Some((figure, number))) => (figure, number, false),
        _ => return None,
    };
    let (name, against) = match figure.trim().split_once('/') {
        Some((name, "first")) => (name, Some(Against::First)),
        Some((name, server)) => (name, Some(Against::Server(Kind::from_str(server, false).ok()?))),
        None => (figure.trim(), None),
    };
    let number: f64 = number.trim().parse().ok().filter(|number: &f64| number.is_finite())?;
    Some(Threshold {
        metric: Metric::ALL.into_iter().find(|metric| metric.name() == name)?,
        against,
        fails: if above { Fails::Above(number) } else { Fails::Below(number) },
    })
}

fn names() -> String {
    Metric::ALL.map(Metric::name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_reads_as_it_is_written() {
        for text in ["cpu/naive > 1.05", "fairness < 0.95", "p99.9/first > 2", "host/coturn > 0.35", "cap-error > 0.01"]
        {
            assert_eq!(text.parse::<Threshold>().unwrap().to_string(), text);
        }
        assert_eq!("loss>0".parse::<Threshold>().unwrap().to_string(), "loss > 0");
    }

    #[test]
    fn other_texts_are_refused_with_the_names_that_exist() {
        for text in
            ["", "cpu", "cpu > ", "cpu > x", "cpu > NaN", "speed > 1", "cpu/nobody > 1", "1 < cpu < 2", "cpu <> 1"]
        {
            let error = text.parse::<Threshold>().unwrap_err().to_string();
            assert!(error.contains("reordered"), "{error}");
        }
    }

    #[test]
    fn a_bound_itself_holds_and_what_was_not_measured_does_not() {
        let above: Threshold = "p50 > 2".parse().unwrap();
        assert_eq!(
            [Some(2.0), Some(2.001), Some(f64::NAN), None].map(|value| above.is_missed_by(value)),
            [false, true, true, true]
        );
        let below: Threshold = "fairness < 0.5".parse().unwrap();
        assert_eq!([Some(0.5), Some(0.499), None].map(|value| below.is_missed_by(value)), [false, true, true]);
    }
}
