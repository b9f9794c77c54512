//! What operators hold against whom: kept in the store, looked at by every login.
//!
//! What is held against a client or its account is read with the login itself. Blocks on addresses are kept here in memory,
//! read again when one changes and every few seconds: whoever has no recent ones refuses new keys, and nobody else.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use bus::{Bus, Served};
use contract::auth::{
    LoginRefusal,
    blocks::{
        AboutWhom, BlockRefusal, Blocked, BlockedClients, Blocks, BlocksChanged, BlocksPage, ChangeBlock, ChangedBlock,
        ClientsPage, LiftBlock, MakeBlock, ShowBlock,
    },
};
use domain::{AddressPrefix, Block, Degree, UnixMillis};
use store::{Accounts, BlockChange, ChangeBlockError, Error, MakeBlockError, NewBlock};

use crate::{Auth, serve};

/// How often blocks are read again, in case nobody heard that one changed.
pub(crate) const REFRESH: Duration = Duration::from_secs(5);

/// How often blocks that are over are deleted.
pub(crate) const PRUNE: Duration = Duration::from_secs(60);

/// How old what is known may be.
const STALE: Duration = Duration::from_secs(20);

/// Rows in one page, at most.
const MAX_ROWS: u16 = 500;

/// Clients that are named to gateways, at most: as many as one message of the bus can carry.
const MOST_BLOCKED: u32 = 10_000;

/// The longest that somebody refused is told to wait: a block may be lifted, and who is not blocked any more is back then.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The blocks on addresses.
#[derive(Debug, Default)]
pub(crate) struct Prefixes(RwLock<(Arc<[Block]>, Option<Instant>)>);

impl Prefixes {
    /// Reads them again.
    pub(crate) async fn read(&self, accounts: &dyn Accounts) -> Result<(), Error> {
        let (asked, at) = (Instant::now(), SystemTime::now().into());
        let blocks = accounts.prefix_blocks(at).await?;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Of two answers the one counts that was asked for later.
        if known.1.is_none_or(|before| before <= asked) {
            *known = (blocks.into(), Some(asked));
        }
        Ok(())
    }

    /// The severest block on new keys from there.
    pub(crate) async fn on(
        &self,
        accounts: &dyn Accounts,
        from: AddressPrefix,
        at: UnixMillis,
    ) -> Result<Option<Block>, Error> {
        let mut known = self.known();
        if known.1.is_none_or(|read| read.elapsed() > STALE) {
            self.read(accounts).await?;
            known = self.known();
        }
        Ok(severest(&known.0, from, at).cloned())
    }

