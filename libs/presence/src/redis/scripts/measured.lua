-- ARGV: client, epoch, round trips to relays.
local standing = read(ARGV[2])
if not standing.gateway or standing.highest ~= number(ARGV[3]) then return 0 end
redis.call('HSET', prefix .. ARGV[2], 'trips', ARGV[4])
return 1
