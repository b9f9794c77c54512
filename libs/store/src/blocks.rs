//! What operators hold against whom.

use std::time::Duration;

use async_trait::async_trait;
use domain::{Block, BlockId, BlockReason, BlockSubject, ClientId, Degree, IdentityKey, UnixMillis};

use crate::Error;

/// Blocks at once, at most: those on addresses are read whole.
pub const MAX_BLOCKS: u32 = 1_000;

/// Between two joins of a network that is slowed down.
pub const SLOW_JOINS: Duration = Duration::from_secs(60);

/// Blocks, and what they say about somebody. A block counts until it expires, whether it was deleted by then or not.
#[async_trait]
pub trait Blocks: Send + Sync {
    /// Makes a block. There is one of each subject.
    async fn make_block(&self, block: NewBlock, at: UnixMillis) -> Result<Block, MakeBlockError>;

    async fn block(&self, id: BlockId, at: UnixMillis) -> Result<Option<Block>, Error>;

    /// A page of blocks, by id.
    async fn blocks(&self, after: Option<BlockId>, limit: u16, at: UnixMillis) -> Result<Vec<Block>, Error>;

    /// Changes a block, if it is still in the version `expected`; `None`: whatever it is in. Gives it before and after.
    async fn change_block(
        &self,
        id: BlockId,
        expected: Option<u64>,
        change: BlockChange,
        at: UnixMillis,
    ) -> Result<(Block, Block), ChangeBlockError>;

    /// Deletes a block, likewise.
    async fn lift_block(&self, id: BlockId, expected: Option<u64>, at: UnixMillis) -> Result<Block, ChangeBlockError>;

    /// All blocks on addresses.
    async fn prefix_blocks(&self, at: UnixMillis) -> Result<Vec<Block>, Error>;

    /// Whether `client` is registered, and what is held against it and its account.
    async fn held_against(&self, client: ClientId, at: UnixMillis) -> Result<HeldAgainst, Error>;

    /// Clients with a block on them or their account, by id; at most `limit`.
    async fn blocked_clients(&self, limit: u32, at: UnixMillis) -> Result<Vec<ClientId>, Error>;

    /// The registered clients that a block on `subject` is about, by id, at most `limit`: none of addresses, which are not
    /// stored; of a network its members.
    async fn clients_of(
        &self,
        subject: BlockSubject,
        after: Option<ClientId>,
        limit: u16,
    ) -> Result<Vec<ClientId>, Error>;

    /// Deletes blocks whose time is over.
    async fn prune_blocks(&self, at: UnixMillis) -> Result<u64, Error>;
}

/// A block to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBlock {
    pub id: BlockId,
    pub subject: BlockSubject,
    pub degree: Degree,
    pub reason: BlockReason,
    pub maker: String,
    pub expires: UnixMillis,
}

/// What is to be different about a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockChange {
    pub degree: Option<Degree>,
    pub reason: Option<BlockReason>,
    pub expires: Option<UnixMillis>,
}

/// What is known of a client that wants to log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldAgainst {
    pub registered: bool,
    /// Its newest key, when it is registered.
    pub identity: Option<IdentityKey>,
    /// The severest one, of those on the client and on its account.
    pub block: Option<Block>,
}

/// Why a block was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeBlockError {
    #[error("there is a block of this subject")]
    Exists(BlockId),
    #[error("there are {limit} blocks already")]
    LimitReached { limit: u32 },
    #[error("storage failed")]
    Store(#[from] Error),
}

/// Why a block was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeBlockError {
    #[error("there is no such block")]
    Unknown,
    #[error("the block is not what it was thought to be")]
    Changed,
    #[error("storage failed")]
    Store(#[from] Error),
}
