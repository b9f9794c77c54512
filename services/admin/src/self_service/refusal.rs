//! What auth refuses, as people and their programs read it.

use actix_web::http::StatusCode;
use bus::CallError;
use contract::account::AccountRefusal;

use super::not_logged_in;
use crate::error::Problem;

/// What became of a call.
pub(crate) fn problem(error: CallError<AccountRefusal>) -> Problem {
    match error {
        CallError::Refused(refusal) => of(refusal),
        error @ (CallError::TimedOut | CallError::Unavailable | CallError::Malformed | CallError::TooLarge { .. }) => {
            Problem::of_call(&error, |_: &AccountRefusal| None)
        }
    }
}

/// What is said of a refusal.
pub(crate) fn of(refusal: AccountRefusal) -> Problem {
    let conflict = |code, detail: &str| Problem::new(StatusCode::CONFLICT, code, detail);
    match refusal {
        AccountRefusal::NotLoggedIn => not_logged_in(),
        AccountRefusal::Denied => {
            Problem::new(StatusCode::FORBIDDEN, "denied", "no such person, or the password is wrong")
        }
        AccountRefusal::Token => {
            let detail = "the token is used up, expired, or for somebody else";
            Problem::new(StatusCode::FORBIDDEN, "token-invalid", detail)
        }
        AccountRefusal::NotPermitted => {
            Problem::new(StatusCode::FORBIDDEN, "not-permitted", "your role in the account does not allow that")
        }
        AccountRefusal::Suspended => {
            Problem::new(StatusCode::FORBIDDEN, "account-suspended", "the account is suspended")
        }
        AccountRefusal::Unknown => Problem::not_found("there is no such thing in an account of yours"),
        AccountRefusal::NotOwned => conflict("not-owned", "the network's owner is no client of the account"),
        AccountRefusal::Invalid => {
            Problem::new(StatusCode::BAD_REQUEST, "invalid-body", "something is out of its bounds")
        }
        AccountRefusal::LimitReached { limit } => {
            Problem::new(StatusCode::CONFLICT, "limit-reached", format!("there are {limit} already"))
        }
        AccountRefusal::Plan => Problem::not_found("there is no such plan"),
        AccountRefusal::Limited { retry_after_ms } => {
            let detail = "too many tries; wait and try again";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail).retry_after(seconds(retry_after_ms))
        }
        AccountRefusal::Busy { retry_after_ms } => {
            let detail = "too much to do at the moment; try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(seconds(retry_after_ms))
        }
        AccountRefusal::Code => Problem::new(StatusCode::FORBIDDEN, "code-invalid", "the code is wrong or used"),
        AccountRefusal::Elsewhere => conflict("attached-elsewhere", "the client belongs to another account"),
        AccountRefusal::NoProvider => Problem::not_found("no provider is configured"),
        AccountRefusal::Unvouched => {
            let detail = "the provider does not vouch for anybody with a verified e-mail address";
            Problem::new(StatusCode::FORBIDDEN, "not-vouched-for", detail)
        }
        AccountRefusal::ConnectFirst => {
            conflict("connect-first", "the address has an account: log in with its password and connect the provider")
        }
        AccountRefusal::Taken => conflict("provider-taken", "the provider's person is connected to somebody else"),
        AccountRefusal::Internal { incident } => Problem::internal(incident),
    }
}

fn seconds(ms: u32) -> u64 {
    u64::from(ms).div_ceil(1_000)
}
