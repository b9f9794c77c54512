-- ARGV: client, epoch, profile.
local standing = read(ARGV[2])
if not standing.gateway or standing.highest ~= number(ARGV[3]) then return 0 end
redis.call('HSET', prefix .. ARGV[2], 'profile', ARGV[4])
return 1
