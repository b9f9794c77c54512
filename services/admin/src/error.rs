//! Problem documents (RFC 9457).

use std::fmt;

use actix_web::{
    HttpResponse, ResponseError,
    error::QueryPayloadError,
    http::{StatusCode, header},
};
use bus::CallError;
use serde::Serialize;

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    /// Stable, for programs.
    code: &'static str,
    /// For people.
    detail: String,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "send the operator's token: Authorization: Bearer TOKEN")
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this resource can only be read: use GET")
    }

    fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "a part of the service does not answer; try again later",
        )
    }

    /// What became of a call. `incident` is the number that a refusal quotes.
    pub(crate) fn of_call<R>(error: &CallError<R>, incident: impl FnOnce(&R) -> Option<u64>) -> Self {
        match error {
            CallError::Refused(refusal) => incident(refusal).map_or_else(Self::unavailable, |incident| {
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    format!("the service failed; its logs name incident {incident:016x}"),
                )
            }),
            CallError::TimedOut | CallError::Unavailable | CallError::Malformed | CallError::TooLarge { .. } => {
                Self::unavailable()
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.insert_header((header::CONTENT_TYPE, "application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"buri\""));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, "5"));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.insert_header((header::ALLOW, "GET"));
        }
        let title = self.status.canonical_reason().unwrap_or("Problem");
        let document = Document {
            r#type: "about:blank",
            title,
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
        };
        response.body(serde_json::to_string(&document).unwrap_or_default())
    }
}

impl From<QueryPayloadError> for Problem {
    fn from(error: QueryPayloadError) -> Self {
        Self::invalid(error.to_string())
    }
}
