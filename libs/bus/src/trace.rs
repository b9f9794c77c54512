//! Which user action a call belongs to, across processes: a W3C trace context that travels in the envelope.
//!
//! It is kept in a task-local, so that a handler's own calls continue the trace of the call it serves. Work that a handler
//! spawns elsewhere begins a trace of its own.

use std::{fmt, str::FromStr};

tokio::task_local! {
    static CURRENT: Trace;
}

/// One step of a trace. Its text is a `traceparent` of <https://www.w3.org/TR/trace-context/>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    trace: u128,
    span: u64,
}

impl Trace {
    /// A new trace.
    #[must_use]
    pub fn start() -> Self {
        // Zero is no id: the low bit keeps both away from it.
        Self { trace: rand::random::<u128>() | 1, span: rand::random::<u64>() | 1 }
    }

    /// The next step of the running trace, or the first one of a new trace.
    #[must_use]
    pub fn next() -> Self {
        CURRENT
            .try_with(|current| Self { trace: current.trace, span: rand::random::<u64>() | 1 })
            .unwrap_or_else(|_| Self::start())
    }

    /// Runs `work` as this step.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// A text that is no `traceparent` of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct ParseTraceError;

impl FromStr for Trace {
    type Err = ParseTraceError;

    fn from_str(text: &str) -> Result<Self, ParseTraceError> {
        let lowercase_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = text.split('-');
        let (Some("00"), Some(trace), Some(span), Some(flags), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseTraceError);
        };
        if (trace.len(), span.len(), flags.len()) != (32, 16, 2) || ![trace, span, flags].into_iter().all(lowercase_hex)
        {
            return Err(ParseTraceError);
        }
        let trace = u128::from_str_radix(trace, 16).map_err(|_| ParseTraceError)?;
        let span = u64::from_str_radix(span, 16).map_err(|_| ParseTraceError)?;
        if trace == 0 || span == 0 { Err(ParseTraceError) } else { Ok(Self { trace, span }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_reads_back_from_its_text() {
        let trace = Trace::start();
        assert_eq!(trace.to_string().parse(), Ok(trace));
    }

    #[test]
    fn other_texts_are_no_traces() {
        let zero = format!("00-{:032x}-{:016x}-01", 0, 1);
        for text in ["", "00-1-2-01", &zero, "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
            assert_eq!(text.parse::<Trace>(), Err(ParseTraceError), "{text}");
        }
    }

    #[tokio::test]
    async fn steps_within_a_scope_continue_its_trace() {
        let first = Trace::start();
        let next = first.scope(async { Trace::next() }).await;
        assert_eq!(next.trace, first.trace);
        assert_ne!(next.span, first.span);
        assert_ne!(Trace::next().trace, first.trace);
    }
}
