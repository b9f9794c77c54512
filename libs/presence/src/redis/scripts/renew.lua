-- ARGV: ttl, then for each session client, gateway, tag, epoch, since.
local KEPT, REBUILT, REVIVED, REPLACED = 0, 1, 2, 3

local function renew(client, gateway, tag, epoch, since, ttl)
  local standing = read(client)
  if not epoch or epoch < standing.highest then return REPLACED end
  local result = REBUILT
  if epoch == standing.highest then
    if standing.gateway == gateway and standing.tag == tag then
      result = KEPT
    elseif standing.lapsed then
      result = REVIVED
    else
      return REPLACED
    end
  end
  if result == KEPT then
    redis.call('PEXPIRE', prefix .. client, RETENTION)
  else
    write(client, { highest = epoch, gateway = gateway, tag = tag, since = since })
  end
  list(client, ttl)
  return result
end

local ttl, results = number(ARGV[2]), {}
for i = 3, #ARGV, 5 do
  results[#results + 1] = renew(ARGV[i], ARGV[i + 1], ARGV[i + 2], number(ARGV[i + 3]), number(ARGV[i + 4]), ttl)
end
return results
