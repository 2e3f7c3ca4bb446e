-- heartbeat v1: renew the leases of a worker's open calls, and raise holds that they outgrew.
--
-- KEYS  1 clock  2 leases, then for each call: call, task, ancestors...
-- ARGV  1 now_ms or ''   2 lease_ms, then for each call: id, number of its keys, tokens seen so far,
--       nano_usd of them
-- Returns the ids of calls that are over: their task or an ancestor is tripped or killed. Never
-- refuses: what was used was used.

local now = clock(KEYS[1], ARGV[1])
local over, key = {}, 3

local function raise(first, last, phase, dimension, more)
  for i = first, last do
    redis.call('HINCRBY', KEYS[i], dimension .. '.H', int(more))
  end
  if phase ~= '' then
    redis.call('HINCRBY', KEYS[first], phase .. '.' .. dimension .. '.H', int(more))
  end
end

-- A call that goes on by grace (lua/grace.lua) is over with a kill only.
local function is_over(call, first, last)
  for i = first, last do
    local is = redis.call('HMGET', KEYS[i], 'trip', 'state')
    if is[2] == 'killed' or is[1] and redis.call('HEXISTS', call, 'grace') == 0 then
      return true
    end
  end
  return false
end

for arg = 3, #ARGV, 4 do
  local id, last = ARGV[arg], key + num(ARGV[arg + 1]) - 1
  local call = read_call(KEYS[key])
  if call.state == 'held' then
    redis.call('ZADD', KEYS[2], now + num(ARGV[2]), id)
    for offset, dimension in ipairs({'tokens', 'nano_usd'}) do
      local more = amount(ARGV[arg + 1 + offset]) - call[dimension]
      if more > 0 then
        raise(key + 1, last, call.phase, dimension, more)
        redis.call('HINCRBY', KEYS[key], dimension, int(more))
      end
    end
  end
  if is_over(KEYS[key], key + 1, last) then
    over[#over + 1] = id
  end
  key = last + 1
end
return over
