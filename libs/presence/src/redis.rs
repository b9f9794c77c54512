//! Presence in Redis (7.0 and later), shared by all processes.
//!
//! Each step is one script, so that it happens at once and by the clock of Redis. Keys, all with a time to live:
//! - `buri:client:ID`, a hash: the highest epoch, and the seat with that epoch.
//! - `buri:due` and `buri:seats`, sorted sets of the clients that have a seat: by when it runs out, and by id.
//! - `buri:sweep`, `buri:lease:KEY`, `buri:pair:ID:ID`, `buri:ping`.
//!
//! What is in there is hostile until it was checked (anybody who reaches Redis could have written it): numbers, lengths and
//! types are looked at in the scripts, before the value leaves Redis. Garbage counts as absent and is written over.
//!
//! A gateway's user needs the commands of the scripts on `buri:*` and no others: `EVALSHA SCRIPT|LOAD TIME TYPE DEL SET GET
//! GETRANGE PTTL PEXPIRE HMGET HSET HDEL ZADD ZREM ZRANGEBYSCORE ZRANGEBYLEX`.

mod link;
mod scripts;

use std::time::Duration;

use ::redis::ToRedisArgs;
use domain::{ClientId, Epoch, NatProfile, RelayTrips, SessionTag, UnixMillis};

use self::{link::Link, scripts::Script};
use crate::{
    Error, Lost, Page, Renewal, Seat, Up,
    limits::MAX_RECORD_BYTES,
    record::{Pair, encoded},
};

/// Sessions renewed, or clients looked for, by one run of a script: Redis serves nobody else meanwhile.
const AT_ONCE: usize = 256;
/// Seats swept by one run of a script.
const SWEPT_AT_ONCE: usize = 1_000;

/// Presence in a Redis server. Clones share a connection.
#[derive(Clone, Debug)]
pub struct Redis {
    link: Link,
}

impl Redis {
    pub(crate) async fn connect(url: &str) -> Result<Self, Error> {
        Ok(Self { link: Link::connect(url).await? })
    }

    pub(crate) async fn ping(&self) -> Result<(), Error> {
        let mut write = ::redis::cmd("SET");
        write.arg(self.link.key("ping")).arg(1).arg("PX").arg(1_000);
        self.link.ask(&write).await
    }

    pub(crate) async fn up(&self, seat: Seat, ttl: Duration) -> Result<Up, Error> {
        let mut run = self.link.script(Script::Up);
        run.arg(Text(seat.client)).arg(seat.gateway.as_bytes()).arg(&seat.tag.0);
        run.arg(seat.epoch.0).arg(seat.since.0).arg(millis(ttl));
        let (epoch, replaced): (u64, Option<Row>) = self.link.run(&run).await?;
        Ok(Up { epoch: Epoch(epoch), replaced: replaced.and_then(seat_of) })
    }

    pub(crate) async fn renew(&self, seats: &[Seat], ttl: Duration) -> Result<Vec<Renewal>, Error> {
        let mut renewals = Vec::with_capacity(seats.len());
        for some in seats.chunks(AT_ONCE) {
            let mut run = self.link.script(Script::Renew);
            run.arg(millis(ttl));
            for seat in some {
                run.arg(Text(seat.client)).arg(seat.gateway.as_bytes()).arg(&seat.tag.0);
                run.arg(seat.epoch.0).arg(seat.since.0);
            }
            let found: Vec<u8> = self.link.run(&run).await?;
            renewals.extend(found.into_iter().map(renewal_of));
        }
        Ok(renewals)
    }

    pub(crate) async fn down(&self, client: ClientId, epoch: Epoch) -> Result<bool, Error> {
        let mut run = self.link.script(Script::Down);
        self.link.run(run.arg(Text(client)).arg(epoch.0)).await
    }

    pub(crate) async fn find(&self, clients: &[ClientId]) -> Result<Vec<Option<Seat>>, Error> {
        let mut seats = Vec::with_capacity(clients.len());
        for some in clients.chunks(AT_ONCE) {
            let mut run = self.link.script(Script::Find);
            for &client in some {
                run.arg(Text(client));
            }
            let found: Vec<Option<Row>> = self.link.run(&run).await?;
            seats.extend(found.into_iter().map(|row| row.and_then(seat_of)));
        }
        Ok(seats)
    }

