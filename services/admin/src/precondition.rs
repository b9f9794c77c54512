//! Versions of objects: what a change must have seen (RFC 9110, section 13).

use actix_web::{
    HttpRequest,
    http::{StatusCode, header},
};
use ring::digest::{SHA256, digest};
use serde::Serialize;

use crate::error::Problem;

/// Tags in one header, at most.
const MOST: usize = 32;

/// What `If-Match` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Nothing.
    Absent,
    /// That there must be an object, in whatever version.
    Any,
    /// The versions that will do, with their quotes.
    OneOf(Vec<String>),
}

impl Precondition {
    pub(crate) fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let mut tags = Vec::new();
        for value in request.headers().get_all(header::IF_MATCH) {
            let text = value.to_str().map_err(|_| malformed())?;
            for tag in text.split(',').map(str::trim) {
                tags.push(tag.to_owned());
            }
        }
        match tags.as_slice() {
            [] => Ok(Self::Absent),
            [one] if one == "*" => Ok(Self::Any),
            tags if tags.len() <= MOST && tags.iter().all(|tag| is_tag(tag)) => Ok(Self::OneOf(tags.to_vec())),
            _ => Err(malformed()),
        }
    }

    /// Lets a change pass that has seen the version `etag`.
    pub(crate) fn expect(&self, etag: &str) -> Result<(), Problem> {
        match self {
            Self::Absent | Self::Any => Ok(()),
            Self::OneOf(tags) if tags.iter().any(|tag| tag == etag) => Ok(()),
            Self::OneOf(_) => Err(changed()),
        }
    }

    /// Whether every version will do.
    pub(crate) const fn is_any(&self) -> bool {
        matches!(self, Self::Absent | Self::Any)
    }
}

/// The object was changed by somebody else.
pub(crate) fn changed() -> Problem {
    Problem::new(
        StatusCode::PRECONDITION_FAILED,
        "changed-meanwhile",
        "the object is not in the version of If-Match any more: read it again",
    )
}

/// The tag of an object that is its own version.
pub(crate) fn tag_of(value: &impl Serialize) -> String {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let hash = digest(&SHA256, &text);
    let hex: String = hash.as_ref()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// A weak tag never matches here, but it is one.
fn is_tag(text: &str) -> bool {
    let opaque = text.strip_prefix("W/").unwrap_or(text).strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    opaque.is_some_and(|inner| inner.bytes().all(|byte| byte == 0x21 || (0x23..=0x7e).contains(&byte)))
}

fn malformed() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-header", "If-Match: tags in double quotes, or *, expected")
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn tags_are_compared_strongly() {
        let of =
            |text: &str| Precondition::of(&TestRequest::default().insert_header(("If-Match", text)).to_http_request());
        assert!(of("\"r1\"").unwrap().expect("\"r1\"").is_ok());
        assert!(of("\"r1\", \"r2\"").unwrap().expect("\"r2\"").is_ok());
        assert!(of("W/\"r1\"").unwrap().expect("\"r1\"").is_err());
        assert!(of("\"r1\"").unwrap().expect("\"r2\"").is_err());
        assert_eq!(of("*").unwrap(), Precondition::Any);
        for bad in ["r1", "\"r1", "\"r1\" \"r2\"", "", "*, \"r1\"", "\"\u{e9}\""] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(&vec!["\"r\""; MOST].join(",")).is_ok());
        assert!(of(&vec!["\"r\""; MOST + 1].join(",")).is_err());
        assert_eq!(Precondition::of(&TestRequest::default().to_http_request()).unwrap(), Precondition::Absent);
    }
}
