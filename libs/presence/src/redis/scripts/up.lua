-- ARGV: client, gateway, tag, least epoch, since, ttl.
local client, gateway, tag = ARGV[2], ARGV[3], ARGV[4]
local before = read(client)
local highest, replaced = before.highest, false
if before.gateway ~= gateway or before.tag ~= tag then
  highest, replaced = math.max(before.highest + 1, number(ARGV[5])), row(client, before)
  write(client, { highest = highest, gateway = gateway, tag = tag, since = number(ARGV[6]) })
end
list(client, number(ARGV[7]))
return { text(highest), replaced }
