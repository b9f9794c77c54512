-- ARGV: where from, how many.
local from, wanted, rows = ARGV[2], number(ARGV[3]), {}
-- Members without a seat are dropped on the way, in a bounded number of steps.
for _ = 1, 8 do
  local missing = wanted - #rows
  local members = ask('ZRANGEBYLEX', seats, from, '+', 'LIMIT', 0, missing)
  for _, client in ipairs(members) do
    local seat = is_client(client) and row(client, read(client))
    if seat then rows[#rows + 1] = seat else redis.call('ZREM', seats, client) end
    from = '(' .. client
  end
  if #rows == wanted or #members < missing then break end
end
return rows
