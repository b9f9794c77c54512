//! The relay's side of the accounting. Pure: driven by wakes, answers and time; says what to report.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{LeaseId, PayerId, RelayGrant, RelayReport};

use super::account::{Account, Accounts};

/// How often all accounts are looked at: what was spent is reported, what rests is returned.
const ROUND: Duration = Duration::from_secs(60);
/// A lease is confirmed this often, well before it expires.
const CONFIRM: Duration = Duration::from_secs(300);
/// Bytes that are worth a report of their own; fewer wait for the next confirmation. Each report is a transaction.
pub(super) const WORTH: u64 = 1024 * 1024;
/// A payer that is out of quota asks again after this long, if it still wants to send.
const ASK_AGAIN: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(32);
/// A first report that was never answered may have been counted, and is remembered for a day: then it is given up before.
const UNANSWERED: Duration = Duration::from_secs(12 * 3600);
/// Accounts looked at in one turn of a round.
const TURN: usize = 1_024;

/// The leases of one relay.
#[derive(Debug)]
pub(crate) struct Ledger {
    accounts: Accounts,
    /// The first half of every lease's id.
    seed: [u8; 8],
    leases: u64,
    entries: BTreeMap<PayerId, Entry>,
    due: BTreeSet<(Instant, PayerId)>,
    ready: BTreeSet<PayerId>,
    /// When the next round begins or goes on, and from where.
    round: (Instant, Option<PayerId>),
    draining: bool,
}

#[derive(Debug)]
struct Entry {
    account: Arc<Account>,
    /// What earlier leases were charged, or gave up: the current one counts from here.
    base: u64,
    lease: Option<Lease>,
    /// The last word was that nothing is left.
    exhausted: bool,
    asking: bool,
    failures: u32,
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: LeaseId,
    opened: Instant,
    answered: Option<Instant>,
    serial: u64,
    /// In the newest report.
    reported: u64,
    /// The newest report is the last, and stays as it is until it is answered.
    ends: bool,
}

/// Why a report was not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There was no answer, or it may be better later.
    Later,
    /// The lease is forgotten, or its numbers are not believed: the relay begins anew.
    Lease,
    /// Nobody pays.
    Payer,
}

impl Ledger {
    /// No leases yet. `seed` is different for every process.
    pub(crate) fn new(now: Instant, accounts: Accounts, seed: [u8; 8]) -> Self {
        Self {
            accounts,
            seed,
            leases: 0,
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            ready: BTreeSet::new(),
            round: (now + ROUND, None),
            draining: false,
        }
    }

    /// An account wants to be looked at.
    pub(crate) fn handle_wake(&mut self, payer: PayerId) {
        if let Some(entry) = self.entries.get_mut(&payer) {
            // After a failure the retry comes by itself.
            if !entry.asking && entry.failures == 0 {
                self.ready.insert(payer);
            }
        } else if let Some(account) = self.accounts.find(payer) {
            let entry =
                Entry { account, base: 0, lease: None, exhausted: false, asking: false, failures: 0, due: None };
            self.entries.insert(payer, entry);
            self.ready.insert(payer);
        }
    }

    /// The next report to send. Exactly one of [`Self::handle_grant`] and [`Self::handle_refusal`] answers it.
    pub(crate) fn poll_report(&mut self, now: Instant) -> Option<RelayReport> {
        while let Some(payer) = self.ready.pop_first() {
            if let Some(report) = self.report(now, payer) {
                return Some(report);
            }
        }
        None
    }

    fn report(&mut self, now: Instant, payer: PayerId) -> Option<RelayReport> {
        let entry = self.entries.get_mut(&payer).filter(|entry| !entry.asking)?;
        let spent = entry.account.spent().saturating_sub(entry.base);
        let unused = self.draining || !entry.account.is_used();
        if entry.lease.is_none() && spent == 0 {
            if unused {
                self.forget(payer);
            } else {
                entry.account.wake_at(Some(entry.base + 1));
            }
            return None;
        }
        let lease = entry.lease.get_or_insert_with(|| {
            self.leases += 1;
            let mut id = [0; 16];
            id[..8].copy_from_slice(&self.seed);
            id[8..].copy_from_slice(&self.leases.to_be_bytes());
            let id = LeaseId::from_bytes(id);
            Lease { id, opened: now, answered: None, serial: 0, reported: 0, ends: false }
        });
        if !lease.ends {
            let rests = lease.answered.is_some() && spent == lease.reported && !entry.exhausted;
            lease.serial += 1;
            lease.reported = spent;
            lease.ends = unused || rests;
        }
        entry.asking = true;
        let Lease { id, serial, reported, ends, answered, .. } = *lease;
        Some(RelayReport { lease: id, payer, serial, spent: reported, ends, known: answered.is_some() })
    }

