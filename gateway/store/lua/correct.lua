-- correct v1: mend what a call was charged, by hand.
--
-- KEYS  1 clock  2 call  3 leases  4 task index  5 ledger stream  6 task
--       7.. ancestors, nearest first
-- ARGV  1 call id   2 now_ms or ''   3 tombstone_ms
--       4 number of the act that made the charge, as the ledger has it   5 phase, 6 execution of it
--       7 tokens, 8 nano_usd charged so far   9, 10 to be charged: '-' = no price is known
--      11 1 if the charge is counted as estimated   12 1 if as one that would have been refused
--      13 the act as JSON for the ledger's audit
-- Returns {'open'} | {'absent'}: its task is not there | {'behind'}: the ledger lacks a later act
--         | {'unchanged'} | {'corrected'}
--
-- The difference is posted where the charge was: task, ancestors, phase, execution, and windows of
-- spend limits for as long as the call is known. That may end a trip, and never makes one. What comes later for the call (a settlement that was journalled, an
-- answer in the background) changes nothing any more.

local now = clock(KEYS[1], ARGV[2])
local is = redis.call('HMGET', KEYS[2], 'state', 'act')
if is[1] == 'held' then
  return {'open'}
elseif is[1] == 'released' or num(is[2]) > num(ARGV[4]) then
  return {'behind'}
elseif redis.call('EXISTS', KEYS[6]) == 0 then
  return {'absent'}
elseif ARGV[7] == ARGV[9] and ARGV[8] == ARGV[10] then
  return {'unchanged'}
end

local phase, execution = ARGV[5], ARGV[6]
local nothing = {tokens = 0, nano_usd = 0, calls = 0}
local more = {
  tokens = amount(ARGV[9]) - amount(ARGV[7]),
  nano_usd = amount(ARGV[10]) - amount(ARGV[8]),
  calls = 0,
}
for i = 6, #KEYS do
  post(KEYS[i], '', now, false, nothing, more)
end
if phase ~= '' then
  post(KEYS[6], phase .. '.', now, false, nothing, more)
  redis.call('HINCRBY', KEYS[6], 'x.' .. phase .. '.' .. execution .. '.tokens', int(more.tokens))
end
post_limits(read_call(KEYS[2]), KEYS[6], now, nothing, more)
for name, flag in pairs({estimated = ARGV[11], would_refuse = ARGV[12]}) do
  if flag == '1' then
    redis.call('HINCRBY', KEYS[6], name .. '.tokens', int(more.tokens))
  end
end
for i = 6, #KEYS do
  end_trip_if_freed(KEYS[i], now)
end

redis.call('HSET', KEYS[2], 'state', 'corrected', 'act', int(NUMBER), 'phase', phase,
  'exec', execution, 'tokens', int(amount(ARGV[9])), 'nano_usd', int(amount(ARGV[10])))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('XADD', KEYS[STREAM], '*', with_more({
  'e', table.concat({'corrected', int(now), behind_prefix(KEYS[6]), ARGV[1], int(NUMBER),
    int(amount(ARGV[9])), ARGV[10] == '-' and '-' or int(amount(ARGV[10]))}, ' '),
  'd', ARGV[13]}))
return {'corrected'}