    pub(crate) async fn report(&self, client: ClientId, epoch: Epoch, profile: NatProfile) -> Result<bool, Error> {
        let mut run = self.link.script(Script::Report);
        self.link.run(run.arg(Text(client)).arg(epoch.0).arg(encoded(&profile))).await
    }

    pub(crate) async fn measured(&self, client: ClientId, epoch: Epoch, trips: RelayTrips) -> Result<bool, Error> {
        let mut run = self.link.script(Script::Measured);
        self.link.run(run.arg(Text(client)).arg(epoch.0).arg(encoded(&trips))).await
    }

    pub(crate) async fn sweep(&self, limit: usize) -> Result<Vec<Lost>, Error> {
        let mut run = self.link.script(Script::Sweep);
        let lost: Vec<(String, u64)> = self.link.run_once(run.arg(limit.min(SWEPT_AT_ONCE))).await?;
        let lost = lost.into_iter().filter_map(|(client, epoch)| Some((client.parse().ok()?, Epoch(epoch))));
        Ok(lost.map(|(client, epoch)| Lost { client, epoch }).collect())
    }

    pub(crate) async fn lease(&self, key: &str, holder: u64, ttl: Duration) -> Result<bool, Error> {
        let mut run = self.link.script(Script::Lease);
        self.link.run(run.key(self.link.key(&format!("lease:{key}"))).arg(holder).arg(millis(ttl))).await
    }

    pub(crate) async fn release(&self, key: &str, holder: u64) -> Result<(), Error> {
        let mut run = self.link.script(Script::Release);
        self.link.run(run.key(self.link.key(&format!("lease:{key}"))).arg(holder)).await
    }

    pub(crate) async fn remember(&self, pair: Pair, record: Vec<u8>, ttl: Duration) -> Result<(), Error> {
        let mut write = ::redis::cmd("SET");
        write.arg(self.record_key(pair)).arg(record).arg("PX").arg(millis(ttl));
        self.link.ask(&write).await
    }

    pub(crate) async fn recall(&self, pair: Pair) -> Result<Option<Vec<u8>>, Error> {
        // One byte more than any record has: what is that long is none.
        let mut read = ::redis::cmd("GETRANGE");
        read.arg(self.record_key(pair)).arg(0).arg(MAX_RECORD_BYTES);
        let record: Option<Vec<u8>> = self.link.ask_for_string(&read).await?;
        Ok(record.filter(|record| (1..=MAX_RECORD_BYTES).contains(&record.len())))
    }

    pub(crate) async fn sessions(&self, after: Option<ClientId>, limit: u16) -> Result<Page, Error> {
        let mut run = self.link.script(Script::Sessions);
        let from = after.map_or_else(|| "-".to_owned(), |client| format!("({client}"));
        let rows: Vec<Row> = self.link.run(run.arg(from).arg(usize::from(limit) + 1)).await?;
        let mut seats: Vec<_> = rows.into_iter().filter_map(seat_of).collect();
        let more = seats.len() > usize::from(limit);
        seats.truncate(usize::from(limit));
        Ok(Page { seats, more })
    }

    fn record_key(&self, (a, b): Pair) -> String {
        self.link.key(&format!("pair:{a}:{b}"))
    }
}

/// A seat as the scripts tell it: client, epoch, gateway, tag, since, profile, round trips to relays.
type Row = (String, u64, Vec<u8>, Vec<u8>, u64, Option<Vec<u8>>, Option<Vec<u8>>);

/// `None` for what no gateway has written.
fn seat_of((client, epoch, gateway, tag, since, profile, trips): Row) -> Option<Seat> {
    Some(Seat {
        client: client.parse().ok()?,
        gateway: gateway.as_slice().try_into().ok()?,
        epoch: Epoch(epoch),
        tag: SessionTag(tag.try_into().ok()?),
        since: UnixMillis(since),
        profile: profile.and_then(|profile| minicbor::decode(&profile).ok()),
        trips: trips.and_then(|trips| minicbor::decode(&trips).ok()).unwrap_or_default(),
    })
}

/// The numbers are those of `scripts/renew.lua`.
const fn renewal_of(number: u8) -> Renewal {
    match number {
        0 => Renewal::Kept,
        1 => Renewal::Replaced,
        3 => Renewal::Rebuilt,
        _ => Renewal::Ended,
    }
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The client as keys and scripts write it.
struct Text(ClientId);

impl ToRedisArgs for Text {
    fn write_redis_args<W: ?Sized + ::redis::RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self.0);
    }
}
