//! Monthly quotas at a relay: who pays for the bytes of a leg, and how far it may go without asking.
//!
//! A ticket names who pays for what its leg sends. The packet path adds the lengths of a leg's datagrams to a number in the
//! pair's cache line; every 32 KiB it looks at the payer's [`Account`], which all workers share and which is three atomic
//! numbers: what was spent, up to where it may be spent, and from where on the ledger is to be woken. The ledger leases
//! parts of quotas from the owner of the count (see `domain::RelayReport`), a task beside the workers carries its reports.
//!
//! # What it promises
//! - **Nobody is asked about a packet.** More is asked for when half of a lease is spent. As long as no answer came, a payer
//!   has an overdraft, which is counted, too: a pair starts at once, and an outage of the bus stops nobody soon.
//! - **Each byte is counted once**, however reports and answers are lost, repeated or overtaken, and however pairs move
//!   between relays or legs join again. What is counted belongs to the month in which the report arrives, minutes later.
//! - **An error is in favour of who pays.** A relay that crashes takes along what it had not reported: at most the open part
//!   of its lease (a hundredth of the quota, at most 1 GiB; without a limit what a few minutes carried), the overdraft, and
//!   34 KiB a leg; 4 MiB a leg that the kernel forwards. One that is cut off from the owner for longer than a day loses the
//!   same. A relay that ends in order loses nothing, if the owner is there.
//! - **Out of quota is slow, not dead.** All legs of the payer at one relay share [`TRICKLE`], so that keepalives, handshakes
//!   and words get through while both clients are told why the rest does not. Rejected: dropping everything, which looks
//!   like a broken network to whoever uses it. A new month or a bigger plan is noticed within half a minute of demand.
//!
//! A quota can be overspent by what is forwarded while the answer "nothing is left" is on its way: at most the overdraft and
//! 34 KiB a leg (4 MiB where the kernel forwards) at each relay; and by the open lease of a relay that is cut off for longer
//! than a quarter of an hour, because another may then have it. All of that is counted, too.
//!
//! # What it costs
//! Four bytes of the pair's cache line and an addition for a datagram; every 32 KiB of a leg three atomic operations; a lock
//! when a leg first has something to say, and when it ends. A payer that is relayed costs the owner a transaction when half
//! of a lease is spent, and at least every five minutes. `model` runs a week of it.

mod account;
mod ledger;
mod lessee;
#[cfg(test)]
mod model;
mod tally;

pub use account::{Account, Accounts, TRICKLE};
pub(crate) use ledger::Ledger;
pub(crate) use lessee::run;
pub(crate) use tally::count;

/// What a payer may spend before the first answer, and beyond its lease while none comes.
pub(crate) const OVERDRAFT: u64 = 16 * 1024 * 1024;

/// The bytes of a leg after which its account is looked at.
pub(crate) const LOOK: u16 = 32 * 1024;

/// In the place of a leg's bytes: its payer is out of quota, every datagram looks.
pub(crate) const STOPPED: u16 = u16::MAX;

/// The bytes of a leg that an accelerator forwards before the worker looks: a hundred times as many, for it is a hundred times
/// as much to ask it.
pub(crate) const UNSEEN: u64 = 4 * 1024 * 1024;
