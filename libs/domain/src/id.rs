//! Identifiers and counters. Each is its own type, so that one cannot be passed where another is meant.

use std::{fmt, str::FromStr};

use minicbor::{Decode, Encode};
use ring::digest;

use crate::IdentityKey;

/// A text that is not the hexadecimal form of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: {expected} hexadecimal digits expected")]
pub struct ParseIdError {
    expected: usize,
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]);

        impl $name {
            /// The id with these 16 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes of the id.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = ParseIdError;

            fn try_from(bytes: &[u8]) -> Result<Self, ParseIdError> {
                bytes.try_into().map(Self).map_err(|_| ParseIdError { expected: 32 })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let wrong = ParseIdError { expected: 32 };
                if text.len() != 32 || !text.is_ascii() {
                    return Err(wrong);
                }
                let mut bytes = [0; 16];
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
                    let digits = std::str::from_utf8(pair).map_err(|_| wrong)?;
                    *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong)?;
                }
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode, serde::Serialize, serde::Deserialize,
        )]
        #[cbor(transparent)]
        #[serde(transparent)]
        pub struct $name(#[n(0)] pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

bytes_id! {
    /// A client, for as long as it lives: derived once from its first identity key.
    ClientId
}
bytes_id! {
    /// A network.
    NetworkId
}
bytes_id! {
    /// An invite, by what the server knows of it.
    InviteId
}
bytes_id! {
    /// An account of people.
    AccountId
}
bytes_id! {
    /// Somebody who logs in to accounts.
    PersonId
}
bytes_id! {
    /// A message from one client to another, drawn by its sender.
    MessageId
}
bytes_id! {
    /// One relay process.
    RelayId
}
bytes_id! {
    /// Who pays for what is relayed: a client. Which quota it draws on, its own or its account's, is for the owner of the count.
    PayerId
}
bytes_id! {
    /// A relay's right to a part of somebody's monthly quota. Drawn at random by the relay.
    LeaseId
}
bytes_id! {
    /// One running process of any role; made anew at every start, so that nothing is ever sent to its predecessor.
    InstanceId
}
bytes_id! {
    /// A token of the API, by what may be shown of it. Drawn at random.
    TokenId
}
bytes_id! {
    /// What an operator holds against somebody. Drawn at random.
    BlockId
}

bytes_id! {
    /// An event. Ids of later milliseconds are greater.
    EventId
}
bytes_id! {
    /// A webhook. Drawn at random.
    WebhookId
}

/// A gateway process is named by its instance.
pub type GatewayId = InstanceId;

number_id! {
    /// The version of a network: raised by every write to it, never reused.
    Revision
}
number_id! {
    /// Orders the sessions of one client: a later session has the greater epoch.
    Epoch
}
number_id! {
    /// Milliseconds since 1970-01-01 UTC by somebody's wall clock. For people and expiries, never for ordering.
    UnixMillis
}

impl ClientId {
    /// The id of the client that registered with `key`: the first half of SHA-256 over a label and the key.
    #[must_use]
    pub fn of(key: &IdentityKey) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"buri client id v1");
        context.update(key.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(id)
    }
}

impl EventId {
    /// The id of an event at `at`: its milliseconds, and then what was drawn at random.
    #[must_use]
    pub fn drawn(at: UnixMillis, drawn: [u8; 10]) -> Self {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&at.0.to_be_bytes()[2..]);
        id[6..].copy_from_slice(&drawn);
        Self(id)
    }
}

impl PayerId {
    /// Who pays for what is not counted: the operator's own measurements.
    pub const NOBODY: Self = Self([0; 16]);
}

impl From<ClientId> for PayerId {
    /// A client pays for itself.
    fn from(client: ClientId) -> Self {
        Self(client.0)
    }
}

impl Revision {
    /// Before the first change of any network.
    pub const ZERO: Self = Self(0);

    /// The revision right after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl UnixMillis {
    /// This instant plus `duration`, at most the end of time.
    #[must_use]
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` until this instant, zero when it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<std::time::SystemTime> for UnixMillis {
    /// The instant in milliseconds; 0 before 1970.
    fn from(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = ClientId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn texts_of_another_length_or_alphabet_are_no_ids() {
        for text in ["", "00", &"g".repeat(32), &"0".repeat(33), &"é".repeat(16)] {
            assert!(text.parse::<NetworkId>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_is_json_text_and_cbor_bytes() {
        let id = NetworkId::from_bytes([7; 16]);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
        let bytes = minicbor::to_vec(id).unwrap();
        assert_eq!(bytes.len(), 17);
        assert_eq!(minicbor::decode::<NetworkId>(&bytes).unwrap(), id);
    }
}
