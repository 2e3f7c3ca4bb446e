-- settle v1: replace a call's hold by what it really used, once.
--
-- KEYS  1 clock  2 call  3 leases  4 task index  5 ledger stream  6 task
--       7.. ancestors, nearest first
-- ARGV  1 call id   2 now_ms or ''   3 tombstone_ms   4 facts
--       5 snapshot to create the task with if its reserve never arrived; '' = do not create
--       6 phase of the plan, used if the call is unknown
--       7 budget tokens   8 nano_usd   9 calls (1, or 0 if it never reached the provider)
--      10..14 raw counts: input, cached read, cache write, output, reasoning
--      15 1 if the counts are estimated   16 1 if the call would have been refused
--      17 about, 18 outcome: JSON for the ledger
--      19 1 if the answer is still to come: what is charged now is provisional
--      20 fewer output tokens than this are little (lua/loop.lua); '' = nobody asks
--      21 windows of spend limits (lua/limits.lua), 22 the span of the task's velocity in ms, '' = none:
--         both used if the call is unknown
--
-- Returns {'absent'}    the task is unknown and no snapshot was given
--         {'window', now_ms}  one of the windows is not that of now: name them anew
--         {'duplicate'} the call was settled or released before
--         {'settled', tokens before, tokens after, L of the task, G of the task, latency in ms that is
--                     more than a day, and was taken for none (EC8); 0 = there was none}
--
-- Legal for an unknown call: it is charged and leaves a tombstone that makes a late reserve a no-op.
-- A call that expired was charged its hold: the difference is posted. So it is after a provisional
-- charge (an answer in the background), which is then no longer counted as estimated.
-- A charge that was mended by hand (correct.lua) stays.

local RAW = {'input', 'cached_read', 'cache_write', 'output', 'reasoning'}

local now = clock(KEYS[1], ARGV[2])
local call = read_call(KEYS[2])
local is_provisional = ARGV[19] == '1'
if call.state == 'settled' or call.state == 'released' or call.state == 'corrected'
    or (call.state == 'provisional' and is_provisional) then
  return {'duplicate'}
end

local windows = {}
if call.state == 'unknown' then
  windows = read_windows(ARGV[21], now)
  if not windows then
    return {'window', int(now)}
  end
end

local function read_task()
  return redis.call('HMGET', KEYS[6], 'facts', 'tokens.L', 'tokens.G', 'generation')
end

local task = read_task()
if not task[1] then
  if ARGV[5] == '' then
    return {'absent'}
  end
  create_task(KEYS[6], KEYS[4], now, ARGV[4], ARGV[5])
  task = read_task()
end

local tokens, nano_usd, calls = amount(ARGV[7]), amount(ARGV[8]), amount(ARGV[9])
local used = {tokens = tokens, nano_usd = nano_usd, calls = calls}
local held = {tokens = 0, nano_usd = 0, calls = 0}
local phase, execution = call.phase, call.exec
if call.state == 'held' then
  held = {tokens = call.tokens, nano_usd = call.nano_usd, calls = 1}
elseif call.state == 'expired' or call.state == 'provisional' then
  used = {tokens = tokens - call.tokens, nano_usd = nano_usd - call.nano_usd, calls = calls - 1}
elseif ARGV[6] ~= '' then  -- unknown
  phase, execution = ARGV[6], redis.call('HGET', KEYS[6], ARGV[6] .. '.exec')
  if not execution then
    execution = '1'
    redis.call('HSET', KEYS[6], phase .. '.exec', execution)
    tell_of_execution(KEYS[6], now, phase, execution)
  end
end

if call.state == 'provisional' then
  local flags = {'estimated'}
  if redis.call('HGET', KEYS[2], 'would_refuse') == '1' then
    flags[2] = 'would_refuse'
  end
  for _, name in ipairs(flags) do
    redis.call('HINCRBY', KEYS[6], name .. '.calls', -1)
    redis.call('HINCRBY', KEYS[6], name .. '.tokens', int(0 - call.tokens))
  end
  for i, name in ipairs(RAW) do
    local charged = num(redis.call('HGET', KEYS[2], name))
    if charged > 0 then
      redis.call('HINCRBY', KEYS[6], 'raw.' .. name, int(-charged))
    end
  end
end

local before, after, waits = post_everywhere(6, phase, execution, now, call.state == 'held', held, used)
if #windows > 0 then
  call.windows = hold_in_windows(windows, now, 0, 0, 0)
end
if call.state == 'unknown' and ARGV[22] ~= '' then
  call.rate_ms = ARGV[22]
end
post_limits(call, KEYS[6], now, held, used)
for i, name in ipairs(RAW) do
  if ARGV[9 + i] ~= '0' then
    redis.call('HINCRBY', KEYS[6], 'raw.' .. name, int(amount(ARGV[9 + i])))
  end
end
if ARGV[20] ~= '' and call.state == 'held' then
  note_growth(KEYS[6], num(ARGV[10]) + num(ARGV[11]) + num(ARGV[12]), num(ARGV[13]), num(ARGV[20]))
end
for name, flag in pairs({estimated = ARGV[15], would_refuse = ARGV[16]}) do
  if flag == '1' then
    redis.call('HINCRBY', KEYS[6], name .. '.calls', 1)
    redis.call('HINCRBY', KEYS[6], name .. '.tokens', int(tokens))
  end
end
bury(KEYS[2], KEYS[3], ARGV[1], is_provisional and 'provisional' or 'settled', ARGV[3])
keep_limits(KEYS[2], call.windows, call.rate_ms)  -- for a correction
if is_provisional then
  redis.call('HSET', KEYS[2], 'phase', phase, 'exec', execution, 'number', call.number,
    'model', call.model, 'tokens', int(tokens), 'nano_usd', int(nano_usd),
    'would_refuse', ARGV[16])
  for i, name in ipairs(RAW) do
    redis.call('HSET', KEYS[2], name, int(amount(ARGV[9 + i])))
  end
end
if call.state == 'expired' or call.state == 'provisional' then
  redis.call('HSET', KEYS[2], 'act', int(NUMBER))  -- the ledger may still have the charge before
end
local charged = {tokens = int(tokens), nano_usd = int(nano_usd)}
redis.call('XADD', KEYS[STREAM], '*', with_more({
  'e', call_words('settled', ARGV[1], now, int(NUMBER), call, phase, execution, charged,
    call.words, waits),
  'a', ARGV[17], 'o', ARGV[18]}, call.windows, task[4] or nil))
return {'settled', int(before), int(after), task[2] or '0', task[3] or '0', int(LEFT_OUT)}
