-- KEYS: the lease. ARGV: holder, ttl.
local lease, holder, ttl = KEYS[4], ARGV[2], ARGV[3]
local rest = redis.call('PTTL', lease)
-- What never ends is none of ours.
if redis.call('TYPE', lease).ok == 'string' and rest >= 0 and rest <= RETENTION then
  if redis.call('GET', lease) ~= holder then return 0 end
end
redis.call('DEL', lease)
redis.call('SET', lease, holder, 'PX', ttl)
return 1
