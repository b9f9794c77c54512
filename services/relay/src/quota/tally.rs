//! From the cache line of a pair to the accounts of who pays: what each leg sent, told now and then.

use domain::PayerId;
use wire::{relay::Slot, ticket::LegSide};

use super::{Accounts, LOOK, STOPPED, UNSEEN};
use crate::slab::{Slab, Story};

/// Bytes of a leg that its account is told of while the pair goes on: keepalives open no account.
const LEAST_REPORT: u16 = 4_096;

/// Counts a datagram of a leg in its pair's cache line; `false` when its account has to be asked first, and nothing is counted.
#[inline]
pub(crate) const fn count(tally: &mut u16, length: usize) -> bool {
    let looks = *tally >= LOOK;
    if !looks {
        // No datagram is longer than a look: both fit.
        *tally += if length < LOOK as usize { length as u16 } else { LOOK };
    }
    !looks
}

impl Accounts {
    /// Whether who pays for a leg lets it send `length` bytes, which are then counted: asked once in [`LOOK`] bytes, and for
    /// every datagram while the quota is used up.
    #[cold]
    pub(crate) fn look(&self, slab: &mut Slab, (slot, side): (Slot, LegSide), now: u64, length: usize) -> bool {
        self.settle(slab, slot, side);
        let story = slab.story_mut(slot);
        story.charged[side as usize] = true;
        let account = story.accounts[side as usize].clone();
        let open = account.as_ref().is_none_or(|account| account.is_open());
        if let Some(pair) = slab.get_mut(slot) {
            let tally = &mut pair.tally[side as usize];
            *tally = if open { 0 } else { STOPPED };
            if open && count(tally, length) {
                return true;
            }
        }
        let Some(account) = account else { return true };
        let trickles = account.trickles(now, length);
        self.charge(&account, if trickles { length as u64 } else { 0 });
        trickles
    }

    /// Counts the first packet of a leg, which leaves in any case: it is short, and joins have a budget.
    pub(crate) fn pass(&self, slab: &mut Slab, (slot, side): (Slot, LegSide), length: usize) {
        let counted = slab.get_mut(slot).is_none_or(|pair| count(&mut pair.tally[side as usize], length));
        if !counted {
            self.charge_leg(slab, slot, side, length as u64);
        }
    }

    /// Counts what an accelerator forwarded of each leg. Returns whether both may go on.
    pub(crate) fn add(&self, slab: &mut Slab, slot: Slot, sent: [u64; 2]) -> bool {
        let mut open = true;
        for side in [LegSide::A, LegSide::B].into_iter().filter(|side| sent[*side as usize] > 0) {
            self.settle(slab, slot, side);
            self.charge_leg(slab, slot, side, sent[side as usize]);
            let account = &slab.story_mut(slot).accounts[side as usize];
            if account.as_ref().is_some_and(|account| !account.is_open())
                && let Some(pair) = slab.get_mut(slot)
            {
                pair.tally[side as usize] = STOPPED;
                open = false;
            }
        }
        open
    }

    /// How many bytes an accelerator may forward of each leg of a living pair before the next look.
    pub(crate) fn allowed(&self, slab: &Slab, slot: Slot) -> [u64; 2] {
        let Story { payers, accounts, .. } = slab.story(slot);
        std::array::from_fn(|side| match &accounts[side] {
            _ if payers[side] == PayerId::NOBODY => u64::MAX,
            Some(account) => account.rest().min(UNSEEN),
            None => UNSEEN,
        })
    }

    /// Has `payer` pay for what the leg sends from now on.
    pub(crate) fn pay(&self, slab: &mut Slab, slot: Slot, side: LegSide, payer: PayerId) {
        if slab.story_mut(slot).payers[side as usize] == payer {
            return;
        }
        self.settle(slab, slot, side);
        self.leave_one(slab, slot, side);
        slab.story_mut(slot).payers[side as usize] = payer;
    }

    /// Looks at a pair that goes on, once in its idle time: tells the accounts of both legs what is worth telling, and leaves
    /// those of legs that sent next to nothing since the last time.
    pub(crate) fn tell(&self, slab: &mut Slab, slot: Slot) {
        for side in [LegSide::A, LegSide::B] {
            let tally = slab.get_mut(slot).map_or(0, |pair| pair.tally[side as usize]);
            let charged = std::mem::take(&mut slab.story_mut(slot).charged[side as usize]);
            match tally {
                STOPPED if charged => {}
                LEAST_REPORT..STOPPED => self.settle(slab, slot, side),
                _ if charged => {}
                _ => self.leave_one(slab, slot, side),
            }
        }
    }

    /// Leaves the accounts of a pair that ends.
    pub(crate) fn leave(&self, slab: &mut Slab, slot: Slot) {
        for side in [LegSide::A, LegSide::B] {
            self.settle(slab, slot, side);
            self.leave_one(slab, slot, side);
        }
    }

    fn leave_one(&self, slab: &mut Slab, slot: Slot, side: LegSide) {
        if slab.story(slot).accounts[side as usize].is_some() {
            self.settle(slab, slot, side);
        }
        if let Some(account) = slab.story_mut(slot).accounts[side as usize].take() {
            self.close(account);
        }
    }

    /// Tells the account of a leg what the leg has sent.
    fn settle(&self, slab: &mut Slab, slot: Slot, side: LegSide) {
        let Some(pair) = slab.get_mut(slot) else { return };
        let bytes = match std::mem::take(&mut pair.tally[side as usize]) {
            STOPPED => 0,
            bytes => bytes.into(),
        };
        self.charge_leg(slab, slot, side, bytes);
    }

    /// Charges who pays for a leg. What nobody pays for is forgotten.
    fn charge_leg(&self, slab: &mut Slab, slot: Slot, side: LegSide, bytes: u64) {
        let Story { payers, accounts, charged, .. } = slab.story_mut(slot);
        let payer = payers[side as usize];
        if payer != PayerId::NOBODY && bytes > 0 {
            charged[side as usize] = true;
            self.charge(accounts[side as usize].get_or_insert_with(|| self.open(payer)), bytes);
        }
    }
}
