-- heartbeat v1: renew the leases of a worker's open calls, and raise holds that they outgrew.
--
-- KEYS  1 clock  2 leases, then for each call: call, task, ancestors...
-- ARGV  1 now_ms or ''   2 lease_ms, then for each call: id, number of its keys, tokens seen so far,
--       nano_usd of them
-- Returns the ids of calls whose task is tripped or killed. Never refuses: what was used was used.

local now = clock(KEYS[1], ARGV[1])
local over, key = {}, 3

local function raise(first, last, phase, dimension, amount)
  for i = first, last do
    redis.call('HINCRBY', KEYS[i], dimension .. '.H', int(amount))
  end
  if phase ~= '' then
    redis.call('HINCRBY', KEYS[first], phase .. '.' .. dimension .. '.H', int(amount))
  end
end

for arg = 3, #ARGV, 4 do
  local id, count = ARGV[arg], num(ARGV[arg + 1])
  local call = read_call(KEYS[key])
  if call.state == 'held' then
    redis.call('ZADD', KEYS[2], 'XX', now + num(ARGV[2]), id)
    for offset, dimension in ipairs({'tokens', 'nano_usd'}) do
      local more = num(ARGV[arg + 1 + offset]) - call[dimension]
      if more > 0 then
        raise(key + 1, key + count - 1, call.phase, dimension, more)
        redis.call('HINCRBY', KEYS[key], dimension, int(more))
      end
    end
  end
  local stop = redis.call('HMGET', KEYS[key + 1], 'trip', 'state')
  if (stop[1] and stop[1] ~= '') or stop[2] == 'killed' then
    over[#over + 1] = id
  end
  key = key + count
end
return over
