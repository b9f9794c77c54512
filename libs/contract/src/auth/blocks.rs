//! Blocks: what operators have auth hold against whom, and how gateways learn of it.

use bus::{Delivery, Event};
use domain::{Block, BlockId, BlockReason, BlockSubject, ClientId, Degree, UnixMillis};
use minicbor::{Decode, Encode};

/// Why something was not done about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum BlockRefusal {
    #[n(0)]
    NoSuchBlock,
    /// It is not what it was thought to be.
    #[n(1)]
    Changed,
    /// There is a block of this subject.
    #[n(2)]
    Exists(#[n(0)] BlockId),
    /// There are as many as there may be.
    #[n(3)]
    LimitReached,
    /// Storage failed; the number is in the log.
    #[n(4)]
    Internal {
        #[n(0)]
        incident: u64,
    },
    /// Storage has too much to do; nothing was done.
    #[n(5)]
    Busy,
}

/// Makes a block.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MakeBlock {
    /// Drawn by who asks, so that the call can be repeated.
    #[n(0)]
    pub id: BlockId,
    #[n(1)]
    pub subject: BlockSubject,
    #[n(2)]
    pub degree: Degree,
    #[n(3)]
    pub reason: BlockReason,
    /// In the words of the audit log.
    #[n(4)]
    pub maker: String,
    #[n(5)]
    pub expires: UnixMillis,
}
call!(MakeBlock, "auth.make-block", Block, BlockRefusal);

/// A page of blocks, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Blocks {
    #[n(0)]
    pub after: Option<BlockId>,
    #[n(1)]
    pub limit: u16,
}

/// The answer to [`Blocks`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlocksPage {
    #[n(0)]
    pub blocks: Vec<Block>,
    #[n(1)]
    pub more: bool,
}
call!(Blocks, "auth.blocks", BlocksPage, BlockRefusal);

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ShowBlock {
    #[n(0)]
    pub id: BlockId,
}
call!(ShowBlock, "auth.show-block", Block, BlockRefusal);

/// Changes a block, if it is still in the version `expected`; `None`: whatever it is in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangeBlock {
    #[n(0)]
    pub id: BlockId,
    #[n(1)]
    pub expected: Option<u64>,
    #[n(2)]
    pub degree: Option<Degree>,
    #[n(3)]
    pub reason: Option<BlockReason>,
    #[n(4)]
    pub expires: Option<UnixMillis>,
}

/// The answer to [`ChangeBlock`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangedBlock {
    #[n(0)]
    pub before: Block,
    #[n(1)]
    pub after: Block,
}
call!(ChangeBlock, "auth.change-block", ChangedBlock, BlockRefusal);

/// Lifts a block, likewise. The answer is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LiftBlock {
    #[n(0)]
    pub id: BlockId,
    #[n(1)]
    pub expected: Option<u64>,
}
call!(LiftBlock, "auth.lift-block", Block, BlockRefusal);

/// Whom a block on `subject` is about: a page of the registered clients, by id. Of addresses none: where clients are is not
/// stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AboutWhom {
    #[n(0)]
    pub subject: BlockSubject,
    #[n(1)]
    pub after: Option<ClientId>,
    #[n(2)]
    pub limit: u16,
}

/// The answer to [`AboutWhom`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClientsPage {
    #[n(0)]
    pub clients: Vec<ClientId>,
    #[n(1)]
    pub more: bool,
}
call!(AboutWhom, "auth.about-whom", ClientsPage, BlockRefusal);

/// Whose resumption tokens do not count, because something is held against them or their account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlockedClients;

/// The answer to [`BlockedClients`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Blocked {
    /// These, by id.
    #[n(0)]
    These(#[n(0)] Vec<ClientId>),
    /// They are too many to be named: nobody's token counts.
    #[n(1)]
    Everybody,
}
call!(BlockedClients, "auth.blocked-clients", Blocked, BlockRefusal);

/// A block was made, changed or lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlocksChanged;

impl Event for BlocksChanged {
    const TOPIC: &'static str = "auth.blocks-changed";
    const DELIVERY: Delivery = Delivery::Everyone;
}
