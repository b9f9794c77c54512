//! What goes wrong on the bus.

/// Why a message was not carried or a subscription not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The URL is neither `memory:` nor `amqp://` nor `amqps://`.
    #[error("not the URL of a bus: memory:, amqp:// or amqps:// expected")]
    Url,
    /// The broker is away, blocked or too slow. The message may have been carried all the same.
    #[error("the broker is not available")]
    Unavailable,
    /// The addressed process is not subscribed: it is gone.
    #[error("nobody is there to receive the message")]
    Unroutable,
    /// The queue is full; the message was not taken.
    #[error("the queue is full")]
    Full,
    /// No queue takes a message of this size.
    #[error("a message of {bytes} bytes is more than {max} bytes", max = crate::MAX_MESSAGE_BYTES)]
    TooLarge { bytes: usize },
}

/// Why a call has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError<R> {
    /// The server says no.
    #[error("refused: {0:?}")]
    Refused(R),
    /// No answer within the deadline; the call may have been served.
    #[error("no answer in time")]
    TimedOut,
    /// Nobody serves the subject, its queue is full or the broker is away: worth another try, later.
    #[error("nobody can answer now")]
    Unavailable,
    /// One side does not understand the other: the versions do not match.
    #[error("the call or its answer is malformed")]
    Malformed,
    /// No queue takes a call of this size.
    #[error("a call of {bytes} bytes is more than {max} bytes", max = crate::MAX_MESSAGE_BYTES)]
    TooLarge { bytes: usize },
}

/// Why a back-end has no answer.
#[derive(Debug)]
pub(crate) enum NotCalled {
    TimedOut,
    Unavailable,
    TooLarge { bytes: usize },
}

impl From<Error> for NotCalled {
    fn from(error: Error) -> Self {
        match error {
            Error::TooLarge { bytes } => Self::TooLarge { bytes },
            Error::Url | Error::Unavailable | Error::Unroutable | Error::Full => Self::Unavailable,
        }
    }
}

impl<R> From<NotCalled> for CallError<R> {
    fn from(reason: NotCalled) -> Self {
        match reason {
            NotCalled::TimedOut => Self::TimedOut,
            NotCalled::Unavailable => Self::Unavailable,
            NotCalled::TooLarge { bytes } => Self::TooLarge { bytes },
        }
    }
}
