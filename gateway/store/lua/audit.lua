-- audit v1: read tasks as they stand at one moment, to be compared with the ledger.
--
-- KEYS  1 clock  2 ledger stream  3.. tasks
-- ARGV  none
-- Returns {number of the latest act, id of the stream's latest entry, {field, value, ...} of each task}

local info = redis.pcall('XINFO', 'STREAM', KEYS[2])
local last = '0-0'
for i = 1, info.err and 0 or #info, 2 do
  if info[i] == 'last-generated-id' then
    last = info[i + 1]
  end
end
local number = redis.call('GET', KEYS[1])
if not number then  -- the data was lost, and nothing was done since
  local time = redis.call('TIME')
  number = int(time[1] * 1000000 + time[2] - 1)
end
local out = {number, last}
for i = 3, #KEYS do
  out[#out + 1] = redis.call('HGETALL', KEYS[i])
end
return out
