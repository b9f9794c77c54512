//! Which account a client belongs to. The client proved itself when it logged in; the code proves the account's side.

use bus::{Bus, CallError};
use contract::account::{AccountOfClient, AccountRefusal, AttachClient, DetachClient};
use domain::{AttachCode, ClientId};
use wire::{
    Code,
    control::{Refused, Reply},
};

use crate::requests::internal;

pub(crate) async fn attach(bus: &Bus, client: ClientId, code: AttachCode) -> Result<Reply, Refused> {
    let attached = bus.call(&AttachClient { client, code }).await;
    attached.map(|account| Reply::Account(Some(Box::new(account)))).map_err(refused)
}

pub(crate) async fn detach(bus: &Bus, client: ClientId) -> Result<Reply, Refused> {
    bus.call(&DetachClient { client }).await.map(|_| Reply::Done).map_err(refused)
}

pub(crate) async fn account(bus: &Bus, client: ClientId) -> Result<Reply, Refused> {
    let belongs = bus.call(&AccountOfClient { client }).await;
    belongs.map(|belongs| Reply::Account(belongs.account.map(Box::new))).map_err(refused)
}

/// What a client is told of a refusal that is about its account.
fn refused(error: CallError<AccountRefusal>) -> Refused {
    let refusal = match error {
        CallError::Refused(refusal) => refusal,
        CallError::TimedOut | CallError::Unavailable | CallError::Malformed => {
            return Refused::because(Code::Unavailable);
        }
        CallError::TooLarge { .. } => return Refused::because(Code::TooLarge),
    };
    let after = |code, retry_after_ms| Refused { retry_after_ms: Some(retry_after_ms), ..Refused::because(code) };
    match refusal {
        AccountRefusal::Code => Refused::because(Code::AttachCodeInvalid),
        AccountRefusal::Elsewhere => Refused::because(Code::AttachedElsewhere),
        AccountRefusal::LimitReached { .. } => Refused::because(Code::AccountFull),
        AccountRefusal::Suspended => Refused::because(Code::AccountSuspended),
        AccountRefusal::Unknown => Refused::because(Code::NotAttached),
        AccountRefusal::Limited { retry_after_ms } => after(Code::RateLimited, retry_after_ms),
        AccountRefusal::Busy { retry_after_ms } => after(Code::Unavailable, retry_after_ms),
        AccountRefusal::Internal { incident } => internal(incident),
        // These are said to people, not to clients.
        AccountRefusal::NotLoggedIn
        | AccountRefusal::Denied
        | AccountRefusal::Token
        | AccountRefusal::NotPermitted
        | AccountRefusal::NotOwned
        | AccountRefusal::Invalid
        | AccountRefusal::Plan
        | AccountRefusal::NoProvider
        | AccountRefusal::Unvouched
        | AccountRefusal::ConnectFirst
        | AccountRefusal::Taken => Refused::because(Code::NotPermitted),
    }
}
