//! Structured logs on standard error.

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Why nothing would be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("not a log filter")]
    Filter(#[from] ParseError),
    #[error("logs are set up already")]
    Twice,
}

/// Logs what `filter` lets through (directives of `EnvFilter`), as text or as one JSON object a line.
///
/// # Errors
/// [`LogsError`].
pub fn init(filter: &str, json: bool) -> Result<(), LogsError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { logs.json().try_init() } else { logs.try_init() }.map_err(|_| LogsError::Twice)
}

/// Whether `filter` can be used.
///
/// # Errors
/// [`LogsError::Filter`].
pub fn check(filter: &str) -> Result<(), LogsError> {
    EnvFilter::builder().parse(filter)?;
    Ok(())
}
