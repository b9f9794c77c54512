-- KEYS: the lease. ARGV: holder, ttl.
local lease = KEYS[4]
local rest = redis.call('PTTL', lease)
if redis.call('TYPE', lease).ok ~= 'string' or rest < 0 or rest > RETENTION then redis.call('DEL', lease) end
if redis.call('SET', lease, ARGV[2], 'NX', 'PX', ARGV[3]) then return 1 end
return 0
