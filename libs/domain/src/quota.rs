//! Monthly relay quotas: what a relay may spend on account, and what its reports do to the count.
//!
//! A relay asks nobody about a packet. It holds a *lease* of a part of the quota, reports what it has spent of it, and is
//! told how far it may go. Both are totals since the lease was opened, and reports carry serial numbers: one that is lost is
//! made up for by the next, one that is repeated or overtaken changes nothing. So each byte that is reported is counted
//! once, whatever the messages do. Bytes that a relay forwarded and never reported (it crashed, or was cut off for longer
//! than a lease is remembered) are not counted at all: an error in favour of who pays, bounded by the open part of the lease.
//!
//! A machine that belongs to an account draws on the account's quota, together with the others, from the report on that follows its
//! joining, until the one that follows its leaving; what its leases hold goes along. Its own quota waits meanwhile.
//!
//! A byte counts in the month in which its report arrives: minutes after it was sent.

use std::{fmt, time::Duration};

use minicbor::{Decode, Encode};

use crate::{LeaseId, PayerId, UnixMillis};

/// How long the open part of a lease is kept for a relay that does not report.
pub const LEASE_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// One report never adds more: a relay at 100 Gbit/s for a day. A number beyond it is a mistake.
pub const MOST_PER_REPORT: u64 = 1 << 50;

/// The largest part of a quota that one lease holds.
const LARGEST_BLOCK: u64 = 1 << 30;

/// The smallest, unless less is left.
const SMALLEST_BLOCK: u64 = 256 * 1024;

/// What a lease without a limit holds: more than a relay spends between two reports.
const ENDLESS_BLOCK: u64 = 1 << 42;

/// Bytes in a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct Quota(#[n(0)] u64);

/// A calendar month in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(u32);

/// What a relay has spent of a lease. The first report of a lease opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelayReport {
    #[n(0)]
    pub lease: LeaseId,
    #[n(1)]
    pub payer: PayerId,
    /// Greater than in every earlier report of this lease.
    #[n(2)]
    pub serial: u64,
    /// Bytes since the lease was opened.
    #[n(3)]
    pub spent: u64,
    /// The relay spends nothing more of this lease.
    #[n(4)]
    pub ends: bool,
    /// The relay was answered about this lease before: it must be remembered, or is not to be trusted any more.
    #[n(5)]
    pub known: bool,
}

/// How far a relay may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelayGrant {
    /// Bytes since the lease was opened, those spent included.
    #[n(0)]
    pub granted: u64,
    /// Nothing is left of the quota, or what is left is held by other relays.
    #[n(1)]
    pub exhausted: bool,
}

/// A lease as the owner of the count keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RelayLease {
    pub serial: u64,
    pub spent: u64,
    pub granted: u64,
    pub ended: bool,
}

impl Quota {
    /// No limit.
    pub const UNLIMITED: Self = Self(u64::MAX);

    /// This many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whether there is no limit.
    #[must_use]
    pub const fn is_unlimited(self) -> bool {
        self.0 == u64::MAX
    }

    /// What a lease may hold when `available` bytes are neither spent nor held: a hundredth of the quota and at most a
    /// gibibyte; towards the end an eighth of what is left, so that no relay keeps the last bytes from another.
    #[must_use]
    pub fn block(self, available: u64) -> u64 {
        if self.is_unlimited() {
            return ENDLESS_BLOCK;
        }
        let fair = (self.0 / 100).min(LARGEST_BLOCK).min(available / 8);
        fair.max(SMALLEST_BLOCK).min(available)
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("unlimited"),
            bytes if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => write!(f, "{} GiB", bytes >> 30),
            bytes => write!(f, "{bytes} B"),
        }
    }
}

impl Month {
    /// The month of an instant (the civil calendar from a count of days, in eras of 400 years).
    #[must_use]
    pub fn of(at: UnixMillis) -> Self {
        const DAYS_BEFORE_1970: u64 = 719_468;
        const ERA: u64 = 146_097;
        // The year 9999 is far enough.
        let days = (at.0 / 86_400_000).min(2_932_896) + DAYS_BEFORE_1970;
        let (era, day) = (days / ERA, days % ERA);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        // Counted from March, so that the leap day is the last.
        let from_march = (5 * day_of_year + 2) / 153;
        let months = (era * 400 + year) * 12 + from_march + 2;
        Self(u32::try_from(months).unwrap_or(u32::MAX))
    }

    /// The month with this [`Month::number`].
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Twelve times the year plus the months before this one.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 12, self.0 % 12 + 1)
    }
}

