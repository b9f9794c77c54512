-- KEYS: the lease. ARGV: holder.
if redis.pcall('GET', KEYS[4]) == ARGV[2] then redis.call('DEL', KEYS[4]) end
return false
