-- ARGV: ttl, then for each session client, gateway, tag, epoch, since.
local KEPT, REPLACED, ENDED, REBUILT = 0, 1, 2, 3

local function renew(client, gateway, tag, epoch, since, ttl)
  local standing = read(client)
  if not epoch or epoch < standing.highest then return REPLACED end
  if epoch > standing.highest then
    write(client, { highest = epoch, gateway = gateway, tag = tag, since = since })
    list(client, ttl)
    return REBUILT
  elseif not standing.gateway then
    return ENDED
  elseif standing.gateway ~= gateway or standing.tag ~= tag then
    return REPLACED
  else
    redis.call('PEXPIRE', prefix .. client, RETENTION)
  end
  list(client, ttl)
  return KEPT
end

local ttl, results = number(ARGV[2]), {}
for i = 3, #ARGV, 5 do
  results[#results + 1] = renew(ARGV[i], ARGV[i + 1], ARGV[i + 2], number(ARGV[i + 3]), number(ARGV[i + 4]), ttl)
end
return results
