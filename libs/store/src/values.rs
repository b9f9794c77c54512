//! Between columns and the words of the domain.

use std::net::Ipv4Addr;

use domain::{
    AccountId, Bandwidth, ClientId, EmailAddress, NetworkId, NetworkKind, NetworkName, Nickname, PersonId, Plan,
    Prefix, Quota, Revision, Role, SecretEpoch, UnixMillis,
};

use crate::Error;

/// Which members of a network meet, and whether some of them are gateways.
pub(crate) fn kind(number: i64, routed: bool) -> Result<NetworkKind, Error> {
    let kind = NetworkKind::ALL.into_iter().find(|kind| *kind as i64 == number);
    Ok(NetworkKind::of(kind.ok_or(Error::Corrupt { what: "kind" })?, routed))
}

/// Prefixes, parted by blanks.
pub(crate) fn prefixes(text: &str) -> Result<Vec<Prefix>, Error> {
    let prefixes = text.split_ascii_whitespace().map(str::parse);
    prefixes.collect::<Result<_, _>>().map_err(|_| Error::Corrupt { what: "prefix" })
}

/// The inverse of [`prefixes`].
pub(crate) fn prefixes_text(prefixes: &[Prefix]) -> String {
    prefixes.iter().map(Prefix::to_string).collect::<Vec<_>>().join(" ")
}

/// A counter or instant as a BIGINT; what lies beyond is the end of time.
pub(crate) fn bigint(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A rate or quota as a BIGINT; no limit is the largest.
pub(crate) fn unlimited(value: u64) -> i64 {
    bigint(value)
}

pub(crate) fn revision(value: i64) -> Result<Revision, Error> {
    u64::try_from(value).map(Revision).map_err(|_| Error::Corrupt { what: "revision" })
}

pub(crate) fn epoch(value: i64) -> Result<SecretEpoch, Error> {
    u64::try_from(value).map(SecretEpoch).map_err(|_| Error::Corrupt { what: "epoch of a secret" })
}

pub(crate) fn instant(value: i64) -> Result<UnixMillis, Error> {
    u64::try_from(value).map(UnixMillis).map_err(|_| Error::Corrupt { what: "instant" })
}

pub(crate) fn count(value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::Corrupt { what: "count" })
}

/// The largest BIGINT means no limit, so that the database can compare rates.
pub(crate) fn rate(value: i64) -> Result<Bandwidth, Error> {
    match u64::try_from(value) {
        Ok(_) if value == i64::MAX => Ok(Bandwidth::UNLIMITED),
        Ok(bytes) => Ok(Bandwidth::from_bytes_per_second(bytes)),
        Err(_) => Err(Error::Corrupt { what: "rate" }),
    }
}

/// The largest BIGINT means no limit.
pub(crate) fn quota(value: i64) -> Result<Quota, Error> {
    match bytes(value)? {
        _ if value == i64::MAX => Ok(Quota::UNLIMITED),
        bytes => Ok(Quota::from_bytes(bytes)),
    }
}

pub(crate) fn bytes(value: i64) -> Result<u64, Error> {
    u64::try_from(value).map_err(|_| Error::Corrupt { what: "count of bytes" })
}

pub(crate) fn client(bytes: &[u8]) -> Result<ClientId, Error> {
    ClientId::try_from(bytes).map_err(|_| Error::Corrupt { what: "client id" })
}

pub(crate) fn network(bytes: &[u8]) -> Result<NetworkId, Error> {
    NetworkId::try_from(bytes).map_err(|_| Error::Corrupt { what: "network id" })
}

pub(crate) fn name(text: &str) -> Result<NetworkName, Error> {
    text.parse().map_err(|_| Error::Corrupt { what: "network name" })
}

pub(crate) fn nick(text: Option<&str>) -> Result<Option<Nickname>, Error> {
    text.map(str::parse).transpose().map_err(|_| Error::Corrupt { what: "nickname" })
}

pub(crate) fn account(bytes: &[u8]) -> Result<AccountId, Error> {
    AccountId::try_from(bytes).map_err(|_| Error::Corrupt { what: "account id" })
}

pub(crate) fn person(bytes: &[u8]) -> Result<PersonId, Error> {
    PersonId::try_from(bytes).map_err(|_| Error::Corrupt { what: "person id" })
}

pub(crate) fn email(text: &str) -> Result<EmailAddress, Error> {
    text.parse().map_err(|_| Error::Corrupt { what: "e-mail address" })
}

/// The inverse of [`role`], for people in accounts.
pub(crate) const fn role_number(role: Role) -> i64 {
    match role {
        Role::Member => 0,
        Role::Admin => 1,
        Role::Owner => 2,
    }
}

/// As `members.role` holds it; the owner is 2 in what queries return.
pub(crate) fn role(value: i64) -> Result<Role, Error> {
    match value {
        0 => Ok(Role::Member),
        1 => Ok(Role::Admin),
        2 => Ok(Role::Owner),
        _ => Err(Error::Corrupt { what: "role" }),
    }
}

pub(crate) fn v4(address: i64) -> Result<Ipv4Addr, Error> {
    u32::try_from(address).map(Ipv4Addr::from_bits).map_err(|_| Error::Corrupt { what: "address" })
}

/// A row of plans: name, members, networks, rate, quota.
pub(crate) type PlanRow = (String, i64, i64, i64, i64);

pub(crate) fn plan((name, members, networks, relay_rate, relay_quota): PlanRow) -> Result<Plan, Error> {
    Ok(Plan {
        name,
        members_per_network: count(members)?,
        networks_per_client: count(networks)?,
        relay_rate: rate(relay_rate)?,
        relay_quota: quota(relay_quota)?,
    })
}
