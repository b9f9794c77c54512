-- Comes before every script. KEYS: due, seats, sweep, and what the script has. ARGV: the prefix of clients' keys, and what
-- the script has.
local due, seats, sweep, prefix = KEYS[1], KEYS[2], KEYS[3], ARGV[1]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- The number that a text of ours means, if it is one. Numbers are exact below 2^53.
local function number(text)
  if type(text) ~= 'string' or #text > 16 or not string.find(text, '^%d+$') then return nil end
  local value = tonumber(text)
  if value > 9007199254740990 then return nil end
  return value
end

local function text(value)
  return string.format('%.0f', value)
end

-- Runs a command that a key of another type makes fail, and then once more without that key.
local function put(command, key, ...)
  local done = redis.pcall(command, key, ...)
  if type(done) == 'table' and done.err then
    redis.call('DEL', key)
    redis.call(command, key, ...)
  end
end

-- Runs a command that reads; nothing when the key has another type.
local function ask(command, key, ...)
  local found = redis.pcall(command, key, ...)
  if type(found) == 'table' and found.err then
    redis.call('DEL', key)
    return {}
  end
  return found
end

-- What is known of a client: highest is 0 for nothing, gateway is there when somebody has the seat. A seat that cannot be
-- read is no tombstone: whoever has it may renew it.
local function read(client)
  local f = ask('HMGET', prefix .. client, 'highest', 'gateway', 'tag', 'since', 'profile', 'trips')
  local standing = { highest = number(f[1]) or 0 }
  if standing.highest == 0 or not f[2] then return standing end
  local since = number(f[4])
  if #f[2] == 16 and f[3] and #f[3] == 16 and since then
    standing.gateway, standing.tag, standing.since = f[2], f[3], since
    standing.profile = f[5] and #f[5] <= 64 and f[5]
    standing.trips = f[6] and #f[6] <= 256 and f[6]
    return standing
  end
  return { highest = 0 }
end

-- Replaces what is known of a client.
local function write(client, standing)
  local key = prefix .. client
  redis.call('DEL', key)
  redis.call('HSET', key, 'highest', text(standing.highest))
  if standing.gateway then
    redis.call('HSET', key, 'gateway', standing.gateway, 'tag', standing.tag, 'since', text(standing.since))
    if standing.profile then redis.call('HSET', key, 'profile', standing.profile) end
    if standing.trips then redis.call('HSET', key, 'trips', standing.trips) end
  end
  redis.call('PEXPIRE', key, RETENTION)
end

-- The client has a seat for another ttl.
local function list(client, ttl)
  put('ZADD', due, text(now + ttl), client)
  put('ZADD', seats, 0, client)
  redis.call('PEXPIRE', due, RETENTION)
  redis.call('PEXPIRE', seats, RETENTION)
end

local function unlist(client)
  redis.pcall('ZREM', due, client)
  redis.pcall('ZREM', seats, client)
end

local function is_client(member)
  return #member == 32 and not string.find(member, '[^0-9a-f]')
end

-- The seat as Rust reads it, or nothing.
local function row(client, standing)
  if not standing.gateway then return false end
  return {
    client, text(standing.highest), standing.gateway, standing.tag, text(standing.since), standing.profile or false,
    standing.trips or false
  }
end

