-- ARGV: how many.
local marks = ask('HMGET', sweep, 'last', 'respite')
local last, respite = number(marks[1]), number(marks[2]) or 0
if last and now - last > SWEEP_GAP then respite = now + RESPITE end
put('HSET', sweep, 'last', text(now), 'respite', text(respite))
redis.call('PEXPIRE', sweep, RETENTION)
-- Nobody grants a longer respite than RESPITE.
if now < respite and respite - now <= RESPITE then return {} end

local lost = {}
for _, client in ipairs(ask('ZRANGEBYSCORE', due, '-inf', text(now), 'LIMIT', 0, number(ARGV[2]))) do
  unlist(client)
  local standing = is_client(client) and read(client)
  if standing and standing.gateway then
    write(client, { highest = standing.highest })
    lost[#lost + 1] = { client, text(standing.highest) }
  end
end
return lost
