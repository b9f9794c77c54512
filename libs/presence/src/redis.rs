//! Presence in Redis. What must be atomic is a Lua script; what one process writes, all see at once.
//!
//! | key | what |
//! |---|---|
//! | `seat:CLIENT` | hash: `g`ateway, `e`poch, `t`ag, `s`ince, `p`rofile; expires with the seat |
//! | `top:CLIENT` | the tombstone: the highest epoch heard of |
//! | `due` | sorted set of `CLIENT:EPOCH` by the instant the seat ends, by Redis's clock |
//! | `all` | sorted set of clients, for pages |
//! | `lease:KEY` | the holder |
//! | `pair:A:B` | the record, CBOR |
//!
//! A script names keys that it computes, so one Redis (with replicas) is meant, not a Redis Cluster. Keys of a wrong type
//! are deleted by the script that meets them.

use std::{sync::Arc, time::Duration};

use domain::{ClientId, Epoch, GatewayId, NatProfile, PairRecord, SessionTag, UnixMillis};
use redis::{
    AsyncCommands as _, FromRedisValue, Script, ScriptInvocation, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;

use crate::{DEADLINE, Error, Held, Lost, Page, Renewal, Seat, TOMBSTONE, Up, sorted};

/// Larger values are not ours.
const MAX_VALUE: usize = 4096;

const FIELDS: [&str; 5] = ["g", "e", "t", "s", "p"];

/// Presence in Redis.
#[derive(Clone)]
pub struct Redis {
    connection: ConnectionManager,
    scripts: Arc<Scripts>,
    prefix: Arc<str>,
}

struct Scripts {
    up: Script,
    renew: Script,
    down: Script,
    report: Script,
    sweep: Script,
    lease: Script,
    release: Script,
}

/// What every script begins with: its key prefix, Redis's clock, and reading that survives wrong types.
const PRELUDE: &str = r"
local P = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function number(n) return string.format('%.0f', n) end
local function safe(key, ...)
    local r = redis.pcall(...)
    if type(r) == 'table' and r.err then redis.call('DEL', key) return nil end
    return r
end
local function seat_of(client)
    local key = P .. 'seat:' .. client
    local s = safe(key, 'HMGET', key, 'g', 'e', 't', 's', 'p')
    if not s or not s[2] or not tonumber(s[2]) then return nil end
    return s
end
local function top_of(client)
    local key = P .. 'top:' .. client
    return tonumber(safe(key, 'GET', key) or nil)
end
local function raise(client, epoch, ttl)
    local top = top_of(client)
    if top and top > epoch then epoch = top end
    redis.call('SET', P .. 'top:' .. client, number(epoch), 'PX', ttl)
end
local function zadd(name, score, member)
    local key = P .. name
    if safe(key, 'ZADD', key, score, member) == nil then redis.call('ZADD', key, score, member) end
end
local function zrem(name, member)
    local key = P .. name
    safe(key, 'ZREM', key, member)
end
local function forget(client, epoch)
    redis.call('DEL', P .. 'seat:' .. client)
    zrem('due', client .. ':' .. number(epoch))
    zrem('all', client)
end
local function seat(client, g, e, t, s, p, ttl)
    local key = P .. 'seat:' .. client
    redis.call('DEL', key)
    redis.call('HSET', key, 'g', g, 'e', number(e), 't', t, 's', s, 'p', p)
    redis.call('PEXPIRE', key, ttl)
    zadd('due', number(now + ttl), client .. ':' .. number(e))
    zadd('all', '0', client)
end
";

const UP: &str = r"
local client, g, t, floor, since, ttl, tomb =
    ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local top = top_of(client)
local epoch = floor
if top and top + 1 > epoch then epoch = top + 1 end
local old = seat_of(client)
if old then forget(client, tonumber(old[2])) end
raise(client, epoch, tomb)
seat(client, g, epoch, t, since, '', ttl)
return { number(epoch), old or {} }
";

const RENEW: &str = r"
local g, ttl, tomb = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local out = {}
for i = 5, #ARGV, 4 do
    local client, epoch, t, since = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
    local s = seat_of(client)
    local current = s and tonumber(s[2])
    local verdict
    if current and current > epoch then
        verdict = 1
    elseif current == epoch then
        redis.call('PEXPIRE', P .. 'seat:' .. client, ttl)
        zadd('due', number(now + ttl), client .. ':' .. number(epoch))
        zadd('all', '0', client)
        raise(client, epoch, tomb)
        verdict = 0
    else
        local top = top_of(client)
        if top and top > epoch then
            verdict = 1
        elseif top == epoch then
            verdict = 2
        else
            if current then forget(client, current) end
            raise(client, epoch, tomb)
            seat(client, g, epoch, t, since, '', ttl)
            verdict = 0
        end
    end
    out[#out + 1] = verdict
end
return out
";

const DOWN: &str = r"
local client, epoch, tomb = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local top = top_of(client)
if top and epoch < top then return 0 end
raise(client, epoch, tomb)
local s = seat_of(client)
if not s then return 0 end
local current = tonumber(s[2])
forget(client, current)
return current == epoch and 1 or 0
";

const REPORT: &str = r"
local client, epoch, p = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local s = seat_of(client)
if not s or tonumber(s[2]) ~= epoch then return 0 end
redis.call('HSET', P .. 'seat:' .. client, 'p', p)
return 1
";

const SWEEP: &str = r"
local limit, tomb = tonumber(ARGV[2]), tonumber(ARGV[3])
local key = P .. 'due'
local over = safe(key, 'ZRANGEBYSCORE', key, '-inf', number(now), 'LIMIT', 0, limit) or {}
local out = {}
for _, member in ipairs(over) do
    redis.call('ZREM', key, member)
    local client, epoch = string.match(member, '^(%x+):(%d+)$')
    if client then
        epoch = tonumber(epoch)
        raise(client, epoch, tomb)
        local s = seat_of(client)
        if not s or tonumber(s[2]) <= epoch then
            forget(client, epoch)
            out[#out + 1] = member
        end
    end
end
return out
";

const LEASE: &str = r"
local key, holder, ttl = P .. 'lease:' .. ARGV[2], ARGV[3], ARGV[4]
local held = safe(key, 'GET', key)
if held and held ~= holder then return 0 end
redis.call('SET', key, holder, 'PX', ttl)
return 1
";

const RELEASE: &str = r"
local key, holder = P .. 'lease:' .. ARGV[2], ARGV[3]
if safe(key, 'GET', key) == holder then redis.call('DEL', key) end
return 1
";

impl Redis {
    /// Connects to `url`.
    ///
    /// # Errors
    /// [`Error::Url`], or that Redis does not answer in time.
    pub(crate) async fn connect(url: &str) -> Result<Self, Error> {
        let (url, prefix) = match url.split_once("?prefix=") {
            Some((url, prefix)) => (url, prefix),
            None => (url, "buri"),
        };
        let client = redis::Client::open(url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE))
            .set_max_delay(Duration::from_secs(1));
        let connection = timeout(3 * DEADLINE, ConnectionManager::new_with_config(client, config))
            .await
            .map_err(|_| Error::TimedOut)??;
        let script = |body: &str| Script::new(&format!("{PRELUDE}{body}"));
        let scripts = Scripts {
            up: script(UP),
            renew: script(RENEW),
            down: script(DOWN),
            report: script(REPORT),
            sweep: script(SWEEP),
            lease: script(LEASE),
            release: script(RELEASE),
        };
        Ok(Self { connection, scripts: Arc::new(scripts), prefix: format!("{prefix}:").into() })
    }

    pub(crate) async fn ping(&self) -> Result<(), Error> {
        let mut connection = self.connection.clone();
        within(async move { redis::cmd("PING").query_async::<()>(&mut connection).await }).await
    }

    pub(crate) async fn up(&self, wanted: Seat, ttl: Duration) -> Result<Up, Error> {
        let mut call = self.call(&self.scripts.up);
        call.arg(wanted.client.to_string())
            .arg(wanted.gateway.as_bytes())
            .arg(&wanted.tag.0)
            .arg(wanted.epoch.0)
            .arg(wanted.since.0)
            .arg(ms(ttl))
            .arg(ms(TOMBSTONE));
        let (epoch, old): (u64, Vec<Value>) = self.run(call).await?;
        Ok(Up { epoch: Epoch(epoch), replaced: seat(wanted.client, old) })
    }

    pub(crate) async fn renew(&self, gateway: GatewayId, held: &[Held], ttl: Duration) -> Result<Vec<Renewal>, Error> {
        let mut call = self.call(&self.scripts.renew);
        call.arg(gateway.as_bytes()).arg(ms(ttl)).arg(ms(TOMBSTONE));
        for held in held {
            call.arg(held.client.to_string()).arg(held.epoch.0).arg(&held.tag.0).arg(held.since.0);
        }
        let verdicts: Vec<u8> = self.run(call).await?;
        let renewal = |verdict| match verdict {
            0 => Renewal::Kept,
            1 => Renewal::Replaced,
            _ => Renewal::Ended,
        };
        Ok(verdicts.into_iter().map(renewal).collect())
    }

    pub(crate) async fn down(&self, client: ClientId, epoch: Epoch) -> Result<bool, Error> {
        let mut call = self.call(&self.scripts.down);
        call.arg(client.to_string()).arg(epoch.0).arg(ms(TOMBSTONE));
        self.run(call).await
    }

    pub(crate) async fn find(&self, clients: &[ClientId]) -> Result<Vec<Option<Seat>>, Error> {
        if clients.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for client in clients {
            pipe.cmd("HMGET").arg(self.key(&format!("seat:{client}"))).arg(&FIELDS);
        }
        // A key of a wrong type must not spoil the others' answers.
        pipe.ignore_errors();
        let mut connection = self.connection.clone();
        let found: Vec<Value> = within(async move { pipe.query_async(&mut connection).await }).await?;
        let seats = found.into_iter().zip(clients).map(|(value, &client)| {
            let Value::Array(fields) = value else { return None };
            seat(client, fields)
        });
        Ok(seats.collect())
    }

    pub(crate) async fn report(&self, client: ClientId, epoch: Epoch, profile: NatProfile) -> Result<bool, Error> {
        let mut call = self.call(&self.scripts.report);
        call.arg(client.to_string()).arg(epoch.0).arg(encoded(&profile));
        self.run(call).await
    }

    pub(crate) async fn sweep(&self, limit: usize) -> Result<Vec<Lost>, Error> {
        let mut call = self.call(&self.scripts.sweep);
        call.arg(limit).arg(ms(TOMBSTONE));
        let members: Vec<String> = self.run(call).await?;
        let lost = members.iter().filter_map(|member| {
            let (client, epoch) = member.split_once(':')?;
            Some(Lost { client: client.parse().ok()?, epoch: Epoch(epoch.parse().ok()?) })
        });
        Ok(lost.collect())
    }

    pub(crate) async fn lease(&self, key: &str, holder: u64, ttl: Duration) -> Result<bool, Error> {
        let mut call = self.call(&self.scripts.lease);
        call.arg(key).arg(holder).arg(ms(ttl));
        self.run(call).await
    }

    pub(crate) async fn release(&self, key: &str, holder: u64) -> Result<(), Error> {
        let mut call = self.call(&self.scripts.release);
        call.arg(key).arg(holder);
        self.run(call).await
    }

    pub(crate) async fn remember(&self, record: &PairRecord, ttl: Duration) -> Result<(), Error> {
        let (key, bytes) = (self.pair(record.a, record.b), encoded(record));
        let mut connection = self.connection.clone();
        within(async move { connection.pset_ex(key, bytes, ms(ttl)).await }).await
    }

    pub(crate) async fn recall(&self, a: ClientId, b: ClientId) -> Result<Option<PairRecord>, Error> {
        let mut connection = self.connection.clone();
        let key = self.pair(a, b);
        let value: Option<Vec<u8>> = match within(async move { connection.get(key).await }).await {
            Err(Error::Redis(error)) if error.code() == Some("WRONGTYPE") => None,
            other => other?,
        };
        Ok(value.filter(|bytes| bytes.len() <= MAX_VALUE).and_then(|bytes| minicbor::decode(&bytes).ok()))
    }

    pub(crate) async fn sessions(&self, after: Option<ClientId>, limit: usize) -> Result<Page, Error> {
        let mut connection = self.connection.clone();
        let key = self.key("all");
        let from = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        let names: Vec<String> = within(async move {
            connection.zrangebylex_limit(key, from, "+", 0, isize::try_from(limit + 1).unwrap_or(isize::MAX)).await
        })
        .await?;
        let more = names.len() > limit;
        let clients: Vec<ClientId> = names.iter().take(limit).filter_map(|name| name.parse().ok()).collect();
        let seats = self.find(&clients).await?.into_iter().flatten().collect();
        Ok(Page { seats, more })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn pair(&self, a: ClientId, b: ClientId) -> String {
        let (a, b) = sorted(a, b);
        self.key(&format!("pair:{a}:{b}"))
    }

    fn call<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        call.arg(&*self.prefix);
        call
    }

    async fn run<T: FromRedisValue>(&self, call: ScriptInvocation<'_>) -> Result<T, Error> {
        let mut connection = self.connection.clone();
        within(call.invoke_async(&mut connection)).await
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A reconnecting connection waits for its turn; nobody here waits longer than the deadline.
async fn within<T>(answer: impl Future<Output = redis::RedisResult<T>>) -> Result<T, Error> {
    Ok(timeout(DEADLINE, answer).await.map_err(|_| Error::TimedOut)??)
}

/// The seat in the fields of a hash; `None` when one is missing or broken.
fn seat(client: ClientId, fields: Vec<Value>) -> Option<Seat> {
    let fields: [Value; 5] = fields.try_into().ok()?;
    let [gateway, epoch, tag, since, profile] = fields.map(|field| {
        let Value::BulkString(bytes) = field else { return None };
        (bytes.len() <= MAX_VALUE).then_some(bytes)
    });
    Some(Seat {
        client,
        gateway: GatewayId::try_from(gateway?.as_slice()).ok()?,
        epoch: Epoch(decimal(&epoch?)?),
        tag: SessionTag(tag?.try_into().ok()?),
        since: UnixMillis(decimal(&since?)?),
        profile: profile.and_then(|bytes| minicbor::decode(&bytes).ok()),
    })
}

fn decimal(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn encoded(value: &impl minicbor::Encode<()>) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to a vector does not fail")
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
