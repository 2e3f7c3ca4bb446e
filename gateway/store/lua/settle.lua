-- settle v1: replace a call's hold by what it really used, once.
--
-- KEYS  1 clock  2 call  3 leases  4 task index  5 task  6.. ancestors, nearest first
-- ARGV  1 call id   2 now_ms or ''   3 tombstone_ms   4 facts
--       5 snapshot to create the task with if its reserve never arrived; '' = do not create
--       6 phase of the plan, used if the call is unknown
--       7 budget tokens   8 nano_usd   9 calls (1, or 0 if it never reached the provider)
--      10..14 raw counts: input, cached read, cache write, output, reasoning
--      15 1 if the counts are estimated   16 1 if the call would have been refused
--
-- Returns {'absent'}    the task is unknown and no snapshot was given
--         {'duplicate'} the call was settled or released before
--         {'settled', tokens before, tokens after, L of the task, G of the task}
--
-- Legal for an unknown call: it is charged and leaves a tombstone that makes a late reserve a no-op.
-- A call that expired was charged its hold: the difference is posted.

local now = clock(KEYS[1], ARGV[2])
local call = read_call(KEYS[2])
if call.state == 'settled' or call.state == 'released' then
  return {'duplicate'}
end
if redis.call('HEXISTS', KEYS[5], 'facts') == 0 then
  if ARGV[5] == '' then
    return {'absent'}
  end
  redis.call('HSET', KEYS[5], 'created', int(now), unpack(cjson.decode(ARGV[5])))
  if ARGV[4] ~= 'untagged' then
    redis.call('ZADD', KEYS[4], now, string.match(KEYS[5], '[^:]*$'))
  end
end

local used = {tokens = num(ARGV[7]), nano_usd = num(ARGV[8]), calls = num(ARGV[9])}
local held = {tokens = 0, nano_usd = 0, calls = 0}
local phase, execution = call.phase, call.exec
if call.state == 'held' then
  held = {tokens = call.tokens, nano_usd = call.nano_usd, calls = 1}
elseif call.state == 'expired' then
  used = {tokens = used.tokens - call.tokens, nano_usd = used.nano_usd - call.nano_usd,
          calls = used.calls - 1}
else
  phase = ARGV[6]
  if phase ~= '' then
    execution = int(math.max(1, num(redis.call('HGET', KEYS[5], phase .. '.exec'))))
    redis.call('HSET', KEYS[5], phase .. '.exec', execution)
  end
end

local before, after =
  post_everywhere(5, phase, execution, now, call.state == 'held', held, used)
for i = 5, #KEYS do
  end_trip_if_freed(KEYS[i])
end
for i, name in ipairs({'input', 'cached_read', 'cache_write', 'output', 'reasoning'}) do
  if ARGV[9 + i] ~= '0' then
    redis.call('HINCRBY', KEYS[5], 'raw.' .. name, ARGV[9 + i])
  end
end
if ARGV[15] == '1' then
  redis.call('HINCRBY', KEYS[5], 'estimated.calls', 1)
  redis.call('HINCRBY', KEYS[5], 'estimated.tokens', ARGV[7])
end
if ARGV[16] == '1' then
  redis.call('HINCRBY', KEYS[5], 'would_refuse.calls', 1)
  redis.call('HINCRBY', KEYS[5], 'would_refuse.tokens', ARGV[7])
end
bury(KEYS[2], KEYS[3], ARGV[1], 'settled', ARGV[3])
local limit = redis.call('HMGET', KEYS[5], 'tokens.L', 'tokens.G')
return {'settled', int(before), int(after), limit[1] or '0', limit[2] or '0'}