    fn known(&self) -> (Arc<[Block]>, Option<Instant>) {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Of the blocks around `from` that count, the one of the highest degree; of those the one that ends last.
fn severest(blocks: &[Block], from: AddressPrefix, at: UnixMillis) -> Option<&Block> {
    let around =
        blocks.iter().filter(|block| block.expires > at && prefix(block).is_some_and(|one| one.contains(from)));
    around.max_by_key(|block| (block.degree, block.expires))
}

pub(crate) fn prefix(block: &Block) -> Option<AddressPrefix> {
    if let domain::BlockSubject::Prefix(prefix) = block.subject { Some(prefix) } else { None }
}

/// What a client is told that something is held against.
pub(crate) fn withheld(block: &Block, wait: Option<Duration>, at: UnixMillis) -> LoginRefusal {
    LoginRefusal::Withheld {
        notice: Box::new(block.notice()),
        retry_after_ms: millis(wait.unwrap_or_else(|| until(block, at))),
    }
}

/// What a new client is told from whose address none are let in.
pub(crate) fn registration_withheld(block: &Block, wait: Option<Duration>, at: UnixMillis) -> LoginRefusal {
    LoginRefusal::RegistrationWithheld {
        notice: Box::new(block.notice()),
        retry_after_ms: millis(wait.unwrap_or_else(|| until(block, at))),
    }
}

fn until(block: &Block, at: UnixMillis) -> Duration {
    block.expires.since(at).clamp(Duration::from_secs(1), LONGEST_WAIT)
}

pub(crate) fn millis(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}

impl Auth {
    /// Serves what operators ask for about blocks, and what gateways need to know of them.
    pub(crate) async fn serve_blocks(
        self: &Arc<Self>,
        bus: &Bus,
        concurrency: usize,
    ) -> Result<Vec<Served>, bus::Error> {
        let (changing, lifting, making) = (bus.clone(), bus.clone(), bus.clone());
        let heard = Arc::clone(self);
        Ok(vec![
            bus.serve(concurrency, serve(self, |auth, call: Blocks| async move { auth.list_blocks(call).await }))
                .await?,
            bus.serve(concurrency, serve(self, |auth, call: ShowBlock| async move { auth.show_block(call).await }))
                .await?,
            bus.serve(concurrency, serve(self, |auth, call: AboutWhom| async move { auth.about_whom(call).await }))
                .await?,
            bus.serve(concurrency, serve(self, |auth, BlockedClients| async move { auth.blocked_clients().await }))
                .await?,
            bus.serve(
                concurrency,
                serve(self, move |auth, call: MakeBlock| {
                    let bus = making.clone();
                    async move { auth.told(&bus, auth.make_block(call).await).await }
                }),
            )
            .await?,
            bus.serve(
                concurrency,
                serve(self, move |auth, call: ChangeBlock| {
                    let bus = changing.clone();
                    async move { auth.told(&bus, auth.change_block(call).await).await }
                }),
            )
            .await?,
            bus.serve(
                concurrency,
                serve(self, move |auth, call: LiftBlock| {
                    let bus = lifting.clone();
                    async move { auth.told(&bus, auth.lift_block(call).await).await }
                }),
            )
            .await?,
            bus.subscribe(1, move |BlocksChanged| {
                let auth = Arc::clone(&heard);
                async move { auth.prefixes.read(&*auth.accounts).await }
            })
            .await?,
        ])
    }

    /// Deletes blocks that are over.
    pub(crate) async fn prune_blocks(&self) {
        if let Err(error) = self.accounts.prune_blocks(SystemTime::now().into()).await {
            tracing::warn!(error = telemetry::incident::chain(&error), "blocks that are over stay in the database");
        }
    }

    /// Reads blocks on addresses again.
    pub(crate) async fn refresh_blocks(&self) {
        if let Err(error) = self.prefixes.read(&*self.accounts).await {
            tracing::warn!(error = telemetry::incident::chain(&error), "blocks could not be read");
        }
    }

    /// Has every process hear of a change, this one before it is answered.
    async fn told<T>(&self, bus: &Bus, result: Result<T, BlockRefusal>) -> Result<T, BlockRefusal> {
        if result.is_ok() {
            self.refresh_blocks().await;
            if let Err(error) = bus.publish(&BlocksChanged).await {
                // They read again soon.
                tracing::warn!(error = telemetry::incident::chain(&error), "a change of blocks was not told");
            }
        }
        result
    }

    async fn make_block(&self, call: MakeBlock) -> Result<Block, BlockRefusal> {
        let MakeBlock { id, subject, degree, reason, maker, expires } = call;
        let new = NewBlock { id, subject, degree, reason, maker, expires };
        self.accounts.make_block(new, SystemTime::now().into()).await.map_err(|error| match error {
            MakeBlockError::Exists(id) => BlockRefusal::Exists(id),
            MakeBlockError::LimitReached { .. } => BlockRefusal::LimitReached,
            MakeBlockError::Store(error) => failed(&error),
        })
    }

    async fn list_blocks(&self, Blocks { after, limit }: Blocks) -> Result<BlocksPage, BlockRefusal> {
        let limit = limit.clamp(1, MAX_ROWS);
        let found = self.accounts.blocks(after, limit + 1, SystemTime::now().into()).await;
        let mut blocks = found.map_err(|error| failed(&error))?;
        let more = blocks.len() > usize::from(limit);
        blocks.truncate(limit.into());
        Ok(BlocksPage { blocks, more })
    }

    async fn show_block(&self, ShowBlock { id }: ShowBlock) -> Result<Block, BlockRefusal> {
        let found = self.accounts.block(id, SystemTime::now().into()).await.map_err(|error| failed(&error))?;
        found.ok_or(BlockRefusal::NoSuchBlock)
    }

    async fn change_block(&self, call: ChangeBlock) -> Result<ChangedBlock, BlockRefusal> {
        let ChangeBlock { id, expected, degree, reason, expires } = call;
        let change = BlockChange { degree, reason, expires };
        let changed = self.accounts.change_block(id, expected, change, SystemTime::now().into()).await;
        let (before, after) = changed.map_err(unchanged)?;
        Ok(ChangedBlock { before, after })
    }

    async fn lift_block(&self, LiftBlock { id, expected }: LiftBlock) -> Result<Block, BlockRefusal> {
        self.accounts.lift_block(id, expected, SystemTime::now().into()).await.map_err(unchanged)
    }

    async fn about_whom(&self, AboutWhom { subject, after, limit }: AboutWhom) -> Result<ClientsPage, BlockRefusal> {
        let limit = limit.clamp(1, MAX_ROWS);
        let found = self.accounts.clients_of(subject, after, limit + 1).await;
        let mut clients = found.map_err(|error| failed(&error))?;
        let more = clients.len() > usize::from(limit);
        clients.truncate(limit.into());
        Ok(ClientsPage { clients, more })
    }

    async fn blocked_clients(&self) -> Result<Blocked, BlockRefusal> {
        let found = self.accounts.blocked_clients(MOST_BLOCKED + 1, SystemTime::now().into()).await;
        let clients = found.map_err(|error| failed(&error))?;
        Ok(if clients.len() > MOST_BLOCKED as usize { Blocked::Everybody } else { Blocked::These(clients) })
    }

    /// What an operator holds against new keys from there, in the ladder's words; an error when there are to be none.
    pub(crate) async fn held_against_new(
        &self,
        from: AddressPrefix,
        at: UnixMillis,
    ) -> Result<Option<Block>, LoginRefusal> {
        let block =
            self.prefixes.on(&*self.accounts, from, at).await.map_err(|error| crate::login::internal(&error))?;
        match block {
            Some(block) if block.degree == Degree::Refuse => Err(registration_withheld(&block, None, at)),
            block => Ok(block),
        }
    }
}

fn unchanged(error: ChangeBlockError) -> BlockRefusal {
    match error {
        ChangeBlockError::Unknown => BlockRefusal::NoSuchBlock,
        ChangeBlockError::Changed => BlockRefusal::Changed,
        ChangeBlockError::Store(error) => failed(&error),
    }
}

fn failed(error: &Error) -> BlockRefusal {
    if Error::is_busy(error) {
        return BlockRefusal::Busy;
    }
    BlockRefusal::Internal { incident: telemetry::incident::log("a call about blocks", error) }
}

#[cfg(test)]
mod tests {
    use domain::{BlockId, BlockSubject};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn the_severest_block_around_an_address_counts() {
        let blocks = [
            block("192.0.0.0/16", Degree::Slow, 9),
            block("192.0.2.0/24", Degree::Challenge, 1),
            block("192.0.2.0/25", Degree::Challenge, 5),
            block("192.0.2.7", Degree::Refuse, 0),
        ];
        let on = |text: &str| {
            severest(&blocks, text.parse().unwrap(), NOW).map(|block| (block.degree, block.expires.0 - NOW.0))
        };
        assert_eq!(on("192.0.9.9"), Some((Degree::Slow, 9)));
        assert_eq!(on("192.0.2.200"), Some((Degree::Challenge, 1)));
        assert_eq!(on("192.0.2.7"), Some((Degree::Challenge, 5)), "one that is over does not");
        assert_eq!(on("192.1.2.7"), None);
        assert_eq!(on("2001:db8::"), None);
    }

    #[test]
    fn who_is_refused_comes_back_when_the_block_ends_or_in_a_minute() {
        let wait = |ends_in| until(&block("192.0.2.7", Degree::Refuse, ends_in), NOW);
        assert_eq!(wait(45_000), Duration::from_secs(45));
        assert_eq!(wait(86_400_000), LONGEST_WAIT);
        assert_eq!(wait(0), Duration::from_secs(1));
    }

    fn block(prefix: &str, degree: Degree, ends_in: u64) -> Block {
        Block {
            id: BlockId::from_bytes([1; 16]),
            subject: BlockSubject::Prefix(prefix.parse().unwrap()),
            degree,
            reason: "x".parse().unwrap(),
            maker: "root".into(),
            made: NOW,
            expires: UnixMillis(NOW.0 + ends_in),
            revision: 1,
        }
    }
}