    /// The answer to the report for `payer`.
    pub(crate) fn handle_grant(&mut self, now: Instant, payer: PayerId, grant: RelayGrant) {
        let overdraft = self.accounts.overdraft();
        let Some(entry) = self.entries.get_mut(&payer) else { return };
        let Some(lease) = &mut entry.lease else { return };
        (entry.asking, entry.failures) = (false, 0);
        lease.answered = Some(now);
        let ended = lease.ends;
        if ended {
            entry.base += lease.reported;
            entry.lease = None;
            let credit = if entry.exhausted { 0 } else { overdraft };
            entry.account.allow(entry.base.saturating_add(credit));
            entry.account.wake_at(Some(entry.base + 1));
            // Spent meanwhile, or unused by now.
            self.ready.insert(payer);
            return;
        }
        entry.exhausted = grant.exhausted;
        let reached = entry.base + lease.reported;
        let granted = entry.base.saturating_add(grant.granted);
        if grant.exhausted {
            entry.account.allow(granted);
            entry.account.wake_at(None);
            self.look_at(payer, now + ASK_AGAIN);
        } else {
            entry.account.allow(granted.saturating_add(overdraft));
            entry.account.wake_at(Some(reached + granted.saturating_sub(reached) / 2));
        }
        self.settle_unused(payer);
    }

    /// The report for `payer` was not counted, as far as is known.
    pub(crate) fn handle_refusal(&mut self, now: Instant, payer: PayerId, refused: Refused) {
        let Some(entry) = self.entries.get_mut(&payer) else { return };
        let Some(lease) = entry.lease else { return };
        entry.asking = false;
        entry.failures += 1;
        let hopeless = lease.answered.is_none() && now.saturating_duration_since(lease.opened) > UNANSWERED;
        if refused != Refused::Later || hopeless {
            // What was reported may have been counted: it is not reported again under another name.
            entry.base += lease.reported;
            entry.lease = None;
            entry.exhausted = refused == Refused::Payer;
            entry.account.allow(entry.base.saturating_add(if entry.exhausted { 0 } else { self.accounts.overdraft() }));
        }
        let wait = FIRST_RETRY * (1 << entry.failures.min(6)) / 2;
        let wait = if refused == Refused::Payer { ASK_AGAIN } else { wait.min(LAST_RETRY) };
        self.look_at(payer, now + wait);
    }

    /// Looks at what is due.
    pub(crate) fn handle_deadline(&mut self, now: Instant) {
        while let Some(&(due, payer)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            let Some(entry) = self.entries.get_mut(&payer) else { continue };
            entry.due = None;
            if entry.failures > 0 && !entry.asking {
                self.ready.insert(payer);
            } else if entry.exhausted {
                // Whoever wants to send asks.
                entry.account.wake_at(Some(0));
            }
        }
        let (due, after) = self.round;
        if due <= now {
            let payers = self.accounts.after(after, TURN);
            let last = payers.last().copied().filter(|_| payers.len() == TURN);
            payers.into_iter().for_each(|payer| self.visit(now, payer));
            self.round = if last.is_some() { (now, last) } else { (now + ROUND, None) };
        }
    }

    /// One account of a round: is there something to say?
    fn visit(&mut self, now: Instant, payer: PayerId) {
        let Some(entry) = self.entries.get(&payer) else { return self.handle_wake(payer) };
        let unsaid = entry.account.spent().saturating_sub(entry.base + entry.lease.map_or(0, |lease| lease.reported));
        let old = |lease: Lease| lease.answered.is_none_or(|at| now.saturating_duration_since(at) >= CONFIRM);
        let due = entry.lease.map_or(unsaid > 0, |lease| unsaid >= WORTH || old(lease));
        if due || !entry.account.is_used() {
            self.handle_wake(payer);
        }
    }

    /// When [`Self::handle_deadline`] has something to do.
    pub(crate) fn poll_deadline(&self) -> Instant {
        self.due.first().map_or(self.round.0, |(due, _)| self.round.0.min(*due))
    }

    /// Ends every lease. No leg is served any more.
    pub(crate) fn drain(&mut self, now: Instant) {
        self.draining = true;
        for payer in self.accounts.after(None, usize::MAX) {
            self.handle_wake(payer);
            if let Some(entry) = self.entries.get(&payer)
                && entry.failures > 0
            {
                self.look_at(payer, now);
            }
        }
    }

    /// Whether everything was reported, answered and returned.
    pub(crate) fn is_settled(&self) -> bool {
        self.entries.is_empty()
    }

    /// A lease that nobody uses any more ends now.
    fn settle_unused(&mut self, payer: PayerId) {
        let used = self.entries.get(&payer).is_some_and(|entry| entry.account.is_used());
        if self.draining || !used {
            self.ready.insert(payer);
        }
    }

    fn look_at(&mut self, payer: PayerId, at: Instant) {
        let Some(entry) = self.entries.get_mut(&payer) else { return };
        if let Some(due) = entry.due.replace(at) {
            self.due.remove(&(due, payer));
        }
        self.due.insert((at, payer));
    }

    /// Everything is settled: the account goes, unless a leg took it up meanwhile.
    fn forget(&mut self, payer: PayerId) {
        let Some(entry) = self.entries.get(&payer) else { return };
        if self.accounts.remove(&entry.account, entry.base) {
            if let Some(due) = entry.due {
                self.due.remove(&(due, payer));
            }
            self.entries.remove(&payer);
        }
    }
}
