-- ARGV: clients.
local rows = {}
for i = 2, #ARGV do
  rows[#rows + 1] = row(ARGV[i], read(ARGV[i]))
end
return rows
