//! Clients that change their keys: the request, and what becomes of sessions and tokens under the old ones.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use bus::{Bus, CallError, Served};
use contract::auth::{KeyRetired, RetiredKey, RotateKey, RotateRefusal};
use domain::{IdentityKey, KeyRotation, UnixMillis};
use wire::{
    Code,
    control::{Refused, Reply},
};

use crate::{
    hub::Hub,
    requests::{Who, internal},
};

/// Keys that open nothing any more, for as long as a token for them might.
#[derive(Debug, Default)]
pub(crate) struct Retired(Mutex<BTreeMap<IdentityKey, UnixMillis>>);

impl Retired {
    /// Whether tokens for `identity` count for nothing.
    pub(crate) fn has(&self, identity: &IdentityKey) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(identity)
    }

    fn note(&self, keys: &[RetiredKey], now: UnixMillis) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, until| *until > now);
        let fresh = keys.iter().filter(|key| key.until > now);
        known.extend(fresh.map(|key| (key.identity, key.until)));
        while known.len() > MOST {
            known.pop_first();
        }
    }
}

/// Takes what auth tells until the guard is stopped.
pub(crate) async fn serve(hub: &Arc<Hub>) -> Result<Served, bus::Error> {
    let taking = Arc::clone(hub);
    let take = move |event: KeyRetired| {
        retire(&taking, &[event.key]);
        async { Ok::<(), Infallible>(()) }
    };
    hub.seams.bus.subscribe(1, take).await
}

/// Ends the sessions under these keys, and lets none begin by a token.
pub(crate) fn retire(hub: &Hub, keys: &[RetiredKey]) {
    hub.retired.note(keys, UnixMillis::from(SystemTime::now()));
    for key in keys {
        if let Some(handle) = hub.find_under(key.client, &key.identity) {
            handle.end(Refused::because(Code::KeyRotated));
        }
    }
}

pub(crate) async fn rotate(bus: &Bus, who: Who, rotation: KeyRotation) -> Result<Reply, Refused> {
    let call = RotateKey { client: who.client, from: who.identity, rotation };
    bus.call(&call).await.map(|()| Reply::Done).map_err(refused)
}

/// What a client is told of a refusal that is about its key.
fn refused(error: CallError<RotateRefusal>) -> Refused {
    let refusal = match error {
        CallError::Refused(refusal) => refusal,
        CallError::TimedOut | CallError::Unavailable | CallError::Malformed => {
            return Refused::because(Code::Unavailable);
        }
        CallError::TooLarge { .. } => return Refused::because(Code::TooLarge),
    };
    match refusal {
        RotateRefusal::Rotated => Refused::because(Code::KeyRotated),
        RotateRefusal::Signature => Refused::because(Code::SignatureInvalid),
        RotateRefusal::Taken => Refused::because(Code::KeyTaken),
        RotateRefusal::LimitReached => Refused::because(Code::KeyLimit),
        RotateRefusal::Blocked => Refused::because(Code::Blocked),
        RotateRefusal::Busy => Refused::because(Code::Unavailable),
        RotateRefusal::Internal { incident } => internal(incident),
    }
}

/// More than a deployment changes in the lifetime of a token. Of more some may resume until their token ends.
const MOST: usize = 65_536;

#[cfg(test)]
mod tests {
    use domain::ClientId;

    use super::*;

    #[test]
    fn a_key_is_known_as_long_as_a_token_for_it_lives() {
        let retired = Retired::default();
        let key = |number: u8, until: u64| RetiredKey {
            identity: IdentityKey::from_bytes([number; 32]),
            client: ClientId::from_bytes([number; 16]),
            until: UnixMillis(until),
        };
        let has = |number: u8| retired.has(&IdentityKey::from_bytes([number; 32]));
        retired.note(&[key(1, 100), key(2, 200), key(3, 50)], UnixMillis(60));
        assert_eq!([1, 2, 3].map(has), [true, true, false]);
        retired.note(&[], UnixMillis(100));
        assert_eq!([1, 2, 3].map(has), [false, true, false]);
    }
}
