-- remember v1: leave the tombstones of calls that the ledger knows, where the store has lost them,
-- so that what comes late for one of them is not charged a second time.
--
-- KEYS  1.. calls
-- ARGV  1 tombstone_ms, then for each call: state, phase, execution, tokens, nano_usd,
--       windows of spend limits that it counts in
-- Returns the number of tombstones left

local left, arg = 0, 2
for i = 1, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    redis.call('HSET', KEYS[i], 'state', ARGV[arg], 'phase', ARGV[arg + 1], 'exec', ARGV[arg + 2],
      'tokens', ARGV[arg + 3], 'nano_usd', ARGV[arg + 4])
    if ARGV[arg + 5] ~= '' then
      redis.call('HSET', KEYS[i], 'windows', ARGV[arg + 5])
    end
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
    left = left + 1
  end
  arg = arg + 6
end
return left
