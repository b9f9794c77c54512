//! What the workers know of who pays: a few numbers, without a lock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use domain::{Bandwidth, PayerId};
use tokio::sync::mpsc;

use crate::bucket::Bucket;

/// What all legs of a payer that is out of quota may send together at one relay: 8 kbit/s.
pub const TRICKLE: Bandwidth = Bandwidth::from_kbit_per_second(8);

/// Accounts that wait to be looked at. When full, the next look of a leg or the ledger's next round finds them.
const WAITING: usize = 4_096;

/// The ledger need not be woken.
const NEVER: u64 = u64::MAX;

/// One payer at this relay. All numbers are bytes since the account was opened.
#[derive(Debug)]
pub struct Account {
    payer: PayerId,
    spent: AtomicU64,
    /// From here on it trickles.
    limit: AtomicU64,
    /// From here on the ledger is woken, once.
    alarm: AtomicU64,
    /// When the trickle's bucket is full again.
    trickle: AtomicU64,
}

/// The accounts of a relay, shared by its workers and its ledger.
#[derive(Clone, Debug)]
pub struct Accounts {
    book: Arc<Mutex<BTreeMap<PayerId, Arc<Account>>>>,
    wakes: mpsc::Sender<PayerId>,
    overdraft: u64,
}

impl Accounts {
    /// No account yet; what wakes the ledger arrives at the other end. A new account may spend `overdraft` unasked.
    #[must_use]
    pub fn new(overdraft: u64) -> (Self, mpsc::Receiver<PayerId>) {
        let (wakes, woken) = mpsc::channel(WAITING);
        (Self { book: Arc::default(), wakes, overdraft }, woken)
    }

    /// The account of `payer`. Takes a lock: not for every packet.
    #[must_use]
    pub fn open(&self, payer: PayerId) -> Arc<Account> {
        let new = || {
            Arc::new(Account {
                payer,
                spent: AtomicU64::new(0),
                limit: AtomicU64::new(self.overdraft),
                alarm: AtomicU64::new(0),
                trickle: AtomicU64::new(0),
            })
        };
        Arc::clone(self.book().entry(payer).or_insert_with(new))
    }

    /// Counts `bytes` that were forwarded, none to ask whether there is news.
    pub fn charge(&self, account: &Account, bytes: u64) {
        let spent = account.spent.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if spent >= account.alarm.load(Ordering::Relaxed) && account.alarm.swap(NEVER, Ordering::Relaxed) != NEVER {
            self.wake(account);
        }
    }

    /// A leg does not use the account any more.
    pub fn close(&self, account: Arc<Account>) {
        let payer = account.payer;
        drop(account);
        // Lost when the queue is full: the ledger looks at all accounts once a minute.
        let _ = self.wakes.try_send(payer);
    }

    pub(crate) const fn overdraft(&self) -> u64 {
        self.overdraft
    }

    /// The accounts of all payers after `after`, at most `most`.
    pub(crate) fn after(&self, after: Option<PayerId>, most: usize) -> Vec<PayerId> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.book().range((from, std::ops::Bound::Unbounded)).take(most).map(|(payer, _)| *payer).collect()
    }

    /// The account of `payer`, if there is one.
    pub(crate) fn find(&self, payer: PayerId) -> Option<Arc<Account>> {
        self.book().get(&payer).map(Arc::clone)
    }

    /// Removes an account that nobody but the caller uses, unless something was spent beyond `settled`.
    pub(crate) fn remove(&self, account: &Arc<Account>, settled: u64) -> bool {
        let mut book = self.book();
        // Handles are made under this lock only, or from a handle of a leg.
        let removed = Arc::strong_count(account) <= CALLER_AND_BOOK && account.spent() == settled;
        if removed {
            book.remove(&account.payer);
        }
        removed
    }

    fn wake(&self, account: &Account) {
        if self.wakes.try_send(account.payer).is_err() {
            account.alarm.store(0, Ordering::Relaxed);
        }
    }

    fn book(&self) -> MutexGuard<'_, BTreeMap<PayerId, Arc<Account>>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const CALLER_AND_BOOK: usize = 2;

impl Account {
    /// Whether more may be spent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.rest() > 0
    }

    /// How much.
    pub(crate) fn rest(&self) -> u64 {
        self.limit.load(Ordering::Relaxed).saturating_sub(self.spent())
    }

    /// Whether a datagram of this length still trickles through at `now` (nanoseconds of the relay's clock).
    #[must_use]
    pub fn trickles(&self, now: u64, length: usize) -> bool {
        let taken = self.trickle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let mut bucket = Bucket::resumed(TRICKLE, full_at);
            bucket.take(now, length).then(|| bucket.full_at())
        });
        taken.is_ok()
    }

    /// All that was counted.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }

    /// Whether a leg uses it, besides the book and the caller.
    pub(crate) fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > CALLER_AND_BOOK
    }

    pub(crate) fn allow(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Has the ledger woken from `alarm` on; `None`: not until this is called again.
    pub(crate) fn wake_at(&self, alarm: Option<u64>) {
        self.alarm.store(alarm.unwrap_or(NEVER), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYER: PayerId = PayerId::from_bytes([1; 16]);

    #[test]
    fn the_ledger_is_woken_once_until_it_asks_to_be_again() {
        let (accounts, mut woken) = Accounts::new(1_000);
        let account = accounts.open(PAYER);
        accounts.charge(&account, 10);
        accounts.charge(&account, 10);
        assert_eq!(woken.try_recv(), Ok(PAYER));
        assert!(woken.try_recv().is_err());

        account.wake_at(Some(100));
        accounts.charge(&account, 79);
        assert!(woken.try_recv().is_err());
        accounts.charge(&account, 1);
        assert_eq!(woken.try_recv(), Ok(PAYER));
    }

    #[test]
    fn a_full_queue_loses_no_alarm() {
        let (accounts, mut woken) = Accounts::new(0);
        for number in 0..=WAITING as u64 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            accounts.charge(&accounts.open(PayerId::from_bytes(id)), 1);
        }
        let last = accounts.open(accounts.after(None, usize::MAX)[WAITING]);
        while woken.try_recv().is_ok() {}
        accounts.charge(&last, 0);
        assert!(woken.try_recv().is_ok());
    }

    #[test]
    fn all_legs_of_a_payer_share_an_account_that_ends_with_the_last() {
        let (accounts, _woken) = Accounts::new(1_000);
        let (one, other) = (accounts.open(PAYER), accounts.open(PAYER));
        accounts.charge(&one, 600);
        assert!(other.is_open());
        accounts.charge(&other, 400);
        assert!(!one.is_open());

        assert!(!accounts.remove(&one, 1_000), "the other leg uses it");
        accounts.close(other);
        assert!(!accounts.remove(&one, 999), "a byte is not settled");
        assert!(accounts.remove(&one, 1_000));
        assert_eq!(accounts.open(PAYER).spent(), 0);
    }

    #[test]
    fn the_trickle_passes_the_largest_frame_in_bounded_time_and_no_more_than_its_rate() {
        let account = Accounts::new(0).0.open(PAYER);
        let passed = (0..100_000_u64).filter(|turn| account.trickles(turn * 1_000_000, 2_048)).count();
        // A hundred seconds of 1,000 bytes, and the first frame.
        assert_eq!(passed, 100_000 / 2_048 + 1);
    }
}