impl RelayLease {
    /// What `report` makes of the lease, and the bytes that it adds to the count. `used` was counted before in this month,
    /// `held` is the open part of all other leases of the payer.
    #[must_use]
    pub fn settle(self, report: &RelayReport, quota: Quota, used: u64, held: u64) -> (Self, u64) {
        if self.ended || report.serial <= self.serial {
            return (self, 0);
        }
        let added = report.spent.saturating_sub(self.spent);
        let spent = self.spent.max(report.spent);
        let available = quota.bytes().saturating_sub(used).saturating_sub(added).saturating_sub(held);
        let more = if report.ends { 0 } else { quota.block(available) };
        (Self { serial: report.serial, spent, granted: spent.saturating_add(more), ended: report.ends }, added)
    }

    /// What is granted and not spent.
    #[must_use]
    pub const fn open(&self) -> u64 {
        if self.ended { 0 } else { self.granted.saturating_sub(self.spent) }
    }

    /// What the relay is told.
    #[must_use]
    pub const fn grant(&self) -> RelayGrant {
        RelayGrant { granted: self.granted, exhausted: self.open() == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn months_are_those_of_the_calendar() {
        let month = |seconds: u64| Month::of(UnixMillis(seconds * 1_000)).to_string();
        assert_eq!(month(0), "1970-01");
        assert_eq!(month(951_782_399), "2000-02");
        assert_eq!(month(951_868_799), "2000-02", "the leap day");
        assert_eq!(month(951_868_800), "2000-03");
        assert_eq!(month(1_798_761_599), "2026-12");
        assert_eq!(month(1_798_761_600), "2027-01");
        assert_eq!(Month::of(UnixMillis(u64::MAX)).to_string(), "9999-12");
        assert_eq!(Month::of(UnixMillis(1_798_761_600_000)).number(), 2027 * 12);
    }

    #[test]
    fn months_follow_one_another_day_by_day() {
        let months: Vec<_> = (0..365 * 140).map(|day| Month::of(UnixMillis(day * 86_400_000)).number()).collect();
        let mut lengths = months.chunk_by(|one, next| one == next).map(<[u32]>::len);
        assert!(months.windows(2).all(|pair| pair[1] - pair[0] <= 1));
        assert_eq!(months[365 * 140 - 1], 2109 * 12 + 10);
        lengths.next_back();
        assert!(lengths.all(|length| (28..=31).contains(&length)));
    }

    #[test]
    fn a_block_is_a_hundredth_and_less_towards_the_end() {
        let quota = Quota::from_bytes(500 * GIB);
        assert_eq!(quota.block(500 * GIB), GIB);
        assert_eq!(quota.block(4 * GIB), GIB / 2);
        assert_eq!(quota.block(SMALLEST_BLOCK + 1), SMALLEST_BLOCK);
        assert_eq!(quota.block(7), 7);
        assert_eq!(quota.block(0), 0);
        assert_eq!(Quota::from_bytes(10 * GIB).block(10 * GIB), GIB / 10);
        assert_eq!(Quota::UNLIMITED.block(0), ENDLESS_BLOCK);
    }

    #[test]
    fn a_repeated_or_overtaken_report_changes_nothing() {
        let quota = Quota::from_bytes(GIB);
        let (first, added) = RelayLease::default().settle(&report(1, 100), quota, 0, 0);
        assert_eq!((first.spent, added), (100, 100));
        let (second, added) = first.settle(&report(3, 250), quota, 100, 0);
        assert_eq!(added, 150);
        for late in [report(1, 100), report(2, 200), report(3, 250)] {
            assert_eq!(second.settle(&late, quota, 250, 0), (second, 0));
        }
        let (ended, added) = second.settle(&RelayReport { ends: true, ..report(4, 260) }, quota, 250, 0);
        assert_eq!((ended.granted, ended.open(), added), (260, 0, 10));
        assert_eq!(ended.settle(&report(5, 900), quota, 260, 0), (ended, 0));
    }

    #[test]
    fn what_others_hold_is_not_granted_again() {
        let quota = Quota::from_bytes(1_000_000);
        let (lease, _) = RelayLease::default().settle(&report(1, 0), quota, 400_000, 500_000);
        assert_eq!(lease.grant(), RelayGrant { granted: 100_000, exhausted: false });
        let (lease, _) = RelayLease::default().settle(&report(1, 10), quota, 400_000, 600_000);
        assert_eq!(lease.grant(), RelayGrant { granted: 10, exhausted: true });
    }

    fn report(serial: u64, spent: u64) -> RelayReport {
        let (lease, payer) = (LeaseId::from_bytes([1; 16]), PayerId::from_bytes([2; 16]));
        RelayReport { lease, payer, serial, spent, ends: false, known: serial > 1 }
    }
}
