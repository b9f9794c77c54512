//! Problem documents (RFC 9457).

use std::fmt;

use actix_web::{
    HttpResponse,
    http::{Method, StatusCode, header},
};
use bus::CallError;
use serde::Serialize;
use utoipa::ToSchema;

/// When to ask again after a part of the service did not answer, in seconds.
const UNAVAILABLE_FOR: u64 = 5;

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    /// Stable, for programs.
    code: &'static str,
    /// For people.
    detail: String,
    /// The methods that there are instead.
    allowed: Vec<Method>,
    retry_after_s: Option<u64>,
}

/// Why a request was not carried out.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    /// Stable, for programs.
    code: &'a str,
    /// For people.
    detail: &'a str,
    /// The number that the logs and the audit log know the request by.
    request_id: &'a str,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), allowed: Vec::new(), retry_after_s: None }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "send a valid token: Authorization: Bearer TOKEN")
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", detail)
    }

    pub(crate) fn invalid_body(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-body", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    pub(crate) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// Of a resource that takes only these methods.
    pub(crate) fn method_not_allowed(allowed: Vec<Method>) -> Self {
        let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        let detail = format!("this resource takes {}", names.join(", "));
        Self { allowed, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail) }
    }

    pub(crate) fn unavailable() -> Self {
        let detail = "a part of the service does not answer; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retry_after(UNAVAILABLE_FOR)
    }

    /// A failure that a role logged under this number.
    pub(crate) fn internal(incident: u64) -> Self {
        let detail = format!("the service failed; its logs name incident {incident:016x}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// Stable, for programs.
    pub(crate) const fn code(&self) -> &'static str {
        self.code
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
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

    /// What failed in our own storage.
    pub(crate) fn of_store(error: &store::Error) -> Self {
        if store::Error::is_busy(error) {
            tracing::warn!("a request waited too long for the database");
            return Self::unavailable();
        }
        Self::internal(telemetry::incident::log("the store of operations", error))
    }

    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer to the request with this number.
    pub(crate) fn respond(&self, request_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.insert_header((header::CONTENT_TYPE, "application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"buri\""));
        }
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if !self.allowed.is_empty() {
            let names: Vec<&str> = self.allowed.iter().map(Method::as_str).collect();
            response.insert_header((header::ALLOW, names.join(", ")));
        }
        response.body(self.text(request_id))
    }

    /// The document.
    pub(crate) fn text(&self, request_id: &str) -> String {
        let title = self.status.canonical_reason().unwrap_or("Problem");
        let document = Document {
            r#type: "about:blank",
            title,
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            request_id,
        };
        serde_json::to_string(&document).unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}
