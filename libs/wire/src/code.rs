//! Outcomes that a client can see: a number on the wire, a word for people and scripts. Both are stable for ever.

use minicbor::{Decode, Encode};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal, $text:literal;)+) => {
        /// Why something was refused or ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(index_only)]
        pub enum Code {
            $($(#[$doc])* #[n($number)] $name = $number,)+
        }

        impl Code {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The stable word, for scripts.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The stable number.
            #[must_use]
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The code with this number; `None` when a newer server made it.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

codes! {
    // 1..: any request.
    Internal = 1, "internal", "the service failed; try again later";
    Unavailable = 2, "unavailable", "a part of the service does not answer; try again later";
    Malformed = 3, "malformed", "the message could not be understood";
    TooLarge = 4, "too-large", "the message is larger than allowed";
    RateLimited = 5, "rate-limited", "too many requests; wait and try again";
    Unsupported = 6, "unsupported", "this version is not supported; update the client";
    // 20..: connection and login.
    ServerKeyMismatch = 20, "server-key-mismatch", "the server does not have the pinned key: wrong address, wrong fingerprint, or somebody in between";
    SignatureInvalid = 21, "signature-invalid", "the login signature does not match this connection";
    LoginTimeout = 22, "login-timeout", "the login took too long";
    Replaced = 23, "replaced", "the same key logged in elsewhere";
    Draining = 24, "draining", "the server restarts; reconnect after the named delay";
    Busy = 25, "busy", "the server is full; reconnect after the named delay";
    SlowReader = 26, "slow-reader", "the connection did not take its messages in time";
    RegistrationLimited = 27, "registration-limited", "too many new clients from this address; try again later";
    Blocked = 28, "blocked", "this client is blocked";
    KeepaliveMissed = 29, "keepalive-missed", "no keepalive arrived in time";
    Ended = 30, "ended", "an operator ended the session; reconnect after the named delay";
    // 40..: networks.
    NetworkDenied = 40, "network-denied", "no such network, or the password is wrong";
    NetworkFull = 41, "network-full", "the network has no free seat";
    AlreadyMember = 42, "already-member", "this client is a member already";
    NameTaken = 43, "name-taken", "a network of this or a confusable name exists";
    NameInvalid = 44, "name-invalid", "this is not a valid name";
    NotAMember = 45, "not-a-member", "this client is not a member of that network";
    PlanLimit = 46, "plan-limit", "the plan does not allow more networks";
    GuessLimit = 47, "guess-limit", "too many wrong passwords; try again later";
    AddressPoolExhausted = 48, "address-pool-exhausted", "no IPv4 address is free; IPv6 works";
    PasswordInvalid = 49, "password-invalid", "a password has 1 to 1024 bytes";
    NotPermitted = 50, "not-permitted", "this client's role in the network does not allow that";
    Banned = 51, "banned", "this client is banned from that network";
    NetworkLocked = 52, "network-locked", "the network takes nobody at the moment";
    AwaitingApproval = 53, "awaiting-approval", "the password is right; an owner or admin of the network has to approve";
    MemberUnknown = 54, "member-unknown", "nobody of that name is in the network, or waits to be";
    LimitReached = 55, "limit-reached", "the network has as many of these as it may have";
    InviteInvalid = 56, "invite-invalid", "there is no such invite, or it was revoked";
    InviteExpired = 57, "invite-expired", "the invite has expired";
    InviteUsedUp = 58, "invite-used-up", "the invite has let in as many as it may";
    // 60..: pairs and relays.
    PeerUnknown = 60, "peer-unknown", "no such peer in any common network";
    PeerOffline = 61, "peer-offline", "the peer is offline";
    NoRelay = 62, "no-relay", "no relay has room at the moment";
    TicketForged = 63, "ticket-forged", "the relay ticket was not made by this deployment";
    TicketExpired = 64, "ticket-expired", "the relay ticket has expired";
    TicketForeign = 65, "ticket-foreign", "the relay ticket is for another relay or leg";
    RelayFull = 66, "relay-full", "the relay has no free slot";
    RelayCapped = 67, "relay-capped", "the pair exceeds the relay rate of its plan";
    RelayDraining = 68, "relay-draining", "the relay is being emptied";
    RelayQuota = 69, "relay-quota", "the monthly relay quota of the plan is used up; a trickle still passes";
    // 80..: secrets of networks.
    SecretPassed = 80, "secret-passed", "the secret or the members of the network changed in the meantime; try again";
    SecretUnverified = 81, "secret-unverified", "the network has a newer secret, and what was handed to this client does not prove itself; the old one is kept";
    SecretLacking = 82, "secret-lacking", "the network has a newer secret; this client gets it as soon as an owner or admin is online";
    MembershipEnded = 83, "membership-ended", "other members say that this client was removed from the network; the servers decide when they are back";
    NoGateways = 84, "no-gateways", "only networks of the kind gateway lead to networks behind their members";
    NotRoutable = 85, "not-routable", "a routed prefix is private address space, and no part of the virtual LAN";
    RouteTaken = 86, "route-taken", "the prefix overlaps with another one that is routed in this network";
    // 90..: accounts.
    AttachCodeInvalid = 90, "attach-code-invalid", "the code is wrong, used or expired; make a new one";
    AttachedElsewhere = 91, "attached-elsewhere", "this client belongs to another account; detach it first";
    AccountFull = 92, "account-full", "the plan of the account does not allow more clients";
    AccountSuspended = 93, "account-suspended", "the account is suspended";
    NotAttached = 94, "not-attached", "this client belongs to no account";
    // 95..: keys of clients.
    KeyRotated = 95, "key-rotated", "this is no longer the key of its client: a newer one followed it";
    KeyTaken = 96, "key-taken", "the new key is or was in use; make another one";
    KeyLimit = 97, "key-limit", "the key of this client was changed as often as it may be";
    // 98..: seats of networks.
    NoSeat = 98, "no-seat", "the plan of the network's owner allows fewer members than there are, and this one has no seat at the moment; nothing is lost, and it is back as soon as a seat is free";
    // 100..: abuse and what is held against somebody.
    WorkRequired = 100, "work-required", "so many new clients come that each has to do some work first, which this version cannot; update the client, or try again later";
    WorkInvalid = 101, "work-invalid", "the work that the server asked for was not done, or too late; try again";
    Slowed = 102, "slowed", "an operator slowed this client down; come back after the named delay";
    RegistrationBlocked = 103, "registration-blocked", "an operator lets no new clients in from this address for a while; clients that are known already are not affected";
    NetworkBlocked = 104, "network-blocked", "an operator lets nobody join this network for a while; its members are not affected";
    NetworkSlowed = 105, "network-slowed", "an operator lets clients join this network one at a time; try again after the named delay";
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_are_unique_and_read_back() {
        let mut words: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        assert_eq!(Code::from_number(0), None);
    }
}
