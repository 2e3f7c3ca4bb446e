-- audit v1: read tasks as they stand at one moment, to be compared with the ledger.
--
-- KEYS  1 sequence  2 ledger stream  3.. tasks
-- ARGV  none
-- Returns {latest sequence number, id of the stream's latest entry, {field, value, ...} of each task}

local info = redis.pcall('XINFO', 'STREAM', KEYS[2])
local last = '0-0'
for i = 1, info.err and 0 or #info, 2 do
  if info[i] == 'last-generated-id' then
    last = info[i + 1]
  end
end
local number = redis.call('GET', KEYS[1])
if not number then  -- the data was lost: numbers will go on from the clock (shared.lua)
  local time = redis.call('TIME')
  number = int((time[1] * 1000 + math.floor(time[2] / 1000)) * 1000 - 1)
end
local out = {number, last}
for i = 3, #KEYS do
  out[#out + 1] = redis.call('HGETALL', KEYS[i])
end
return out
