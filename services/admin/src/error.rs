//! Problem documents (RFC 9457).

use std::fmt;

use actix_web::{
    HttpResponse, ResponseError,
    error::QueryPayloadError,
    http::{Method, StatusCode, header},
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
    allowed: Option<Method>,
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
        Self { status, code, detail: detail.into(), allowed: None }
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

    /// Of a resource that takes only this method.
    pub(crate) fn method_not_allowed(allowed: &Method) -> Self {
        let detail = match *allowed {
            Method::GET => "this resource can only be read: use GET",
            _ => "this is done, not read: use POST",
        };
        Self {
            allowed: Some(allowed.clone()),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        }
    }

    fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "a part of the service does not answer; try again later",
        )
    }

    /// A failure that a role logged under this number.
    pub(crate) fn internal(incident: u64) -> Self {
        let detail = format!("the service failed; its logs name incident {incident:016x}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// What became of a call. `incident` is the number that a refusal quotes.
    pub(crate) fn of_call<R>(error: &CallError<R>, incident: impl FnOnce(&R) -> Option<u64>) -> Self {
        match error {
            CallError::Refused(refusal) => incident(refusal).map_or_else(Self::unavailable, Self::internal),
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
        if let Some(allowed) = &self.allowed {
            response.insert_header((header::ALLOW, allowed.as_str()));
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
