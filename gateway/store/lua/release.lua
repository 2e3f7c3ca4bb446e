-- release v1: give a call's hold back; nothing of it was sent to the provider.
--
-- KEYS  1 clock  2 call  3 leases  4 task index  5 ledger stream  6 task
--       7.. ancestors, nearest first
-- ARGV  1 call id   2 now_ms or ''   3 tombstone_ms   4 about, 5 outcome: JSON for the ledger
-- Returns {'released'}, or {'duplicate'} if the call was settled or released before.
--
-- An unknown call gets its tombstone, so that a reserve which is still on its way holds nothing; the
-- ledger is not told of it, because nothing was decided. A call that expired was charged its hold:
-- that is taken back.

local now = clock(KEYS[1], ARGV[2])
local call = read_call(KEYS[2])
local nothing = {tokens = 0, nano_usd = 0, calls = 0}
local _, waits
if call.state == 'held' then
  local held = {tokens = call.tokens, nano_usd = call.nano_usd, calls = 1}
  _, _, waits = post_everywhere(6, call.phase, call.exec, now, true, held, nothing)
  forget_call(KEYS[2], KEYS[6])
  give_back_grace(KEYS[2])
  post_limits(call, KEYS[6], now, held, nothing)
elseif call.state == 'expired' then
  local back = {tokens = -call.tokens, nano_usd = -call.nano_usd, calls = -1}
  _, _, waits = post_everywhere(6, call.phase, call.exec, now, false, nothing, back)
  post_limits(call, KEYS[6], now, nothing, back)
elseif call.state ~= 'unknown' then
  return {'duplicate'}
end
uncount_in_rate(KEYS[6], call)
bury(KEYS[2], KEYS[3], ARGV[1], 'released', ARGV[3])
if waits then
  redis.call('XADD', KEYS[STREAM], '*', with_more({
    'e', call_words('released', ARGV[1], now, int(NUMBER), call, call.phase, call.exec,
      {tokens = '0', nano_usd = '0'}, call.words, waits),
    'a', ARGV[4], 'o', ARGV[5]}, call.windows, redis.call('HGET', KEYS[6], 'generation') or nil))
end
return {'released'}
