//! What can go wrong in every use case.

/// The database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not a database URL: sqlite:///path/to/file.db and postgres://user@host/database are")]
    Url,
    #[error("the schema of the database does not fit")]
    Schema(#[from] SchemaError),
    #[error("no connection to the database was free in time")]
    Busy,
    /// Whether it took effect is unknown: repeating finds out.
    #[error("the transaction took too long")]
    TimedOut,
    #[error("the transaction broke off by a fault in the program")]
    Crashed,
    #[error("the database holds a broken {what}")]
    Corrupt { what: &'static str },
    #[error("the client is not registered")]
    UnknownClient,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl Error {
    /// Whether `error` or one of its causes is [`Self::Busy`]: nothing was done, and a later try may succeed.
    #[must_use]
    pub fn is_busy(error: &(dyn std::error::Error + 'static)) -> bool {
        let causes = std::iter::successors(Some(error), |error| error.source());
        causes.filter_map(|cause| cause.downcast_ref::<Self>()).any(|error| matches!(error, Self::Busy))
    }
}

/// Why a role must not start on this database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("the database has no schema yet: run `mediator migrate`")]
    Missing,
    #[error("the database is at version {found}, this program needs {needed}: run `mediator migrate`")]
    Older { found: u32, needed: u32 },
    #[error("the database is at version {found}, this program knows up to {known}: update the program")]
    Newer { found: u32, known: u32 },
    #[error("migration {version} was applied with another text than this program has")]
    Altered { version: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::JoinError;

    #[test]
    fn a_busy_database_shows_through_what_failed_because_of_it() {
        assert!(Error::is_busy(&Error::Busy) && Error::is_busy(&JoinError::Store(Error::Busy)));
        assert!(!Error::is_busy(&Error::TimedOut) && !Error::is_busy(&JoinError::Store(Error::TimedOut)));
    }
}
