-- ARGV: client, epoch.
local client, epoch = ARGV[2], number(ARGV[3])
local standing = read(client)
if epoch < standing.highest then return 0 end
write(client, { highest = epoch })
unlist(client)
return standing.gateway and 1 or 0
