-- expire v1: charge a call whose lease ran out at what it held; a late settle corrects it.
--
-- KEYS  1 clock  2 call  3 leases  4 task index  5 ledger stream  6 task
--       7.. ancestors, nearest first
-- ARGV  1 call id   2 now_ms or ''   3 tombstone_ms
-- Returns {'expired', tokens, nano_usd}, or {'not_due'} if the lease was renewed or is gone.

local now = clock(KEYS[1], ARGV[2])
local lease = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not lease or num(lease) > now then
  return {'not_due'}
end
local call = read_call(KEYS[2])
if call.state ~= 'held' then
  redis.call('ZREM', KEYS[3], ARGV[1])
  return {'not_due'}
end
local amount = {tokens = call.tokens, nano_usd = call.nano_usd, calls = 1}
local _, _, waits = post_everywhere(6, call.phase, call.exec, now, true, amount, amount)
post_limits(call, KEYS[6], now, amount, amount)
redis.call('HINCRBY', KEYS[6], 'expired.calls', 1)
redis.call('HINCRBY', KEYS[6], 'expired.tokens', int(call.tokens))
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[2], 'state', 'expired')
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('XADD', KEYS[STREAM], '*', with_more({
  'e', call_words('expired', ARGV[1], now, int(NUMBER), call, call.phase, call.exec,
    call.words, call.words, waits),
  'a', cjson.encode({call.model})}, call.windows, redis.call('HGET', KEYS[6], 'generation') or nil))
return {'expired', int(call.tokens), int(call.nano_usd)}
